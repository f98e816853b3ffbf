"""Random trees in the place of molecules: for tests, and for what the compute alone can do. They need no chemistry."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from rxrx_jax.base.config import Config
from rxrx_jax.data.molecules import BUCKETS, Molecules, phenomics
from rxrx_jax.data.molecules.library import SPLITS, Library
from rxrx_jax.data.sampler import BucketSampler

FARTHEST = 126  # bonds that a distance can tell
TOKENS, LABELS = 211, 130_505  # of the released configuration; that the second counts labels is inferred
ATOMS = (5, 29, 47, 83, 256)  # at these shares of molecules, roughly as in ChEMBL
SHARES = (0, 0.5, 0.95, 0.99, 1)


class Tree(NamedTuple):
    """As `rxrx_jax.molecules.records.Molecule`."""

    tokens: np.ndarray
    labels: np.ndarray
    distances: np.ndarray
    targets: np.ndarray


def trees(count: int, seed: int = 0, tokens: int = 12, labels: int = 40, atoms=(3, 40), shares=(0, 1)) -> Library:
    """`count` random trees, the last fifth of which is for validation and test. An atom's label is how many neighbours
    it has, up to three, with the largest token among them. Target `mean` is that of the tokens and `many` is 1 where it
    is above the middle, each missing for one tree in four. Args: atoms, quantiles of their number, at these shares."""
    sizes = np.interp(np.random.default_rng(seed).random(count), shares, atoms).round().astype(np.int32)
    number = np.arange(count)
    split = np.array(SPLITS)[np.where(number < count * 4 // 5, 0, np.where(number < count * 9 // 10, 1, 2))]

    @functools.lru_cache(maxsize=100_000)
    def one(row: int) -> Tree:
        random, n = np.random.default_rng([seed, row]), int(sizes[row])
        own = random.integers(1, tokens - 3, n)
        far, degree, largest = np.zeros((n, n), np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
        for i in range(1, n):
            parent = random.integers(max(0, i - 3), i)
            far[i, :i] = far[:i, i] = far[parent, :i] + 1
            for atom, other in ((i, parent), (parent, i)):
                degree[atom] += 1
                largest[atom] = max(largest[atom], own[other])
        targets = np.array([own.mean(), own.mean() > (tokens - 3) / 2], np.float32)
        targets[random.random(2) < 0.25] = np.nan
        label = 1 + ((np.minimum(degree, 3) - 1) * (tokens - 4) + largest - 1) % (labels - 1)
        distances = (np.minimum(far, FARTHEST) + 1).astype(np.uint8)
        return Tree(own.astype(np.uint16), label.astype(np.int32), distances, targets)

    return Library(
        read=lambda rows: [one(int(row)) for row in rows],
        split=split,
        inchikey=np.array([f"TREE-{seed}-{row}" for row in range(count)]),
        atoms=sizes,
        tokens=tokens,
        labels=labels,
        targets=("mean", "many"),
        kinds=("regression", "classification"),
        vocabulary=f"trees {tokens} {labels}",
        digest=f"trees {count} {seed} {tokens} {labels} {atoms} {shares}",
    )


def with_wells(library: Library, seed: int, doses: int = 3, width: int = 8) -> phenomics.Screened:
    """Trees as if they were screened: a tree's wells depend on its mean token and the dose. Of one in five every well
    is noise, and of one in ten there is none."""
    rows, random = np.arange(len(library.split)), np.random.default_rng([seed, 1])
    value = np.array([tree.tokens.mean() for tree in library.read(rows)]) / library.tokens
    frequency = random.normal(size=width) * 8
    truth = np.cos(value[:, None, None] * frequency + np.arange(doses)[:, None])  # [rows, doses, width]
    noise = np.where(random.random((len(rows), 1, 1, 1)) < 0.2, 5, 0.3)
    wells = truth[:, :, None] + noise * random.normal(size=(len(rows), doses, 2, width))
    row, dose = (np.repeat(x, 2) for x in np.divmod(np.arange(len(rows) * doses), doses))
    kept = (random.random(len(rows)) >= 0.1)[row]
    dose = 10.0 ** np.arange(doses)[dose]
    return phenomics.of_wells(library, row[kept], dose[kept], wells.reshape(-1, width)[kept], truth)


class Description(NamedTuple):
    name: str  # of the molecules in whose place they are


@dataclasses.dataclass(frozen=True)
class Noise(Molecules):
    """Random trees in up to four sizes: what the compute alone can do, and what it is compiled for."""

    description: Description
    fingerprint = "noise"
    only_measures = True

    def rows(self, step: int) -> list[dict]:
        return []


def make(config: Config) -> Noise:
    """Trees with as many kinds of tokens and labels as the released configuration has; nothing is read or prepared."""
    c = config.data
    c.as_kwargs(), c.builder.as_kwargs()  # read, though nothing is chosen
    library = trees(1000, config.seed, TOKENS, LABELS, ATOMS, SHARES)
    if "phenomics" in c:
        library = with_wells(library, config.seed)
    rows = library.roles.fit
    sampler = BucketSampler(rows, library.atoms[rows], c.minibatch, BUCKETS, config.seed)
    return Noise(library, sampler, Description(c.name))
