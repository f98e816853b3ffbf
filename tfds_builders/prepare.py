"""Prepares a dataset for training.

    python -m tfds_builders.prepare rxrx1 --source=DIR [--out=DIR] [--workers=N] [--strict]
    python -m tfds_builders.prepare rxrx3 --source=DIR --experiments=gene-001,compound-001 --plates=1,2
    python -m tfds_builders.prepare rxrx_sim [--out=DIR] [--set seed=1 --set layout=reshuffled]

From Python, prepare('rxrx_sim', out=..., seed=1) does the same and returns the folder; find(...) names it.
"""

import argparse
import csv
import importlib
import json
import pathlib
import shlex
import sys
from typing import Any

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError

# TFDS is imported inside the functions: spawned workers import this module again and need none of it.


def names() -> list[str]:
    """Returns the names of the builders: the folders in rxrx/ that hold NAME_dataset_builder.py."""
    files = pathlib.Path(__file__).parent.glob("rxrx/*/*_dataset_builder.py")
    return sorted(f.parent.name for f in files if f.name == f"{f.parent.name}_dataset_builder.py")


def builder_class(name: str) -> type:
    """Returns the ScreenBuilder of that name."""
    if name not in names():
        raise UserError(f"no dataset is called {name!r}; there are: {', '.join(names())}")
    return importlib.import_module(f"tfds_builders.rxrx.{name}.{name}_dataset_builder").Builder


def find(name: str, out: str | pathlib.Path | None = None, **settings) -> pathlib.Path:
    """Returns the folder that `prepare` with the same arguments fills, whether it exists or not."""
    import tensorflow_datasets as tfds

    builder = builder_class(name)
    out = pathlib.Path(out or tfds.core.constants.DATA_DIR).expanduser().absolute()
    return out / name / builder.make_config(**settings).name / str(builder.VERSION)


def prepare(name: str, source: str | pathlib.Path | None = None, out: str | pathlib.Path | None = None,
            workers: int | None = None, progress: bool = True, strict: bool = False,
            beam: list[str] | None = None, **settings) -> pathlib.Path:  # fmt: skip
    """Prepares a dataset unless its folder exists, and returns the folder; resumes a build that was stopped.

    Args:
      name: rxrx1, rxrx_sim, ...
      source: the folder of the raw data; only for datasets that are not simulated.
      out: the folder of all prepared datasets; TFDS's own (TFDS_DATA_DIR or ~/tensorflow_datasets) if None.
      workers: processes; all cores if None.
      progress: show a progress bar on stderr.
      strict: stop at the first site that would be set aside.
      beam: options of the Apache Beam pipeline that builds the plates; None for processes on this machine.
      **settings: of the builder and of its records; those that are not the default name the folder.
    """
    builder = builder_class(name)
    folder = find(name, out, **settings)
    if workers is not None and workers < 1:
        raise UserError(f"workers={workers}: use 1 or more")
    config = builder.make_config(**settings)
    made = builder(
        data_dir=folder.parents[2],
        config=config,
        source=source,
        workers=workers,
        progress=progress,
        strict=strict,
        beam=beam,
    )
    if folder.exists():
        about = details(folder)
        recorded = about.get("settings")
        if recorded != made.all_settings:
            raise UserError(f"{folder} was prepared with other settings ({recorded}): delete it or use another --out")
        lost = about["set_aside"] + about["unlisted"]
        if strict and lost:
            raise UserError(f"{folder} is there, and {lost:,} sites or files are not in its records (see report.html)")
    made.download_and_prepare()
    return folder


def details(folder: pathlib.Path) -> dict[str, Any]:
    """Returns metadata.json of a prepared folder: settings, source, label_space, classes, notes, ..."""
    try:
        return json.loads((folder / "metadata.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a folder that tfds_builders.prepare made ({error}): delete it") from error


def split_sizes(folder: pathlib.Path) -> dict[str, int]:
    """Returns the number of records of every split; 0 for a split that has none."""
    from tfds_builders.common.types import SPLITS

    sizes = dict.fromkeys(SPLITS, 0)
    with (folder / "sites.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sizes[row["split"]] += 1
    return sizes


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.prepare", description="Prepares a dataset for training."
    )
    parser.add_argument("name", help=f"the dataset: {', '.join(names())}")
    parser.add_argument("--source", help="folder of the raw data (not for simulated data)")
    parser.add_argument(
        "--out", help="folder of all prepared datasets (default: TFDS_DATA_DIR or ~/tensorflow_datasets)"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--experiments", help="build these only, such as HUVEC-01,HUVEC-02")
    parser.add_argument("--plates", help="build these only, such as 1,2")
    parser.add_argument("--cell-types", help="build these only, such as HUVEC,RPE")
    parser.add_argument("--encoding", help="of the records: delta, zstd, raw or source (docs/records.md)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the builder")
    parser.add_argument("--strict", action="store_true", help="stop at the first site that would be set aside")
    parser.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="build on Apache Beam with these pipeline options: '--runner=FlinkRunner ...'",
    )
    flags = parser.parse_args(argv)
    settings = dict(_setting(text) for text in flags.set)
    for key in ("experiments", "plates", "cell_types", "encoding"):
        if getattr(flags, key) is not None:
            settings[key] = getattr(flags, key)
    beam = None if flags.beam is None else _options(flags.beam)
    builder_class(flags.name)
    folder = find(flags.name, flags.out, **settings)
    if folder.exists():
        print(f"{folder} exists and is left as it is", flush=True)
    else:
        print(f"preparing {folder}", flush=True)
    prepare(flags.name, flags.source, flags.out, flags.workers, True, flags.strict, beam, **settings)
    _summarise(folder)
    source = details(folder)["source"]
    if flags.source and source != str(pathlib.Path(flags.source).expanduser().resolve()):
        print(f"note       it was prepared from {source}, not from {flags.source}; use another --out")


def _options(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--beam={text}: {error}") from error


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: use --set NAME=VALUE")
    return name, value


def _summarise(folder: pathlib.Path) -> None:
    about = details(folder)
    print(f"source     {about['source']} ({about['source_kind']})")
    print("records    " + ", ".join(f"{split} {n:,}" for split, n in split_sizes(folder).items()))
    print(f"set aside  {about['set_aside']:,}")
    for note in about["notes"]:
        print(f"note       {note}")
    print(f"report     {folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(command.run(main))
