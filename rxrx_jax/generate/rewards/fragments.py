"""Objectives of molecules that are built of pieces: RDKit's, and the sEH proxy where its weights are named."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

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
    """The functions of a `Problem` that are computed on the host: of n trees, (piece [n, N], link [n, N, S]).

    rewards: of RDKit's objectives, None for none of them; others: functions of SMILES -> float [n], by the objective;
    known: what these have said, by objective and SMILES."""

    environment: Fragments
    names: tuple[str, ...]
    rewards: chemistry.Rewards | None
    others: Mapping[str, Callable[[Sequence[str]], np.ndarray]]
    known: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)

    def smiles(self, terminal) -> list[str]:
        return assemble.all_smiles(self.environment.pieces, terminal)

    def objectives(self, terminal) -> np.ndarray:
        """float64 [n, d]"""
        return self.of_smiles(self.smiles(terminal))

    def of_smiles(self, smiles: Sequence[str]) -> np.ndarray:
        """Of canonical SMILES: float64 [n, d]"""
        columns = dict(zip(self.rewards.names, self.rewards(smiles).T)) if self.rewards else {}
        for name, of in self.others.items():
            new = list(dict.fromkeys(one for one in smiles if (name, one) not in self.known))
            self.known.update(zip([(name, one) for one in new], of(new)))
            columns[name] = np.array([self.known[name, one] for one in smiles])
        return np.stack([columns[name] for name in self.names], 1)

    def listed(self, texts: Sequence[str]) -> "Listed":
        """The same functions of molecules in a list of SMILES."""
        return Listed(**vars(self) | {"texts": texts})

    def distances(self, terminal) -> np.ndarray:
        """1 less Tanimoto's similarity of Morgan fingerprints: float64 [n, n]."""
        found = fingerprints.morgan(self.smiles(terminal))
        return 1 - fingerprints.tanimoto(found, found).astype(np.float64)

    def say(self, terminal) -> str:
        """The SMILES of one tree."""
        return assemble.smiles(self.environment.pieces, *terminal)


@dataclasses.dataclass(frozen=True)
class Listed(Host):
    """The same of molecules that are named by their number in a list, int [n], in place of trees."""

    texts: Sequence[str] = ()

    def smiles(self, terminal) -> list[str]:
        return [self.texts[i] for i in np.asarray(terminal)]

    def say(self, terminal) -> str:
        return self.texts[int(terminal)]


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
    others = {SEH: functools.partial(proxy.objective, proxy.load(weights))} if SEH in names else {}
    return of_host(make_host(names, most, workers, others))


def of_host(host: Host) -> Problem:
    """The problem of those functions."""
    listed = lambda texts: of_host(host.listed(texts))  # noqa: E731
    return Problem(host.environment, host.names, host.objectives, host.distances, host.say, True, listed=listed)


def make_host(names: tuple[str, ...], most: int, workers: int, others: Mapping[str, Callable]) -> Host:
    """Of `chosen` names, of which those that `others` has not got are RDKit's."""
    of_rdkit = [name for name in names if name not in others]
    return Host(Fragments(most), names, chemistry.Rewards(of_rdkit, workers) if of_rdkit else None, others)
