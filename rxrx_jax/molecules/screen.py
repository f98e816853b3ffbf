"""A SIMULATED screen of compounds: what each does to cells, as a hidden function of its structure. Nothing is measured.

Direction, strength and potency of an effect are smooth functions of how often substructures occur in the molecule;
some molecules are cliffs, which do not follow them. Six in ten compounds do nothing. A well is the effect at its dose
and noise.
"""

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


class Screen(NamedTuple):
    """truth [n, doses, d], effects without noise; wells [n, doses, replicates, d], with noise of standard deviation 1
    in every dimension; active, cliff [n] bool."""

    truth: np.ndarray
    wells: np.ndarray
    active: np.ndarray
    cliff: np.ndarray


def simulate(smiles: Sequence[str], seed: int, doses: Sequence[float] = DOSES) -> Screen:
    """The screen of these compounds, whose own distribution says which are inactive. Args: seed, of the hidden function
    and of the noise; doses, micromolar."""
    rng = np.random.default_rng([seed, 0])
    x = np.log1p(fingerprints.morgan(smiles, BITS, RADIUS))
    x = (x - x.mean(0)) @ rng.normal(size=(BITS, HIDDEN))
    hidden = np.tanh(x / np.maximum(x.std(), 1e-6))  # [n, HIDDEN]
    direction = _unit(hidden @ rng.normal(size=(HIDDEN, DIMENSIONS)))
    strength, potency = (hidden @ rng.normal(size=(HIDDEN, 2))).T
    drawn = np.array([_uniform(text, seed) for text in smiles]).reshape(-1, 2)
    # A cliff is not as its neighbours: it acts where they do not, in a direction of its own, or the reverse.
    level = np.quantile(strength, INACTIVE) if len(strength) else 0.0
    active, cliff = strength > level, drawn[:, 0] < CLIFFS
    own = _unit(np.array([np.random.default_rng(int(u * 2**53)).normal(size=DIMENSIONS) for u in drawn[:, 1]]
                         ).reshape(-1, DIMENSIONS))  # fmt: skip
    direction = np.where((cliff & ~active)[:, None], own, direction)
    size = 0.7 + np.abs(strength - level) / max(float(strength.std()), 1e-6)
    active = active ^ cliff
    low, high = EC50
    ec50 = 10 ** (low + (high - low) / (1 + np.exp(-potency / max(float(potency.std()), 1e-6))))
    dose = np.asarray(doses, float)
    effect = np.where(active, size, 0)[:, None] * dose / (dose + ec50[:, None])  # [n, doses]
    truth = effect[:, :, None] * direction[:, None] * DIMENSIONS**0.5
    noise = np.random.default_rng([seed, 1]).normal(size=(len(smiles), len(dose), REPLICATES, DIMENSIONS))
    return Screen(truth, truth[:, :, None] + noise, active, cliff)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _uniform(text: str, seed: int) -> tuple[float, float]:
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "little") / 2**64 for i in (0, 8))
