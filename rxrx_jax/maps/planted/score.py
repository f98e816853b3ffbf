"""What the map of a planted screen finds of what was planted, alignment by alignment."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark import compounds, proximity, recall, relations, retrieval
from rxrx_jax.maps.benchmark.genome import ARMS
from rxrx_jax.maps.build import align
from rxrx_jax.maps.build.aggregate import aggregate
from rxrx_jax.maps.planted import wells, world

ALIGNMENTS = ("none", "centre_scale", "pca_centre_scale", "tvn", "tvn_shrunk", "combat", "harmony")
ARM_CENTRING = ("none", "shrunk", "published")
TAILS = ((0.05, 0.95),)
QUERIES = 2_000  # guides, and wells, that are asked for


def score(settings: world.Settings, alignments: Sequence[str]) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """(alignment, how arms are centred, marks, what was found by name) of every alignment of a screen and every way of
    ARM_CENTRING.

    Recall of planted pairs, on different arms and on one, is two-sided in the tails that hold a tenth of all pairs.
    Guides of genes that have an effect, and their wells in other batches, are retrieved by normalised mean average
    precision, 0 for chance; targets of compounds by average precision, at the best of their doses. probability is that
    of genes of one arm to be more alike than others; overcorrection, how far that of an arm is below .5, is averaged
    over arms, and 0 for those above.
    """
    truth = world.draw(settings)
    given = wells.perturbations(truth)
    screen = wells.simulate(settings, given)
    batch = np.array([f"B{i + 1:02d}" for i in range(settings.batches)], object)[screen.batch]
    treated = ~screen.is_control
    perturbation = screen.perturbation[treated]
    for name in alignments:
        aligner, x = align.fit(name, screen.x, batch, screen.is_control, "alignment")
        found = {"wells": _wells(x[treated], perturbation, screen.batch[treated], given, settings.seed)}
        centres, _ = aggregate(x[treated], perturbation)
        for how in ARM_CENTRING:
            yield name, how, aligner.marks, _map(_centred(centres, truth, how), truth, given) | found


def _centred(centres: np.ndarray, truth: world.World, how: str) -> np.ndarray:
    """The rows of all perturbations [p, d] with those of guides less what is common to their arm."""
    if how == "none":
        return centres
    guides = truth.settings.guides
    arm, unexpressed = (np.repeat(values, guides) for values in (truth.arm, ~truth.expressed))
    rows = centres[: len(arm)]
    return np.concatenate([proximity.centre_arms(rows, arm, len(ARMS), unexpressed, how)[0], centres[len(arm) :]])


def _map(centres: np.ndarray, truth: world.World, given: wells.Perturbations) -> dict[str, float]:
    """What is found in the rows of all perturbations [p, d], in the order of `given`."""
    s, names = truth.settings, truth.genome.gene
    guides = s.genes * s.guides
    genes = centres[:guides].reshape(s.genes, s.guides, -1).mean(1)
    same = truth.arm[truth.pairs[:, 0]] == truth.arm[truth.pairs[:, 1]]
    parts = {"across": truth.pairs[~same], "within": truth.pairs[same]}
    known = [relations.make(part, names[pairs]) for part, pairs in parts.items()]
    found = {f"recall_{row['source']}": row["recall"] for row in recall.all_pairs(genes, names, known, TAILS, draws=0)}

    u = relate.unit(genes)
    whole, each = proximity.per_arm(u, truth.arm, len(ARMS))
    below = [max(0.0, 0.5 - one.probability) for one in each if one is not None]
    found |= {"probability": whole.probability, "overcorrection": float(np.mean(below)) if below else math.nan}

    rng, active = np.random.default_rng([s.seed, 3]), np.flatnonzero(truth.active)
    asked = rng.choice(active, min(len(active), QUERIES // s.guides), replace=False)
    group = np.where(np.isin(given.gene[:guides], asked), given.gene[:guides], -1)
    result = retrieval.average_precision(relate.unit(centres[:guides]), group)
    found["guides"] = float(np.nanmean(retrieval.normalised(*result)))

    label = np.array([f"compound {i}" for i in range(len(truth.targets))], object)
    targets = {one: dict.fromkeys(names[own].tolist(), 0.0) for one, own in zip(label.tolist(), truth.targets)}
    rows = compounds.benchmark(
        relate.unit(centres[guides:]), label[given.compound[guides:]], given.dose[guides:], u, names, targets
    )
    best = next(row for row in rows if row["dose"] is None)
    return found | {"targets": best["ap_macro"], "targets_chance": best["ap_chance"]}


def _wells(x: np.ndarray, perturbation: np.ndarray, batch: np.ndarray, given: wells.Perturbations, seed: int) -> float:
    asked = np.flatnonzero(given.works[perturbation])
    queries = np.random.default_rng([seed, 4]).choice(asked, min(len(asked), QUERIES), replace=False)
    result = retrieval.average_precision(relate.unit(x), perturbation, batch, queries=queries)
    return float(np.nanmean(retrieval.normalised(*result)))
