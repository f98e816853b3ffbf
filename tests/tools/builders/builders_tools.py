"""What the tests of the builders share: a tiny screen and ways to look at a prepared folder."""

import csv
import hashlib
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from rxrx_jax.base import files
from rxrx_jax.simulate.screen import Screen
from tfds_builders.prepare import prepare
from tfds_builders.rxrx.rxrx_sim.rxrx_sim_dataset_builder import Builder

VERSION = str(Builder.VERSION)  # of the simulated screen
SPLITS = ("train", "id_test", "val", "test")
SCREEN_FIELDS = dict(
    image_size=32, treatments=4, positive_controls=1, replicates=1, positive_wells=1, untreated_wells=1,
    plates=2, train=("SIMA-01", "SIMB-01"), val=("SIMA-02",), test=("SIMB-02",),
)  # fmt: skip
SCREEN = Screen(**SCREEN_FIELDS)  # 4 experiments x 2 plates x 4 wells x 2 sites = 64 sites


def build(source: pathlib.Path, out: pathlib.Path, workers: int = 1, **settings) -> pathlib.Path:
    """Prepares rxrx1 from a tree and returns the folder."""
    return prepare("rxrx1", source, out, workers, progress=False, **settings)


def records(folder: pathlib.Path) -> dict[str, list[dict]]:
    """Returns every record of every split, with text decoded."""
    sources = tfds.builder_from_directory(folder).as_data_source()
    text = lambda record: {k: v.decode() if isinstance(v, bytes) else v for k, v in record.items()}  # noqa: E731
    return {split: [text(source[i]) for i in range(len(source))] for split, source in sources.items()}


def flat(folder: pathlib.Path) -> dict[str, dict]:
    """Returns every record by site_id, with its split and without the array type of its integers."""
    found = {}
    for split, items in records(folder).items():
        for item in items:
            plain = {k: int(v) if isinstance(v, np.integer) else v for k, v in item.items()}
            found[item["site_id"]] = {**plain, "split": split}
    return found


def same(a: dict, b: dict, but: tuple[str, ...] = ()) -> bool:
    """Whether two records are equal, pixels included, but for some keys."""
    keys = (a.keys() | b.keys()) - set(but)
    return all(np.array_equal(a[key], b[key]) for key in keys)


def digests(folder: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of every file that should depend on the data alone."""
    paths = [p for p in folder.iterdir() if ".array_record" in p.name or p.suffix == ".csv" or p.stem == "statistics"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a csv file."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def write_csv(path: pathlib.Path, rows: list[dict[str, str]]) -> None:
    """Writes rows with the columns of the first."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def sign(folder: pathlib.Path) -> None:
    """Writes the SHA256SUMS of a folder after a change, so that only what the change itself is can be noticed."""
    files.write_sums(folder, (path.name for path in folder.iterdir() if ".array_record-" not in path.name))


def set_aside(folder: pathlib.Path) -> list[tuple[str, str]]:
    """Returns (site_id, reason) of set_aside.csv."""
    return [(row["site_id"], row["reason"]) for row in read_csv(folder / "set_aside.csv")]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns every file of a prepared folder, the report and TFDS's descriptions too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    """Stops a build as a signal would: nothing but `finally` runs after it."""


def kill_at(monkeypatch, owner, name, number):
    """Lets the number-th call of owner.name raise Killed; returns the list of calls."""
    calls, original = [], getattr(owner, name)

    def wrapper(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapper)
    return calls
