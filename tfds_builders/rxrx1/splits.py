"""Which experiments are for training, validation and test: WILDS's choice, or the source's own splits.csv."""

import csv
import pathlib
import re

from rxrx_jax.errors import UserError

KINDS = ("train", "val", "test")


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


def canonical(experiment: str) -> str:
    """Returns the name with a number of two digits: HUVEC-1 and HUVEC-01 both occur for one experiment."""
    match = re.fullmatch(r"(.+)-(\d)", experiment)
    return f"{match[1]}-0{match[2]}" if match else experiment


def read_kinds(source: pathlib.Path) -> dict[str, str]:
    """Returns train, val or test by experiment: of source/splits.csv if there is one, else of WILDS."""
    path = source / "splits.csv"
    if not path.exists():
        return WILDS
    kinds = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        if not {"experiment", "split"} <= set(reader.fieldnames or ()):
            raise UserError(f"{path}: the first line must name the columns experiment,split")
        for row in reader:
            name, kind = canonical((row["experiment"] or "").strip()), (row["split"] or "").strip()
            if not name or kind not in KINDS:
                raise UserError(f"{path}: line {reader.line_num}: {name!r},{kind!r}: use one of {', '.join(KINDS)}")
            if kinds.setdefault(name, kind) != kind:
                raise UserError(f"{path}: line {reader.line_num}: {name} is both {kinds[name]} and {kind}: keep one")
    return kinds


def split_of(kinds: dict[str, str], experiment: str, site: int) -> str:
    """Returns the split of a site: train is site 1 of training experiments, id_test their other sites."""
    kind = kinds.get(experiment)
    if kind is None:
        where = "WILDS's split" if kinds is WILDS else "splits.csv"
        raise UserError(
            f"experiment {experiment} is not in {where}: add a splits.csv to the source folder, with the "
            "columns experiment,split and a row for every experiment (split is train, val or test)"
        )
    return "id_test" if kind == "train" and site > 1 else kind
