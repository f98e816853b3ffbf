"""Reads every record of a prepared folder again and compares it with what the build wrote beside it.

    python -m tfds_builders.verify DIR [--workers=N]     # or gs://BUCKET/DIR, s3://BUCKET/DIR

Every file beside the records must have the hash of SHA256SUMS (a folder of an earlier version has none, which is
said), each record's bytes the hash of manifest.csv; a record must decode and say what sites.csv says; statistics.json
and histograms.json are computed again from the pixels; counts must agree everywhere. Exit status 0 if all of it does,
1 with a line for each difference if not, 2 if it is not such a folder or too damaged to compare. Of embeddings that
tfds_builders.prepare_embeddings joined, every file is compared with SHA256SUMS.
"""

import argparse
import collections
import concurrent.futures
import csv
import itertools
import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import tqdm

from rxrx_jax.base import command, files
from rxrx_jax.base.command import cores
from rxrx_jax.base.embeddings import NAME as EMBEDDINGS
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import mirror
from rxrx_jax.base.spellings import SPLITS
from rxrx_jax.molecules.records import TABLE as MOLECULES
from tfds_builders import verify_shard
from tfds_builders.common.types import SITE_COLUMNS
from tfds_builders.verify_shard import AGAIN

SHOWN = 50  # differences that are printed; all are counted


def verify(folder: pathlib.Path | str, workers: int | None = None, progress: bool = False) -> list[str]:
    """Returns what is wrong with a prepared folder, a sentence each; empty if nothing is."""
    return examine(folder, workers, progress)[0]


def examine(folder: pathlib.Path | str, workers: int | None, progress: bool) -> tuple[list[str], list[str]]:
    """Returns what is wrong with a prepared folder, and what is right and should be known, a sentence each.

    Args:
      folder: the folder of a config and version, that holds dataset_info.json, on a disk or in an object store.
      workers: processes; all cores if None.
      progress: show a progress bar on stderr.
    """
    from tfds_builders.common import build, repeats

    address = str(folder) if files.is_remote(folder) else ""
    if address:
        where = mirror.Mirror(address, whole=True)
        where.place(where.records())
        folder = where.folder
    if (folder / EMBEDDINGS).exists() or (folder / MOLECULES).exists():
        return files.changed(folder, None, AGAIN, required=True), []
    changed: list[str] = []
    try:
        about = _read_json(folder, "metadata.json") | {"address": address}
        changed = files.changed(folder, None, AGAIN, "sums" in about)
        if "sums" in about and not changed:  # what it names is there: is what the build wrote named?
            changed = files.changed(folder, _tables(folder), AGAIN, True)
        lengths = _shard_lengths(folder)
        _check_columns(folder, about)
        verify_shard.read_features(folder)
        wrong, shards = _match_tables(folder, about, lengths)
    except UserError:
        raise
    except Exception as error:  # a damaged file may raise anything
        reason = changed[0] if changed else f"{type(error).__name__}: {error}"
        raise UserError(f"{folder}: cannot be verified ({reason}); {AGAIN}") from error
    if wrong:
        return changed + wrong, []  # the rows do not belong to the records: comparing them tells nothing more
    wrong = changed
    digests = repeats.Digests(about["image_shape"][2])
    sums: dict[str, Any] = {"moments": {}, "histograms": {}, "digests": digests}
    workers = min(workers or len(cores()), max(1, len(shards)))
    total = sum(number for *_, number in shards)
    with (
        build.open_pool(workers) as pool,
        tqdm.tqdm(total=total, unit=" records", desc="verify", disable=not progress) as bar,
    ):
        try:
            for found in _ordered(pool, _rows_of_shards(folder, shards, about), workers):
                wrong += found["wrong"]
                _add(sums, found)
                bar.update(found["records"])
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError("a worker died, for the reason above or out of memory: use fewer --workers") from error
    wrong += _compare_sums(folder, about, sums)
    if wrong:
        return wrong, []
    found, path = digests.repeats(folder / "sites.csv"), folder / repeats.NAME
    if path.exists():  # an earlier version did not write it
        try:
            same = repeats.read(path) == found
        except ValueError:
            same = False
        wrong += [] if same else [f"{path.name} is not what the records give"]
    return wrong, list(repeats.notes(found, about.get("channels", ())))


def _tables(folder: pathlib.Path) -> list[str]:
    """Returns the names of the files beside the records that are of a build."""
    kinds = (".csv", ".json", ".html")
    return sorted(path.name for path in folder.iterdir() if path.suffix in kinds or path.name == "LICENSE")


def _read_json(folder: pathlib.Path, name: str) -> dict[str, Any]:
    if not (folder / name).exists():
        raise UserError(f"{folder / name} is missing: is {folder} a folder that tfds_builders.prepare made?")
    return files.read_json(folder / name, AGAIN)


def _check_columns(folder: pathlib.Path, about: dict[str, Any]) -> None:
    """Raises an error unless everything that is compared later can be read."""
    for name in ("statistics.json", "histograms.json", "features.json"):
        _read_json(folder, name)
    means = [f"mean_w{channel + 1}" for channel in range(about["image_shape"][2])]
    for name, columns in (
        ("sites", SITE_COLUMNS),
        ("manifest", ("split", "index", "site_id", "bytes", "sha256", *means)),
        ("original", ("record_split", "record_site_id")),
        ("perturbations", ("perturbation_id", "perturbation")),
        ("set_aside", ("site_id", "reason")),
        ("unlisted", ("file",)),
    ):
        path = folder / f"{name}.csv"
        with files.reading(path, AGAIN) as file:
            missing = sorted(set(columns) - set(next(csv.reader([file.readline().decode()]), [])))
        if missing:
            raise UserError(f"{path} has no column {missing[0]}; {AGAIN}")


def _shard_lengths(folder: pathlib.Path) -> dict[str, list[int]]:
    """Returns the number of records of each shard, by split."""
    info = _read_json(folder, "dataset_info.json")
    return {split["name"]: [int(n) for n in split["shardLengths"]] for split in info["splits"]}


def _match_tables(
    folder: pathlib.Path, about: dict[str, Any], lengths: dict[str, list[int]]
) -> tuple[list[str], list[tuple[str, pathlib.Path, int]]]:
    """Returns what is wrong with files and counts, and (split, path, sites) of every shard in order."""
    wrong, shards, tiles = [], [], math.prod(about.get("grid", (1,)))
    counts = {name: collections.Counter() for name in ("sites", "original", "manifest")}
    names = {row["perturbation_id"]: row["perturbation"] for row in _rows(folder / "perturbations.csv")}
    aside = {r["site_id"] for r in _rows(folder / "set_aside.csv") if not r["reason"].startswith("duplicate row")}
    ids = set()
    tables = (_rows(folder / f"{name}.csv") for name in counts)
    for site, original, manifest in itertools.zip_longest(*tables):
        for name, row, key in (("original", original, "record_split"), ("manifest", manifest, "split")):
            if row is not None:
                counts[name][row[key]] += 1
        if site is None:
            continue
        counts["sites"][site["split"]] += 1
        site_id = site["site_id"]
        if hash(site_id) in ids:  # hashes, not names: 2.2 million of them
            wrong.append(f"sites.csv: {site_id} occurs twice")
        ids.add(hash(site_id))
        if original is not None and original["record_site_id"] != site_id:
            wrong.append(f"original.csv has {original['record_site_id']} where sites.csv has {site_id}")
        if site["well_id"] != site_id.rpartition("_")[0]:
            wrong.append(f"sites.csv: well_id {site['well_id']} is not that of {site_id}")
        if site["perturbation"] and names.get(site["perturbation_id"]) != site["perturbation"]:
            wrong.append(f"sites.csv: {site_id} has perturbation {site['perturbation']}, not that of its id")
        if site_id in aside:
            wrong.append(f"{site_id} is in sites.csv and in set_aside.csv")
    for split in SPLITS:
        records = sum(lengths.get(split, []))
        for name, counter in counts.items():
            if counter[split] * tiles != records:
                wrong.append(f"{name}.csv has {counter[split]:,} rows of {split}, for {records:,} records")
        files = sorted(folder.glob(f"*-{split}.array_record-*"))
        if len(files) != len(lengths.get(split, [])):
            wrong.append(f"{split} has {len(files)} shards, dataset_info.json names {len(lengths.get(split, []))}")
        shards += [(split, path, n // tiles) for path, n in zip(files, lengths.get(split, []), strict=False)]
    for name, key in (("set_aside", "set_aside"), ("unlisted", "unlisted")):
        number = sum(1 for _ in _rows(folder / f"{name}.csv"))
        if number != about[key]:
            wrong.append(f"{name}.csv has {number:,} rows, metadata.json says {about[key]:,}")
    return wrong, shards


def _rows(path: pathlib.Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _rows_of_shards(folder: pathlib.Path, shards: list, about: dict[str, Any]) -> Iterator[tuple]:
    """Yields the arguments of `verify_shard.compare` for every shard."""
    about = {key: about[key] for key in ("image_shape", "grid", "address") if key in about}
    sites, manifest = _rows(folder / "sites.csv"), _rows(folder / "manifest.csv")
    index = collections.Counter()
    for split, path, records in shards:
        mine = list(itertools.islice(sites, records)), list(itertools.islice(manifest, records))
        yield folder, path, index[split], *mine, about
        index[split] += records


def _ordered(pool: Any, items: Iterator[tuple], workers: int) -> Iterator[dict[str, Any]]:
    """Yields the results in order, with few shards in flight."""
    if pool is None:
        yield from itertools.starmap(verify_shard.compare, items)
        return
    running = collections.deque(
        pool.submit(verify_shard.compare, *item) for item in itertools.islice(items, 2 * workers)
    )
    while running:
        result = running.popleft().result()
        running.extend(pool.submit(verify_shard.compare, *item) for item in itertools.islice(items, 1))
        yield result


def _add(sums: dict[str, Any], found: dict[str, Any]) -> None:
    from tfds_builders.common import finish

    if found["read"]:
        sums["digests"].add(found["split"], found["digests"])
        finish.add_moments(sums["moments"], ("experiment", found["experiment"]), found["moments"])
        finish.add_moments(sums["moments"], ("plate", f"{found['experiment']}/{found['plate']}"), found["moments"])
        if found["split"] == "train":
            finish.add_moments(sums["moments"], ("dataset", ""), found["moments"])
        finish.add_histogram(sums["histograms"], found["experiment"], found["histogram"])


def _compare_sums(folder: pathlib.Path, about: dict[str, Any], sums: dict[str, Any]) -> list[str]:
    from tfds_builders.common import finish

    wrong = []
    shape = tuple(about["image_shape"])
    if _read_json(folder, "statistics.json") != finish.statistics(shape, sums["moments"]):
        wrong.append("statistics.json is not what the records give")
    if _read_json(folder, "histograms.json").get("experiment") != sums["histograms"]:
        wrong.append("histograms.json is not what the records give")
    return wrong


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.verify", description="Reads a prepared folder again and compares."
    )
    parser.add_argument("folder", help="the folder with dataset_info.json")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    flags = parser.parse_args(argv)
    remote = files.is_remote(flags.folder)
    folder = pathlib.Path(flags.folder).expanduser().absolute()
    wrong, notes = examine(flags.folder if remote else folder, flags.workers, progress=True)
    if remote:
        folder = mirror.local(flags.folder)
    if not (folder / files.SUMS).exists():
        print(
            f"note: {flags.folder} has no {files.SUMS}, as an earlier version prepared it: of the files beside the "
            "records that is verified which the records say again; to have it, rebuild the dataset"
        )
    for line in (*(f"note: {note}" for note in notes), *wrong[:SHOWN]):
        print(line)
    if wrong:
        print(f"{flags.folder}: {len(wrong):,} differences" + (f", {SHOWN} shown" if len(wrong) > SHOWN else ""))
        return 1
    records = "" if (folder / EMBEDDINGS).exists() else f"{sum(map(sum, _shard_lengths(folder).values())):,} records "
    print(f"{flags.folder}: {records or 'all files '}are what the build wrote")
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
