"""The wells of a competition on RxRx1 stage by stage: each site, both sites, the plate's group of treatments, and one
treatment per well; and the file to submit.

RxRx1's treatments come in four groups that share a plate in every experiment, so that the plates of an experiment are
one of 4! assignments of groups to plates: a prior that holds for its layout and nowhere else.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rxrx_jax.base import files, hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import REPEATED
from rxrx_jax.data.roles import treated
from rxrx_jax.evaluate.accuracy import by_group, experiments_of

NAME = "submission.csv"
JOINTLY = ("plate_group", "hungarian")
LEAST = -1e9  # in place of the logit of a class that a fit never saw


class Wells(NamedTuple):
    """row [w], the first of each well; and its predicted class by the two sites, among the plate's group, and as one of
    the plate's wells that have each treatment once: [w] each."""

    row: np.ndarray
    well: np.ndarray
    plate_group: np.ndarray
    hungarian: np.ndarray


def evaluate(context) -> Iterator[tuple[str, float]]:
    """Writes workdir/submission.csv, a row for each scored well: id_code and sirna, in the labels of the dataset, which
    are integers for the published one and sirna_N for one prepared from the tables of the competition's relaunch
    (`rxrx_jax.submission` converts them). Yields `submission/wells`."""
    dataset, lines = context.dataset, {}
    if not hasattr(context.task, "logits"):  # an encoder alone: its probe has the stages
        return
    for role in dataset.roles.scored:
        out = context.predict(role)
        if len(out["row"]):
            found = of_wells(out["logits"], out["row"], dataset)
            names = dataset.sites.well_id[found.row].tolist()
            lines |= {name: text(dataset, label) for name, label in zip(names, found.hungarian.tolist())}
    content = "".join(["id_code,sirna\n", *(f"{name},{lines[name]}\n" for name in sorted(lines))])
    hosts.on_first_host(lambda: files.write(context.workdir / NAME, content.encode()))
    yield "submission/wells", len(lines)


def text(dataset, label: int) -> str:
    """A class as the competition's tables write it."""
    name = str(dataset.classes[label])
    return name if re.fullmatch(r"sirna_\d+", name) else str(label)


def stages(logits: np.ndarray, rows: np.ndarray, dataset) -> Iterator[tuple[str, float | str]]:
    """Accuracies of logits [n, K] for the dataset's `rows` [n] of treated wells, among the treatments alone, each also
    by cell type and experiment with an interval as `accuracy.summarise` gives it: stages/site, each site by itself;
    stages/well, the sites' logits added; stages/plate_group; stages/hungarian; stages/wells; and all of them as
    stages_without_HUVEC-18/... where that experiment is there. Rows without a label take part and are not scored."""
    sites = dataset.sites
    found, candidates = of_wells(logits, rows, dataset), classes_of(dataset)
    site = candidates[logits[:, candidates].argmax(1)]
    repeated = dataset.experiments.index(REPEATED) if REPEATED in dataset.experiments else -1
    for prefix, but in (("stages", -1), (f"stages_without_{REPEATED}", repeated)):
        kept = lambda r, but=but: (sites.label[r] >= 0) & (sites.experiment[r] != but)  # noqa: E731
        if (prefix != "stages" and but not in sites.experiment[rows]) or not kept(found.row).any():
            continue
        yield f"{prefix}/wells", int(kept(found.row).sum())
        listed = experiments_of(found.row[kept(found.row)], dataset)
        yield f"{prefix}/experiments", json.dumps(listed, ensure_ascii=False)
        yield from by_group(f"{prefix}/site", (site == sites.label[rows])[kept(rows)], rows[kept(rows)], dataset)
        at = kept(found.row)
        for stage in ("well", "plate_group", "hungarian"):
            right = getattr(found, stage) == sites.label[found.row]
            yield from by_group(f"{prefix}/{stage}", right[at], found.row[at], dataset)


def of_wells(logits: np.ndarray, rows: np.ndarray, dataset) -> Wells:
    """The predictions of the wells that the dataset's `rows` [n] of treated wells are of, from logits [n, K]."""
    sites = dataset.sites
    groups, capacity = groups_of(dataset)
    wells, first, well = np.unique(sites.well_id[rows], return_index=True, return_inverse=True)
    summed = np.zeros((len(wells), logits.shape[1]))
    np.add.at(summed, well, np.maximum(logits.astype(np.float64), LEAST))
    first = rows[first]
    candidates = np.flatnonzero(groups >= 0)
    by_plate, once = assign(summed, sites.experiment[first], sites.plate[first], groups, capacity, dataset.plates)
    return Wells(first, candidates[summed[:, candidates].argmax(1)], by_plate, once)


def classes_of(dataset) -> np.ndarray:
    """The classes of treatments that are trained on, sorted [k]."""
    rows = dataset.roles.fit
    label = dataset.sites.label[rows[treated(dataset.sites)[rows]]]
    return np.unique(label[label >= 0])


def groups_of(dataset) -> tuple[np.ndarray, int]:
    """(group of each class, int [K], -1 for one that no treated well is trained on; how often a treatment is on its
    plate at most), from the plates that are trained on: treatments that ever share one are of a group.

    Raises UserError where there are fewer groups than plates in an experiment."""
    from scipy.sparse import coo_matrix, csgraph  # not imported by `--help` of a command

    sites = dataset.sites
    if sites.plate is None:
        raise UserError("protocol cellsignal needs to know the plate of every well, and the table has no column plate")
    rows = dataset.roles.fit
    rows = rows[treated(sites)[rows] & (sites.label[rows] >= 0)]
    if not len(rows):
        raise UserError(
            "protocol cellsignal: no treated well with a label is trained on, to know the plates' groups by"
        )
    wells = rows[np.unique(sites.well_id[rows], return_index=True)[1]]
    label, plate, many = sites.label[wells], sites.plate[wells], len(dataset.classes)
    size = many + len(dataset.plates)
    edges = coo_matrix((np.ones(len(wells)), (label, many + plate)), (size, size))
    _, component = csgraph.connected_components(edges, directed=False)
    groups = np.full(many, -1)
    there = np.unique(label)
    groups[there] = np.unique(component[there], return_inverse=True)[1]
    pairs = np.unique(np.stack([sites.experiment[wells], plate]), axis=1)
    plates = np.bincount(pairs[0]).max(initial=0)
    if groups.max(initial=-1) + 1 < plates:
        raise UserError(
            f"protocol cellsignal: an experiment has {plates} plates and treatments are in "
            f"{groups.max(initial=-1) + 1} groups that always share one; it is meant for RxRx1's layout, in which each "
            "plate has its group"
        )
    return groups, int(np.unique(np.stack([label, plate]), axis=1, return_counts=True)[1].max())


def assign(
    logits: np.ndarray, experiment: np.ndarray, plate: np.ndarray, groups: np.ndarray, capacity: int = 1, names=()
) -> tuple[np.ndarray, np.ndarray]:
    """(class of each well among its plate's group, class of each well where a plate has each treatment `capacity` times
    at most), int [w] each. In each experiment plates get different groups, those with the highest likelihood, wells
    being independent; on a plate the sum of log-probabilities is the highest (scipy's `linear_sum_assignment`).

    Args: logits [w, K] float64, finite; experiment and plate [w], numbers, those of plates unique over experiments;
    groups [K], -1 for classes that are no candidates; names of plates, for messages.
    Raises UserError for a plate with more wells than its group has places, and an experiment with more plates than
    there are groups."""
    from scipy.optimize import linear_sum_assignment
    from scipy.special import logsumexp

    members = [np.flatnonzero(groups == g) for g in range(groups.max(initial=-1) + 1)]
    z = logits - logsumexp(logits[:, groups >= 0], axis=1, keepdims=True)
    by_plate, once = np.full((2, len(logits)), -1)
    called = lambda p: names[p] if len(names) else p  # noqa: E731
    for e in np.unique(experiment):
        plates = np.unique(plate[experiment == e])
        if len(plates) > len(members):
            raise UserError(f"plate {called(plates[-1])}: its experiment has {len(plates)} plates and there are "
                            f"{len(members)} groups of treatments")  # fmt: skip
        likelihood = [[logsumexp(z[plate == p][:, m], axis=1).sum() for m in members] for p in plates]
        for p, g in zip(plates, linear_sum_assignment(likelihood, maximize=True)[1]):
            here, columns = np.flatnonzero(plate == p), np.repeat(members[g], capacity)
            if len(here) > len(columns):
                raise UserError(
                    f"plate {called(p)}: {len(here)} treated wells for {len(members[g])} treatments, at most "
                    f"{capacity} times each; remove the wells that are there twice"
                )
            by_plate[here] = members[g][z[here][:, members[g]].argmax(1)]
            wells, places = linear_sum_assignment(z[here][:, columns], maximize=True)
            once[here[wells]] = columns[places]
    return by_plate, once
