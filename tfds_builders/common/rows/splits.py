"""Which experiments are for training, validation and test: WILDS's choice, or the source's own splits.csv."""

import os
import pathlib
from collections.abc import Callable

from rxrx_jax.base.errors import UserError, shortened
from tfds_builders.common.rows import tables

KINDS = ("train", "val", "test")
COLUMNS = ("experiment", "split")
canonical = tables.canonical
HOW_TO = (
    "a splits.csv in the source folder, with the columns experiment,split and a row for every experiment "
    "(split is train, val or test)"
)
NO_SPLITS = (
    "No split is published and there is no splits.csv: every site is in train. To hold out experiments, "
    f"write {HOW_TO}."
)


def _series(cell_type: str, first: int, last: int) -> list[str]:
    return [f"{cell_type}-{number:02d}" for number in range(first, last + 1)]


# WILDS rxrx1_v1.0 (Koh et al. 2021, arXiv:2012.07421). train and val + test are also Recursion's train and
# test; val is what Kaggle's public leaderboard used.
WILDS_EXPERIMENTS = {
    "train": _series("HEPG2", 1, 7) + _series("HUVEC", 1, 16) + _series("RPE", 1, 7) + _series("U2OS", 1, 3),
    "val": ["HEPG2-08", "HUVEC-17", "RPE-08", "U2OS-04"],
    "test": _series("HEPG2", 9, 11) + _series("HUVEC", 18, 24) + _series("RPE", 9, 11) + ["U2OS-05"],
}
WILDS = {name: kind for kind, names in WILDS_EXPERIMENTS.items() for name in names}


def read_file(source: pathlib.Path) -> dict[str, str] | None:
    """Returns train, val or test by experiment, of source/splits.csv; None without such a file."""
    path = source / "splits.csv"
    return read(path) if os.path.lexists(path) else None  # a broken link is not "no splits.csv"


def read(path: pathlib.Path, spelling: Callable[[str], str] = canonical) -> dict[str, str]:
    """Returns train, val or test by experiment, of a table. Args: path; spelling of an experiment's name."""
    kinds = {}
    for line in tables.read(path, COLUMNS):
        if line.problem:
            raise UserError(f"{path}: {line.where}: {line.problem}")
        name, kind = spelling(line.cells["experiment"]), line.cells["split"]
        if not name or kind not in KINDS:
            given = f"{shortened(name)!r},{shortened(kind)!r}"
            raise UserError(f"{path}: {line.where}: {given}: use one of {', '.join(KINDS)}")
        if kinds.setdefault(name, kind) != kind:
            raise UserError(f"{path}: {line.where}: {shortened(name)} is both {kinds[name]} and {kind}: keep one")
    return kinds


def by_site(kinds: dict[str, str], experiment: str, site: int) -> str:
    """Returns the split in RxRx1: train is site 1 of training experiments, id_test their other sites."""
    kind = _kind(kinds, experiment)
    return "id_test" if kind == "train" and site > 1 else kind


def by_experiment(kinds: dict[str, str] | None, experiment: str, site: int) -> str:
    """Returns the split where none is published: that of the experiment, for all its sites; train without kinds."""
    del site
    return "train" if kinds is None else _kind(kinds, experiment)


def _kind(kinds: dict[str, str], experiment: str) -> str:
    if experiment not in kinds:
        where = "WILDS's split" if kinds is WILDS else "splits.csv"
        raise UserError(f"experiment {shortened(experiment)} is not in {where}: the build needs {HOW_TO}")
    return kinds[experiment]
