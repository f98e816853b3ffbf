"""The wells of a planted screen: which stands where, and what its embedding is.

A guide has one well in each batch of its block, a dose of a compound several; places are drawn for every batch, so that
a well's place says nothing of what was done to it. An embedding is the effect of what was done and the noise of the
well, both under the gain, rotation and offset of the batch, and the effect of its row, column and edge.
"""

import dataclasses

import numpy as np

from rxrx_jax.maps.planted.world import Settings, World

ROWS, COLUMNS = 16, 24  # of a plate
CONTROL = -1


@dataclasses.dataclass(frozen=True)
class Perturbations:
    """What wells are treated with, each [p]: gene, its number or -1; guide, from 0, or -1; compound, its number or -1;
    dose, micromolar or NaN; works, whether it is a guide, not the dud, of a gene that has an effect by design; block;
    effect [p, dim]."""

    gene: np.ndarray
    guide: np.ndarray
    compound: np.ndarray
    dose: np.ndarray
    works: np.ndarray
    block: np.ndarray
    effect: np.ndarray


@dataclasses.dataclass(frozen=True)
class Wells:
    """x [n, dim] float32; and of each well [n] its perturbation, CONTROL for untreated ones, batch, plate within the
    batch, row and column, numbers from 0."""

    x: np.ndarray
    perturbation: np.ndarray
    batch: np.ndarray
    plate: np.ndarray
    row: np.ndarray
    column: np.ndarray

    @property
    def is_control(self) -> np.ndarray:
        return self.perturbation == CONTROL


def perturbations(world: World) -> Perturbations:
    """The guides of all genes, gene by gene, and then the doses of all compounds."""
    s = world.settings
    rng = np.random.default_rng([s.seed, 1])
    strength = rng.uniform(s.weakest_guide, 1, (s.genes, s.guides))
    effect = strength[:, :, None] * world.knockouts[:, None]
    place = rng.permuted(np.tile(np.arange(s.guides), (s.genes, 1)), axis=1)  # of the dud, and of the one off target
    genes = np.arange(s.genes)
    effect[genes, place[:, 0]] = 0
    works = np.repeat(world.active[:, None], s.guides, 1)
    works[genes, place[:, 0]] = False
    other = (genes + rng.integers(1, s.genes, s.genes)) % s.genes
    effect[genes, place[:, 1]] += s.off_target * world.knockouts[other]

    compounds, doses = world.responses.shape[:2]
    block_of_genes, block_of_compounds = (rng.permutation(n) % s.blocks for n in (s.genes, compounds))
    none = np.full(compounds * doses, -1)
    return Perturbations(
        gene=np.concatenate([np.repeat(genes, s.guides), none]),
        guide=np.concatenate([np.tile(np.arange(s.guides), s.genes), none]),
        compound=np.concatenate([np.full(s.genes * s.guides, -1), np.repeat(np.arange(compounds), doses)]),
        dose=np.concatenate([np.full(s.genes * s.guides, np.nan), np.tile(s.doses, compounds)]),
        works=np.concatenate([works.ravel(), np.zeros(compounds * doses, bool)]),
        block=np.concatenate([np.repeat(block_of_genes, s.guides), np.repeat(block_of_compounds, doses)]),
        effect=np.concatenate([effect.reshape(-1, s.dim), world.responses.reshape(-1, s.dim)]),
    )


def simulate(settings: Settings, given: Perturbations) -> Wells:
    """All wells of a screen. Raises ValueError where a batch has no room for untreated ones."""
    from scipy.linalg import expm

    s = settings
    rng = np.random.default_rng([s.seed, 2])
    root = np.linalg.qr(rng.normal(size=(s.dim, s.dim)))[0] * np.sqrt(_spectrum(s.dim))  # noise is root @ white noise
    wide = np.linalg.cholesky((root @ root.T + np.eye(s.dim)) / 2)  # of offsets
    common = _unit(rng.normal(size=(3, s.dim)))
    parts = []
    for batch in range(s.batches):
        treated = np.flatnonzero(given.block == batch % s.blocks)
        treated = np.repeat(treated, np.where(given.compound[treated] >= 0, s.compound_wells, 1))
        n = s.plates * ROWS * COLUMNS
        if len(treated) >= n:
            raise ValueError(f"a batch of {n} wells has no room for {len(treated)} treated ones and controls")
        what = rng.permutation(np.concatenate([treated, np.full(n - len(treated), CONTROL)]))
        plate, row, column = np.unravel_index(np.arange(n), (s.plates, ROWS, COLUMNS))
        x = rng.normal(size=(n, s.dim)) @ root.T
        x[what >= 0] += given.effect[what[what >= 0]]
        x *= np.exp(s.scale * (rng.normal() + rng.normal(size=s.dim)))
        skew = rng.normal(size=(s.dim, s.dim)) * s.rotation
        x = x @ expm((skew - skew.T) / np.sqrt(2)) + s.shift * (wide @ rng.normal(size=s.dim))
        own = _unit(rng.normal(size=(3, s.dim)))
        axes = np.sqrt(s.shared_position) * common + np.sqrt(1 - s.shared_position) * own
        edge = (row % (ROWS - 1) == 0) | (column % (COLUMNS - 1) == 0)
        along = np.stack([2 * row / (ROWS - 1) - 1, 2 * column / (COLUMNS - 1) - 1, edge], 1)
        strength = s.position * rng.uniform(0.5, 1.5, s.plates)[plate]
        x += (strength[:, None] * along) @ axes
        parts.append(Wells(x.astype(np.float32), what, np.full(n, batch), plate, row, column))
    return Wells(*(np.concatenate(arrays) for arrays in zip(*map(dataclasses.astuple, parts))))


def _spectrum(dim: int) -> np.ndarray:
    """Variances of the principal axes of wells' noise: the k-th is 1 / k of the first; their mean is 1."""
    found = 1 / np.arange(1, dim + 1)
    return found * dim / found.sum()


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)
