"""Small inputs for the benchmarks of maps, and the names of what the public tools make of them (maps.npz)."""

import numpy as np

GENES, DIM = 150, 6
THRESHOLDS = ((0.05, 0.95), (0.1, 0.9), (0.0, 0.9), (0.25, 0.5))
SAMPLES = 200  # of the sampled null, here and there: 5,000 take the public tool gigabytes
ARMS = ("chr1p", "chr1q", "chr2p", "chr22q")


def gene_map():
    """(names [150], features [150, 6] of few values, so that many cosines are equal)."""
    random = np.random.default_rng(0)
    x = random.integers(-1, 2, (GENES, DIM)).astype(float)
    x[(x == 0).all(1)] = 1
    x[100:] += random.normal(size=(50, DIM))
    return np.array([f"G{i}" for i in range(GENES)], object), x


def relations():
    """Source -> pairs [m, 2] of names: in both orders, with repeats, of one with itself, with genes not in the map."""
    random = np.random.default_rng(1)
    pairs = random.integers(0, GENES + 30, (400, 2))
    near = np.stack([np.arange(60), np.arange(60) + 1], 1)
    found = {"Reactome": pairs, "HuMAP": np.concatenate([near, near[:, ::-1], near[:5, :1].repeat(2, 1)])}
    return {name: np.array([[f"G{a}", f"G{b}"] for a, b in rows], object) for name, rows in found.items()}


def screen():
    """(x [176, 6] of four batches with 20 controls each, batch [176], perturbation [176]): 12 perturbations of eight
    replicates, two per batch, of which four are unexpressed, and one unexpressed with a single one."""
    random = np.random.default_rng(2)
    rows = [("EMPTY_control", b) for b in range(4) for _ in range(20)]
    rows += [(f"P{p}" if p > 3 else f"N{p}", b) for p in range(12) for b in range(4) for _ in range(2)][:-1]
    rows += [("N4", 0)]
    perturbation, batch = np.array([r[0] for r in rows], object), np.array([f"b{r[1]}" for r in rows], object)
    effect = {name: random.normal(size=DIM) * (name[0] == "P") for name in sorted(set(perturbation))}
    turn = [random.normal(size=(DIM, DIM)) + 2 * np.eye(DIM) for _ in range(4)]
    x = random.normal(size=(len(rows), DIM)) + np.array([effect[name] for name in perturbation])
    x = (
        np.stack([row @ turn[int(b[1])] for row, b in zip(x, batch)])
        + np.array([3.0 * int(b[1]) for b in batch])[:, None]
    )
    return x, batch, perturbation


def arms():
    """(features [150, 6], arm [150], position [150], unexpressed [150]) of genes with an effect of their arm."""
    random = np.random.default_rng(3)
    arm = random.choice(4, GENES, p=[0.1, 0.2, 0.3, 0.4])
    x = random.normal(size=(GENES, DIM)) + random.normal(size=(4, DIM))[arm] * 0.6
    return x, arm, random.permutation(GENES) * 1000, random.random(GENES) < 0.6
