"""Prepares published embeddings as a dataset of their own, which probes and maps read without any image.

    python -m tfds_builders.prepare_embeddings rxrx1 --source=DIR [--embeddings=FILE_OR_FOLDER] [--out=DIR]

DIR holds the table of the dataset, as for prepare, and the embeddings (embeddings.csv, embeddings.tar or a tree of
Parquet files) unless --embeddings says where they are. tfds_builders.download fetches both where that is allowed.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
from typing import Any

from rxrx_jax.base import command, files
from rxrx_jax.base.errors import UserError
from tfds_builders import prepare as prepare_lib


def find(name: str, out: str | pathlib.Path | None = None) -> pathlib.Path:
    """Returns the folder that `prepare` with the same arguments fills, whether it exists or not."""
    folder = prepare_lib.find(name, out)
    return folder.parents[2] / f"{name}_embeddings" / "default" / folder.name


def prepare(
    name: str,
    source: str | pathlib.Path,
    embeddings: str | pathlib.Path | None = None,
    out: str | pathlib.Path | None = None,
    progress: bool = True,
) -> pathlib.Path:
    """Joins published embeddings with the table of their dataset unless the folder exists, and returns the folder.

    Args:
      name: rxrx1, rxrx2, ...
      source: the folder with the dataset's table.
      embeddings: a file or folder; None: what `source` holds.
      out: the folder of all prepared datasets; TFDS's own (TFDS_DATA_DIR or ~/tensorflow_datasets) if None.
      progress: show progress bars on stderr.
    """
    from tfds_builders.embeddings import join, vectors

    builder, folder = prepare_lib.builder_class(name), find(name, out)
    if folder.exists():
        return folder
    source = pathlib.Path(source).expanduser().absolute()
    found = vectors.find(pathlib.Path(embeddings).expanduser().absolute() if embeddings else source)
    with files.not_left_empty(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        working = pathlib.Path(tempfile.mkdtemp(prefix="incomplete.", suffix=f"_{folder.name}", dir=folder.parent))
        try:
            join.build(builder(data_dir=working / "none", source=source), found, working, progress)
            working.chmod(0o755)  # mkdtemp makes it private
            try:
                working.rename(folder)
            except OSError:
                if not folder.exists():  # else another process has just prepared the same
                    raise
        finally:
            shutil.rmtree(working, ignore_errors=True)
    return folder


def details(folder: pathlib.Path) -> dict[str, Any]:
    """Returns metadata.json of such a folder. Raises UserError if it is not what was written."""
    remedy = f"{folder} is not a folder that prepare_embeddings made, or damaged: delete it"
    about = files.read_json(folder / "metadata.json", remedy)
    for what in files.changed(folder, ["metadata.json"], remedy, "sums" in about)[:1]:
        raise UserError(f"{folder}: {what}; {remedy}")
    return about


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.prepare_embeddings",
        description="Joins published embeddings with the table of their dataset.",
    )
    parser.add_argument("name", help=f"the dataset: {', '.join(prepare_lib.names())}")
    parser.add_argument("--source", required=True, help="folder of the raw data, with the table of the dataset")
    parser.add_argument("--embeddings", help="file or folder of the embeddings (default: what the source holds)")
    parser.add_argument(
        "--out", help="folder of all prepared datasets (default: TFDS_DATA_DIR or ~/tensorflow_datasets)"
    )
    flags = parser.parse_args(argv)
    folder = find(flags.name, flags.out)
    print(f"{folder} exists and is left as it is" if folder.exists() else f"preparing {folder}", flush=True)
    for left in folder.parent.glob(f"incomplete.*_{folder.name}"):
        print(f"note       {left} is of a killed build: delete it if none runs")
    prepare(flags.name, flags.source, flags.embeddings, flags.out)
    _summarise(folder)


def _summarise(folder: pathlib.Path) -> None:
    about = details(folder)
    counts = about["counts"]
    print(f"embeddings {about['embeddings'][0]} ({about['embedding_files']:,} files), {about['dim']} values a "
          f"{about['embedding_of']}")  # fmt: skip
    print("rows       " + ", ".join(f"{split} {n:,}" for split, n in counts["splits"].items()))
    print(f"set aside  {counts['set_aside']:,} (set_aside.csv)")
    print(f"without a row {counts['without_row']:,} embeddings (unlisted.csv); duplicates {counts['duplicates']:,}")
    for note in about["notes"]:
        print(f"note       {note}")
    print(f"probe      python -m rxrx_jax.probe_embeddings {folder}")


if __name__ == "__main__":
    sys.exit(command.run(main))
