"""From a phenotype to molecules: how alike a structure is predicted to be to a gene, beside objectives of RDKit.

`similarity` is (1 + c) / 2 of the cosine c between the predicted position of a molecule at the highest dose and that of
the gene, in the space of a run of `molecule_map.py` (`towers.py`). Of a simulated screen the simulator's own function
says what the molecule truly does, and so by how much the prediction flatters what was generated (Goodhart's law).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.environments.fragments import MOST
from rxrx_jax.generate.rewards import Problem, chemistry, chosen, fragments
from rxrx_jax.generate.rewards.fragments import Host, make_host
from rxrx_jax.generate.rewards.towers import Frozen, load

SIMILARITY = "similarity"
OBJECTIVES = (SIMILARITY, *chemistry.OBJECTIVES)
MEAN, LOWER, ORACLE = REWARDS = ("mean", "lower", "oracle")


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A gene of a map. reward: what is optimised: the mean over the ensemble of the predicted cosine, this less its
    standard deviation (lower), or what the simulator says (oracle)."""

    frozen: Frozen
    gene: int
    reward: str = MEAN

    def objective(self, smiles: Sequence[str]) -> np.ndarray:
        """float64 [n], from 0 to 1"""
        if self.reward == ORACLE:
            return _to_unit(self.true(smiles))
        found = self.predicted(smiles)
        return _to_unit(found.mean(0) - (found.std(0) if self.reward == LOWER else 0))

    def predicted(self, smiles: Sequence[str]) -> np.ndarray:
        """The cosine that each of m towers predicts: float64 [m, n]."""
        return self._cosines(self.frozen.of_molecules(smiles))

    def true(self, smiles: Sequence[str]) -> np.ndarray:
        """The cosine of what the simulator says in the place of what is predicted: of the noiseless wells at the
        highest dose, by the tower of wells, the mean over towers: float64 [n]."""
        return self._true(self._effects(smiles))

    def phenotype(self, smiles: Sequence[str]) -> np.ndarray:
        """The cosine of the simulated effects themselves, 0 of a compound that has none: float64 [n]."""
        return self._phenotype(self._effects(smiles))

    def _true(self, effects: np.ndarray) -> np.ndarray:
        return self._cosines(self.frozen.of_wells(effects)).mean(0)

    def _phenotype(self, effects: np.ndarray) -> np.ndarray:
        gene = self.frozen.positions[self.gene]
        norms = np.linalg.norm(effects, axis=1) * np.linalg.norm(gene)
        return np.divide(effects @ gene, norms, out=np.zeros(len(effects)), where=norms > 0)

    def beside(self, smiles: Sequence[str]) -> dict[str, np.ndarray]:
        """`predicted`, by the mean of the towers; `applicability`, Tanimoto's similarity to the nearest molecule that
        they were trained on; and of a simulated screen `true`, `gap`, predicted less true, and `phenotype`."""
        found = {"predicted": self.predicted(smiles).mean(0), "applicability": self.frozen.nearest(smiles)}
        if self.frozen.screen_seed is not None:
            effects = self._effects(smiles)
            found |= {"true": self._true(effects), "phenotype": self._phenotype(effects)}
            found["gap"] = found["predicted"] - found["true"]
        return found

    def _cosines(self, of: np.ndarray) -> np.ndarray:
        return (of * self._place).sum(-1, dtype=np.float64).clip(-1, 1)

    @functools.cached_property
    def _place(self) -> np.ndarray:
        """Of the gene, by each of m towers of wells: float32 [m, 1, outputs]."""
        return self.frozen.of_wells(self.frozen.positions[self.gene][None])

    def _effects(self, smiles: Sequence[str]) -> np.ndarray:
        if not len(smiles):
            return np.zeros((0, len(self.frozen.scale)))
        return self.frozen.hidden.effects(smiles, (max(self.frozen.doses),))[0][:, 0]


def _to_unit(cosine: np.ndarray) -> np.ndarray:
    return ((1 + cosine) / 2).clip(0, 1)


def make_target(tower: str, gene: str, reward: str) -> Target:
    """Args: tower, the path of the file; gene, a name of its map; reward, one of REWARDS.

    Raises UserError for a gene that is not in the map, for the lower bound of one tower, and for the oracle of a screen
    that is not simulated."""
    frozen = load(tower)
    if reward not in REWARDS:
        raise UserError(f"task.reward={reward!r}: expected {', '.join(REWARDS)}")
    if reward == LOWER and len(frozen.params) < 2:
        raise UserError(f"task.reward=lower needs several towers, and {tower} has one: freeze more runs")
    if reward == ORACLE and frozen.screen_seed is None:
        raise UserError(f"task.reward=oracle: {tower} is not of a simulated screen, and nothing else knows the truth")
    return Target(frozen, frozen.place(gene, tower), reward)


def problem(objectives: tuple[str, ...], target: Target, most: int = MOST, workers: int = 0) -> Problem:
    """Molecules of at most `most` pieces. Args: objectives, of OBJECTIVES; workers, processes for RDKit.

    Raises UserError for an unknown objective, and where RDKit is not installed."""
    names = chosen(objectives, OBJECTIVES)
    return of_host(
        make_host(names, most, workers, {SIMILARITY: target.objective} if SIMILARITY in names else {}), target
    )


def of_host(host: Host, target: Target) -> Problem:
    """The problem of those functions, with what is known of the target."""
    plain, truth = fragments.of_host(host), None
    if target.frozen.screen_seed is not None and SIMILARITY in host.names:
        truth = lambda terminal, values: true_values(host, target, terminal, values)  # noqa: E731
    beside = lambda terminal: target.beside(host.smiles(terminal))  # noqa: E731
    listed = lambda texts: of_host(host.listed(texts), target)  # noqa: E731
    return dataclasses.replace(plain, truth=truth, beside=beside, listed=listed)


def true_values(host: Host, target: Target, terminal, values: np.ndarray) -> np.ndarray:
    """Objectives [n, d] with the true similarity in the place of the predicted one."""
    found = np.array(values, np.float64)
    found[:, host.names.index(SIMILARITY)] = _to_unit(target.true(host.smiles(terminal)))
    return found
