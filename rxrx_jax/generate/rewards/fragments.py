"""Objectives of molecules that are built of pieces: RDKit's, and the sEH proxy where its weights are named."""

import dataclasses

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.environments import assemble
from rxrx_jax.generate.environments.fragments import MOST, Fragments
from rxrx_jax.generate.rewards import Problem, chemistry, chosen, proxy
from rxrx_jax.molecules import fingerprints

SEH = "seh"  # the proxy by 8, clipped to [0, 1]
OBJECTIVES = (*chemistry.OBJECTIVES, SEH)


@dataclasses.dataclass(frozen=True)
class Host:
    """The functions of a `Problem` that RDKit computes: of n trees, (piece [n, N], link [n, N, S])."""

    environment: Fragments
    names: tuple[str, ...]
    rewards: chemistry.Rewards | None
    weights: dict[str, np.ndarray] | None
    known: dict[str, float]  # what the proxy has said

    def smiles(self, terminal) -> list[str]:
        return assemble.all_smiles(self.environment.pieces, terminal)

    def objectives(self, terminal) -> np.ndarray:
        """float64 [n, d]"""
        smiles = self.smiles(terminal)
        columns = {}
        if self.rewards is not None:
            columns = dict(zip(self.rewards.names, self.rewards(smiles).T))
        if self.weights is not None:
            new = list(dict.fromkeys(one for one in smiles if one not in self.known))
            self.known.update(zip(new, proxy.objective(self.weights, new)))
            columns[SEH] = np.array([self.known[one] for one in smiles])
        return np.stack([columns[name] for name in self.names], 1)

    def distances(self, terminal) -> np.ndarray:
        """1 less Tanimoto's similarity of Morgan fingerprints: float64 [n, n]."""
        found = fingerprints.morgan(self.smiles(terminal))
        return 1 - fingerprints.tanimoto(found, found).astype(np.float64)

    def say(self, terminal) -> str:
        """The SMILES of one tree."""
        return assemble.smiles(self.environment.pieces, *terminal)


def problem(objectives: tuple[str, ...], most: int = MOST, workers: int = 0, weights: str = "") -> Problem:
    """Molecules of at most `most` pieces.

    Args:
      objectives: of OBJECTIVES.
      workers: processes for RDKit; 0 for none.
      weights: the path of the sEH proxy's weights, for the objective seh.

    Raises UserError for an unknown objective, seh without weights, and where RDKit is not installed.
    """
    names = chosen(objectives, OBJECTIVES)
    if SEH in names and not weights:
        raise UserError("task.objectives has seh, whose weights are published apart: set task.proxy=seh_proxy.npz")
    of_rdkit = [name for name in names if name != SEH]
    host = Host(
        Fragments(most),
        names,
        chemistry.Rewards(of_rdkit, workers) if of_rdkit else None,
        proxy.load(weights) if SEH in names else None,
        {},
    )
    return Problem(host.environment, names, host.objectives, host.distances, host.say, on_host=True)
