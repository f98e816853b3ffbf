"""A SIMULATED screen of compounds: what each does to cells, as a hidden function of its structure. Nothing is measured.

Direction, strength and potency of an effect are smooth functions of how often substructures occur in the molecule;
some molecules are cliffs, which do not follow them. Six in ten compounds do nothing. A well is the effect at its dose
and noise.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rxrx_jax.molecules import fingerprints

DOSES = (0.1, 1.0, 10.0)  # micromolar
DIMENSIONS, REPLICATES = 32, 4
INACTIVE, CLIFFS = 0.6, 0.06  # shares of compounds
HIDDEN, BITS, RADIUS = 48, 512, 1
EC50 = (-1.5, 1.5)  # range of log10 micromolar
GENES, KNOCKOUT = 16, 2.0  # how many, and the size of their effects


class Screen(NamedTuple):
    """truth [n, doses, d], effects without noise; wells [n, doses, replicates, d], with noise of standard deviation 1
    in every dimension; active, cliff [n] bool."""

    truth: np.ndarray
    wells: np.ndarray
    active: np.ndarray
    cliff: np.ndarray


class Hidden(NamedTuple):
    """The hidden function of a screen, for any molecule: what is usual among the screened compounds, by which it tells
    who is inactive. mean [BITS] and spread of fingerprints; level of strength, and the spread of strength and potency.
    """

    seed: int
    mean: np.ndarray
    spread: float
    level: float
    strengths: float
    potencies: float

    def effects(self, smiles: Sequence[str], doses: Sequence[float] = DOSES) -> tuple[np.ndarray, ...]:
        """(truth [n, doses, d], active [n], cliff [n]) of molecules, which need not be screened ones. Args: doses,
        micromolar. Raises BadMolecule for an invalid SMILES."""
        direction, strength, potency = _properties(self.seed, _codes(self.seed, smiles, self.mean, self.spread)[0])
        drawn = np.array([_uniform(text, self.seed) for text in smiles]).reshape(-1, 2)
        # A cliff is not as its neighbours: it acts where they do not, in a direction of its own, or the reverse.
        active, cliff = strength > self.level, drawn[:, 0] < CLIFFS
        own = _unit(np.array([np.random.default_rng(int(u * 2**53)).normal(size=DIMENSIONS) for u in drawn[:, 1]]
                             ).reshape(-1, DIMENSIONS))  # fmt: skip
        direction = np.where((cliff & ~active)[:, None], own, direction)
        size = 0.7 + np.abs(strength - self.level) / max(self.strengths, 1e-6)
        active = active ^ cliff
        low, high = EC50
        ec50 = 10 ** (low + (high - low) / (1 + np.exp(-potency / max(self.potencies, 1e-6))))
        dose = np.asarray(doses, float)
        effect = np.where(active, size, 0)[:, None] * dose / (dose + ec50[:, None])  # [n, doses]
        return effect[:, :, None] * direction[:, None] * DIMENSIONS**0.5, active, cliff


def hidden(smiles: Sequence[str], seed: int) -> Hidden:
    """The function of the screen that `simulate` makes of these compounds."""
    codes, mean, spread = _codes(seed, smiles)
    _, strength, potency = _properties(seed, codes)
    level = float(np.quantile(strength, INACTIVE)) if len(strength) else 0.0
    return Hidden(seed, mean, spread, level, float(strength.std()), float(potency.std()))


def simulate(smiles: Sequence[str], seed: int, doses: Sequence[float] = DOSES) -> Screen:
    """The screen of these compounds, whose own distribution says which are inactive. Args: seed, of the hidden function
    and of the noise; doses, micromolar."""
    truth, active, cliff = hidden(smiles, seed).effects(smiles, doses)
    noise = np.random.default_rng([seed, 1]).normal(size=(len(smiles), len(doses), REPLICATES, DIMENSIONS))
    return Screen(truth, truth[:, :, None] + noise, active, cliff)


def genes(seed: int) -> tuple[tuple[str, ...], np.ndarray]:
    """(names [GENES], positions [GENES, d]) of knocked out genes of the screen: each is as a compound with hidden
    features of its own, which no screened one need have, at a saturating dose."""
    features = np.tanh(np.random.default_rng([seed, 2]).normal(size=(GENES, HIDDEN)))
    return tuple(f"SIM{i:02d}" for i in range(GENES)), KNOCKOUT * _properties(seed, features)[0] * DIMENSIONS**0.5


@functools.lru_cache(maxsize=4)
def _weights(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng([seed, 0])
    return tuple(rng.normal(size=size) for size in ((BITS, HIDDEN), (HIDDEN, DIMENSIONS), (HIDDEN, 2)))


def _codes(seed: int, smiles: Sequence[str], mean=None, spread=None) -> tuple[np.ndarray, np.ndarray, float]:
    """(hidden features [n, HIDDEN], mean and spread by which they are scaled: these molecules' own unless given)."""
    x = np.log1p(fingerprints.morgan(smiles, BITS, RADIUS))
    mean = x.mean(0) if mean is None else mean
    x = (x - mean) @ _weights(seed)[0]
    spread = float(max(x.std(), 1e-6)) if spread is None else spread
    return np.tanh(x / spread), mean, spread


def _properties(seed: int, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(direction [n, d], strength [n], potency [n]) of hidden features."""
    _, directions, others = _weights(seed)
    return _unit(codes @ directions), *(codes @ others).T


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _uniform(text: str, seed: int) -> tuple[float, float]:
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "little") / 2**64 for i in (0, 8))
