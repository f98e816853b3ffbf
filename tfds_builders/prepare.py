"""Prepares a dataset for training.

    python -m tfds_builders.prepare rxrx1 --source=DIR [--out=DIR] [--workers=N] [--strict]
    python -m tfds_builders.prepare rxrx3 --source=DIR --experiments=gene-001,compound-001 --plates=1,2
    python -m tfds_builders.prepare rxrx_sim [--out=DIR] [--set seed=1 --set layout=reshuffled]
    python -m tfds_builders.prepare rxrx1 --source=DIR --out=gs://BUCKET/DIR [--staging=DIR]   # or s3://
    python -m tfds_builders.prepare path/to/my_builder.py --source=DIR
    python -m tfds_builders.prepare images --help     # plates of your own, without a builder: docs/own_plates.md
    python -m tfds_builders.prepare molecules --help  # a csv file of SMILES, or a simulated library: docs/molecules.md

From Python, prepare('rxrx_sim', out=..., seed=1) does the same and returns the folder; find(...) names it.
"""

import argparse
import csv
import importlib
import pathlib
import shlex
import sys
from typing import Any

from etils import epath

from rxrx_jax.base import command, files, plugins
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import mirror
from rxrx_jax.base.files import staging as staging_lib
from tfds_builders import rxrx
from tfds_builders.common import settings as settings_lib

READ = ("metadata.json", "dataset_info.json", "features.json", "sites.csv")  # of a folder that is there already
AGAIN = "delete the folder and run the same command to rebuild it"
MOLECULES = "molecules"

# TFDS is imported inside the functions: spawned workers import this module again and need none of it.


def names() -> list[str]:
    """Returns the names of the builders: the folders in rxrx/ that hold NAME_dataset_builder.py."""
    files = pathlib.Path(__file__).parent.glob("rxrx/*/*_dataset_builder.py")
    return sorted(f.parent.name for f in files if f.name == f"{f.parent.name}_dataset_builder.py")


def builder_class(name: str, out: str | pathlib.Path | None = None) -> type:
    """Returns a ScreenBuilder: that of a published dataset by its name, the one in a .py file by its path, or that of
    plates that `prepare images` has prepared under this name.

    Args:
      name: of the dataset, or the path of a file with one ScreenBuilder.
      out: the folder of all prepared datasets, as in `prepare`.
    """
    if name in names():
        return importlib.import_module(f"tfds_builders.rxrx.{name}.{name}_dataset_builder").Builder
    if name.endswith(".py"):
        import tensorflow_datasets as tfds

        from tfds_builders.common import screen

        with tfds.core.registered.skip_registration():  # a file may be loaded twice
            return plugins.only_class(plugins.load(name, rxrx, "dataset"), screen.ScreenBuilder, "dataset")
    from tfds_builders.own import builder

    found = builder.prepared(name, _folder(out))
    if found is None:
        raise UserError(
            f"no dataset is called {name!r}; there are: {', '.join(names())}, the path of a builder's .py file, and "
            f"your own plates, of which {_folder(out)} has none of that name"
        )
    return found


def _folder(out: str | pathlib.Path | None) -> pathlib.Path | epath.Path:
    import tensorflow_datasets as tfds

    if out and files.is_remote(out):
        return epath.Path(out)
    return pathlib.Path(out or tfds.core.constants.DATA_DIR).expanduser().absolute()


def find(name: str, out: str | pathlib.Path | None = None, **settings) -> pathlib.Path:
    """Returns the folder that `prepare` with the same arguments fills, whether it exists or not; of molecules, `source`
    is among the settings."""
    if name == MOLECULES:
        from tfds_builders.molecules import build as molecules

        return molecules.find(out=out, **settings)
    return _find(builder_class(name, out), out, settings)


def _find(builder: type, out: str | pathlib.Path | None, settings: dict[str, Any]) -> pathlib.Path:
    return _folder(out) / builder.name / builder.make_config(**settings).name / str(builder.VERSION)


def prepare(name: str, /, source: str | pathlib.Path | None = None, out: str | pathlib.Path | None = None,
            workers: int | None = None, progress: bool = True, strict: bool = False,
            beam: list[str] | None = None, follow_links: bool = False, staging: str | pathlib.Path | None = None,
            **settings) -> pathlib.Path | epath.Path:  # fmt: skip
    """Prepares a dataset unless its folder exists, and returns the folder; resumes a build that was stopped.

    Args:
      name: rxrx1, rxrx_sim, ..., the path of a builder's file, or molecules.
      source: the folder of the raw data, of molecules a csv file; only for datasets that are not simulated.
      out: the folder of all prepared datasets, on a disk, gs:// or s3://; TFDS's own (TFDS_DATA_DIR or
        ~/tensorflow_datasets) if None.
      workers: processes; all cores if None.
      progress: show a progress bar on stderr.
      strict: stop at the first site that would be set aside.
      beam: options of the Apache Beam pipeline that builds the plates; None for processes on this machine.
      follow_links: read also what is a link out of the source folder, as in a hub's cache or on a second disk.
      staging: the folder on a disk in which a dataset for an object store is built before it is uploaded.
      **settings: of the builder and of its records; those that are not the default name the folder.
    """
    if name == MOLECULES:
        from tfds_builders.molecules import build as molecules

        if beam is not None or follow_links:
            raise UserError("molecules are built in processes of this machine, from one file: without beam and links")
        return molecules.prepare(source, out, workers, progress, strict, staging, **settings)
    how = workers, progress, strict, beam, follow_links, staging
    return build(builder_class(name, out), source, out, *how, **settings)


def build(builder: type, source: str | pathlib.Path | None = None, out: str | pathlib.Path | None = None,
          workers: int | None = None, progress: bool = True, strict: bool = False,
          beam: list[str] | None = None, follow_links: bool = False, staging: str | pathlib.Path | None = None,
          **settings) -> pathlib.Path | epath.Path:  # fmt: skip
    """As `prepare`, of a ScreenBuilder."""
    folder = _find(builder, out, settings)
    if files.is_remote(folder) and not mirror.exists(folder):
        how = workers, progress, strict, beam, follow_links
        here = lambda place: build(builder, source, place, *how, **settings)  # noqa: E731
        return staging_lib.fill(here, folder, staging, progress)
    if files.is_remote(folder):
        config = builder.make_config(**settings)
        wanted = settings_lib.as_json((config.settings, config.records))
        _check(mirror.local(folder), wanted, strict, folder)
        return folder
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
        follow_links=follow_links,
    )
    if folder.exists():
        _check(folder, made.all_settings, strict, folder)
    made.download_and_prepare()
    return folder


def _check(folder: pathlib.Path, settings: dict[str, Any], strict: bool, where: pathlib.Path | epath.Path) -> None:
    """Raises UserError unless a folder, which is, or stands for, `where`, was prepared with these settings; if strict,
    also where something was set aside."""
    about = details(folder)
    recorded = about.get("settings")
    if recorded != settings:
        keys = [key for key, value in settings.items() if recorded.get(key) != value]
        changed = f"{keys[0]}={recorded.get(keys[0])!r}" if keys else str(recorded)
        raise UserError(f"{where} was prepared with other settings ({changed}): delete it or use another --out")
    lost = about["set_aside"] + about["unlisted"]
    if strict and lost:
        raise UserError(f"{where} is there, and {lost:,} sites or files are not in its records (see report.html)")


def details(folder: pathlib.Path) -> dict[str, Any]:
    """Returns metadata.json of a prepared folder: settings, source, label_space, classes, notes, ...

    Raises UserError if the folder's tables are not what the build wrote."""
    if not (folder / "metadata.json").exists():
        raise UserError(f"{folder} is not a folder that tfds_builders.prepare made (no metadata.json): delete it")
    about = files.read_json(folder / "metadata.json", AGAIN)
    missing = [key for key in ("settings", "source", "source_kind", "set_aside", "unlisted", "notes")
               if key not in about]  # fmt: skip
    wrong = files.changed(folder, READ, AGAIN, "sums" in about) or [f"metadata.json has no {key}" for key in missing]
    if wrong:
        raise UserError(f"{folder}: {wrong[0]}; {AGAIN}")
    return about


def split_sizes(folder: pathlib.Path) -> dict[str, int]:
    """Returns the number of sites of every split; 0 for a split that has none."""
    from rxrx_jax.base.spellings import SPLITS

    sizes = dict.fromkeys(SPLITS, 0)
    try:
        with (folder / "sites.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                sizes[row["split"]] += 1
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{folder / 'sites.csv'} is damaged ({error}); {AGAIN}") from error
    return sizes


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["images"]:
        from tfds_builders.own import command as own

        return own.main(argv[1:])
    if argv[:1] == [MOLECULES]:
        from tfds_builders.molecules import command as molecules

        return molecules.main(argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.prepare", description="Prepares a dataset for training."
    )
    known = f"{', '.join(names())}; the path of a builder's .py file; `images`: plates of your own (images --help); "
    known += "or `molecules` (molecules --help)"
    parser.add_argument("name", help=f"the dataset: {known}")
    add_common(parser)
    parser.add_argument("--experiments", help="build these only, such as HUVEC-01,HUVEC-02")
    parser.add_argument("--plates", help="build these only, such as 1,2")
    parser.add_argument("--cell-types", help="build these only, such as HUVEC,RPE")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the builder")
    flags = parser.parse_args(argv)
    settings = dict(_setting(text) for text in flags.set)
    for key in ("experiments", "plates", "cell_types", "encoding", "tile"):
        if getattr(flags, key) is not None:
            settings[key] = getattr(flags, key)
    run(builder_class(flags.name, flags.out), flags, settings)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every dataset has."""
    parser.add_argument("--source", help="folder of the raw data (not for simulated data)")
    parser.add_argument(
        "--out",
        help="folder of all prepared datasets, or gs://, s3:// (default: TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument("--staging", help=staging_lib.HELP)
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--encoding", help="of the records: delta, zstd, raw or source (docs/records.md)")
    parser.add_argument(
        "--tile", type=int, help="cut images into records of so many pixels squared, of which a crop reads up to four; "
        "0: whole images (default: tiles for images over 1,024 pixels; docs/records.md)",
    )  # fmt: skip
    parser.add_argument("--follow-links", action="store_true", help="read links that lead out of the source, too")
    parser.add_argument("--strict", action="store_true", help="stop at the first site that would be set aside")
    parser.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="build on Apache Beam with these pipeline options: '--runner=FlinkRunner ...'",
    )


def run(builder: type, flags: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Builds what a command line says, and prints what came of it."""
    beam = None if flags.beam is None else _options(flags.beam)
    folder = _find(builder, flags.out, settings)
    if mirror.exists(folder) if files.is_remote(folder) else folder.exists():
        print(f"{folder} exists and is left as it is", flush=True)
    else:
        print(f"preparing {folder}", flush=True)
    shared = flags.source, flags.out, flags.workers, True, flags.strict, beam, flags.follow_links, flags.staging
    build(builder, *shared, **settings)
    here = mirror.local(folder)
    _summarise(here, folder)
    source = details(here)["source"]
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


def _summarise(folder: pathlib.Path, where: pathlib.Path | epath.Path) -> None:
    about = details(folder)
    print(f"source     {about['source']} ({about['source_kind']})")
    if "tile" in about:
        tile, (rows, columns) = about["tile"], about["grid"]
        print(f"tiles      {rows * columns:,} per site, {tile}x{tile} pixels, each a record")
    print(
        f"{'sites' if 'tile' in about else 'records':<11}"
        + ", ".join(f"{split} {n:,}" for split, n in split_sizes(folder).items())
    )
    print(f"set aside  {about['set_aside']:,}")
    for note in about["notes"]:
        print(f"note       {note}")
    print(f"report     {where / 'report.html'}")


if __name__ == "__main__":
    sys.exit(command.run(main))
