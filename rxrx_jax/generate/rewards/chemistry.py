"""Objectives that RDKit computes of a molecule, each in [0, 1] and maximised, in processes and once for each molecule.

    qed   the quantitative estimate of drug-likeness (Bickerton et al. 2012)
    sa    (10 - SA) / 9 of the synthetic accessibility score, 1 easy to 10 hard (Ertl and Schuffenhauer 2009)
    mw    1 up to a molecular weight of 300 Da, then linear to 0 at 1,000 Da

The two terms are those of recursionpharma/gflownet (MIT).
"""

import concurrent.futures
import functools
import importlib.util
import multiprocessing
import pathlib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.rewards import checked, chosen
from rxrx_jax.molecules.chemistry import chem, quiet

LIGHT, HEAVY = 300.0, 1000.0  # Da
MOST_RESTARTS = 3  # in a row, before the molecules that workers die of are named
CHUNK = 8  # molecules that a worker takes at a time, at most


def drug_likeness(mol: Any) -> float:
    """QED of RDKit's molecule."""
    from rdkit.Chem import QED

    return QED.qed(mol)


@functools.cache
def _scorer() -> Any:
    """RDKit's module sascorer, which lies in its folder of contributions."""
    chem()
    from rdkit import RDConfig

    path = pathlib.Path(RDConfig.RDContribDir, "SA_Score", "sascorer.py")
    if not path.is_file():
        raise UserError(f"{path} is missing: this RDKit has no SA score; install the wheel of PyPI, or leave out sa")
    spec = importlib.util.spec_from_file_location("sascorer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def synthesisability(mol: Any) -> float:
    """(10 - SA) / 9 of RDKit's molecule."""
    return float(np.clip((10 - _scorer().calculateScore(mol)) / 9, 0, 1))


def weight_term(daltons: float) -> float:
    """1 up to 300 Da, 0 from 1,000 Da on, linear between."""
    return float(np.clip((HEAVY - daltons) / (HEAVY - LIGHT), 0, 1))


def lightness(mol: Any) -> float:
    """`weight_term` of the average molecular weight of RDKit's molecule."""
    from rdkit.Chem import Descriptors

    return weight_term(Descriptors.MolWt(mol))


OBJECTIVES: dict[str, Callable[[Any], float]] = {"qed": drug_likeness, "sa": synthesisability, "mw": lightness}


def canonical(smiles: str) -> str:
    """The canonical SMILES. Raises UserError, which names the SMILES, if RDKit cannot read it."""
    with quiet():
        mol = chem().MolFromSmiles(smiles)
    if mol is None or not mol.GetNumAtoms():
        raise UserError(f"invalid SMILES {smiles!r}: no reward can be computed of it")
    return chem().MolToSmiles(mol)


def compute(names: Sequence[str], smiles: Sequence[str]) -> np.ndarray:
    """Objectives of canonical SMILES, in this process: float64 [n, d]."""
    with quiet():
        molecules = [chem().MolFromSmiles(one) for one in smiles]
    found = [[OBJECTIVES[name](mol) for name in names] for mol in molecules]
    return np.array(found, np.float64).reshape(len(smiles), len(names))


class Rewards:
    """Objectives of molecules, computed once for each canonical SMILES; a context manager that ends its processes.

    Args:
      names: of OBJECTIVES.
      workers: processes; 0 computes in this one.

    Attributes:
      calls: molecules that were asked for.
      computed: those of them that were not known before.
      restarts: how often processes were started again since one was killed.

    Raises UserError for an unknown objective or a negative number of workers.
    """

    def __init__(self, names: Sequence[str] = tuple(OBJECTIVES), workers: int = 0):
        self.names = chosen(tuple(names), OBJECTIVES)
        if workers < 0:
            raise UserError(f"workers={workers}: use 0 for none, or more")
        chem()
        self.workers = workers
        self.calls = self.computed = self.restarts = 0
        self._canonical: dict[str, str] = {}
        self._known: dict[str, np.ndarray] = {}
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        """Objectives of SMILES, float64 [n, d]. Raises UserError, which names the SMILES, for an invalid one and for an
        objective that is not a number in [0, 1]."""
        for one in smiles:
            if one not in self._canonical:
                self._canonical[one] = canonical(one)
        wanted = [self._canonical[one] for one in smiles]
        new = list(dict.fromkeys(one for one in wanted if one not in self._known))
        values = self._compute(new) if self.workers and new else compute(self.names, new)
        checked(values, self.names, new.__getitem__)
        self._known.update(zip(new, values))
        self.calls, self.computed = self.calls + len(wanted), self.computed + len(new)
        return np.array([self._known[one] for one in wanted]).reshape(len(wanted), len(self.names))

    def _compute(self, smiles: list[str]) -> np.ndarray:
        """In processes; a chunk whose process was killed is computed again."""
        size = max(1, min(CHUNK, -(-len(smiles) // self.workers)))
        waiting = {at: smiles[at : at + size] for at in range(0, len(smiles), size)}
        done, in_a_row = {}, 0
        while waiting:
            try:
                futures = {at: self._started().submit(compute, self.names, part) for at, part in waiting.items()}
                for at, future in futures.items():
                    done[at] = future.result()
                    del waiting[at]
                    in_a_row = 0
            except BrokenProcessPool:
                self.close()
                self.restarts, in_a_row = self.restarts + 1, in_a_row + 1
                print(f"note: a reward worker was killed; restarted, {self.restarts} so far", file=sys.stderr)
                if in_a_row > MOST_RESTARTS:
                    first = next(iter(waiting.values()))
                    raise UserError(
                        f"reward workers were killed {in_a_row} times in a row at {', '.join(first[:3])}: check the "
                        "memory of this machine, or use workers=0 to see the error"
                    ) from None
        return np.concatenate([done[at] for at in sorted(done)])

    def _started(self) -> concurrent.futures.ProcessPoolExecutor:
        if self._pool is None:  # spawned: JAX has threads, which a fork would not survive
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(self.workers, context)
        return self._pool

    def close(self) -> None:
        """Ends the processes; the next call starts others."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()
