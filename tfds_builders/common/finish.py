"""Assembles a built folder: names the shards as TFDS does, and writes the tables beside them."""

import collections
import contextlib
import csv
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from rxrx_jax.base.spellings import SPLITS
from tfds_builders.common import plates, repeats
from tfds_builders.common.types import SITE_COLUMNS


def finish(task: plates.Task, names: list[tuple[str, int]], folder: pathlib.Path, dataset: str) -> dict[str, Any]:
    """Moves the shards to `folder` and writes its tables; may be stopped and repeated.

    Args:
      task: the build, all of whose plates have a result.
      names: (experiment, plate) of every plate, in the order of the records.
      folder: the folder to fill.
      dataset: its name, for the names of the shards.

    Returns:
      {"splits": list of tfds.core.SplitInfo, "set_aside": number, "unlisted": number, "records": number of sites,
      "read": what the readers counted, "repeats": images and channels that occur twice}.
    """
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        tables = _Tables(task, folder, stack)
        for item in task.plan.set_aside():
            tables.set_aside.writerow(item)
            tables.counts["set_aside"] += 1
        for name in task.reader.strays():
            tables.unlisted.writerow((name,))
            tables.counts["unlisted"] += 1
        for experiment, plate in names:
            tables.add(json.loads(plates.result_path(task, experiment, plate).read_text()))
    tables.join()
    found = tables.digests.repeats(folder / "sites.csv")
    repeats.write(folder / repeats.NAME, found)
    _write_csv(folder / "perturbations.csv", ("perturbation_id", "perturbation", "well_type"), task.plan.classes())
    (folder / "statistics.json").write_text(json.dumps(statistics(task.shape, tables.moments), indent=1) + "\n")
    histograms = {"bins": 256, "experiment": tables.histograms}
    (folder / "histograms.json").write_text(json.dumps(histograms) + "\n")
    splits = [
        _place_shards(task, folder, dataset, split, tables.shards[split]) for split in SPLITS if tables.shards[split]
    ]
    return {
        "splits": splits,
        "records": sum(tables.records.values()),
        "read": tables.read,
        "repeats": found,
        **tables.counts,
    }


class _Tables:
    """The csv files of a folder, one part per split until they are joined, so that a split's rows are together."""

    def __init__(self, task: plates.Task, folder: pathlib.Path, stack: contextlib.ExitStack):
        self.folder, self.stack = folder, stack
        self.columns = list(dict.fromkeys((*SITE_COLUMNS, *task.extra_columns)))
        means = [f"mean_w{channel + 1}" for channel in range(task.shape[2])]
        self.headers = {
            "sites": self.columns,
            "original": ["record_split", "record_site_id", *task.plan.about()["originals"]],
            "manifest": ["split", "index", "site_id", "bytes", "sha256", *means],
        }
        self.parts: dict[tuple[str, str], Any] = {}
        self.set_aside = self._writer("set_aside.csv")
        self.set_aside.writerow(("site_id", "reason", "experiment", "split"))
        self.unlisted = self._writer("unlisted.csv")
        self.unlisted.writerow(("file",))
        self.counts = {"set_aside": 0, "unlisted": 0}
        self.shards: dict[str, list[dict]] = collections.defaultdict(list)
        self.digests = repeats.Digests(task.shape[2])
        self.moments: dict[tuple[str, str], dict] = {}
        self.histograms: dict[str, list[list[int]]] = {}
        self.records = collections.Counter()
        self.read = collections.Counter()  # what the readers counted

    def _writer(self, name: str) -> Any:
        file = self.stack.enter_context((self.folder / name).open("w", newline="", encoding="utf-8"))
        return csv.writer(file, lineterminator="\n")

    def _part(self, table: str, split: str) -> Any:
        if (table, split) not in self.parts:
            self.parts[table, split] = self._writer(f"{table}.{split}.partial")
        return self.parts[table, split]

    def add(self, result: dict[str, Any]) -> None:
        """Adds a plate's result."""
        experiment = result["experiment"]
        self.set_aside.writerows(result["set_aside"])
        self.unlisted.writerows([name] for name in result["unlisted"])
        for key in self.counts:
            self.counts[key] += len(result[key])
        self.read.update(result["counts"])
        for shard in result["shards"]:
            self.shards[shard["split"]].append(shard)
        for site in result["sites"]:
            split, manifest = site["split"], site["manifest"]
            originals = [site.get("original", {}).get(name, "") for name in self.headers["original"][2:]]
            entry = (self.records[split], site["site_id"], manifest["bytes"], manifest["sha256"])
            self._part("sites", split).writerow([_text(site[name]) for name in self.columns])
            self._part("original", split).writerow([split, site["site_id"], *originals])
            self._part("manifest", split).writerow([split, *entry, *(f"{m:.6g}" for m in manifest["mean"])])
            self.digests.add(split, manifest["digests"])
            self.records[split] += 1
        if result["sites"]:
            add_moments(self.moments, ("experiment", experiment), result["moments"])
            add_moments(self.moments, ("plate", f"{experiment}/{result['plate']}"), result["moments"])
            add_moments(self.moments, ("dataset", ""), result["train_moments"])
            add_histogram(self.histograms, experiment, result["histogram"])

    def join(self) -> None:
        """Joins the parts of each table, split by split; their files are closed by now."""
        for table, header in self.headers.items():
            with (self.folder / f"{table}.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerow(header)
                for split in SPLITS:
                    part = self.folder / f"{table}.{split}.partial"
                    if (table, split) in self.parts:
                        with part.open(newline="", encoding="utf-8") as lines:
                            file.writelines(lines)
                        part.unlink()


def _text(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _add(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    return [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def add_histogram(histograms: dict[str, list[list[int]]], experiment: str, more: list[list[int]]) -> None:
    """Adds counts [C][256] to those of an experiment."""
    histograms[experiment] = _add(histograms[experiment], more) if experiment in histograms else more


def add_moments(moments: dict[tuple[str, str], dict], key: tuple[str, str], more: dict[str, Any]) -> None:
    """Adds what `plates.moments` returned to the entry of (level, name)."""
    entry = moments.setdefault(
        key, {"sites": 0, "total": [0] * len(more["total"]), "squares": [0] * len(more["total"])}
    )
    entry["sites"] += more["sites"]
    entry["total"], entry["squares"] = _add([entry["total"], entry["squares"]], [more["total"], more["squares"]])


def statistics(shape: tuple[int, int, int], moments: dict[tuple[str, str], dict]) -> dict[str, Any]:
    """Returns the content of statistics.json: mean and standard deviation by channel, in the records' pixel units."""
    height, width, channels = shape
    result = {"channels": channels, "dataset": {"mean": None, "std": None, "sites": 0}, "experiment": {}, "plate": {}}
    for (level, name), entry in moments.items():
        n = entry["sites"] * height * width
        if not n:
            continue
        # Python integers: n * sum of squares does not fit 64 bits for the whole of RxRx1.
        pairs = list(zip(entry["total"], entry["squares"], strict=True))
        values = {
            "mean": [s / n for s, _ in pairs],
            "std": [math.sqrt((n * q - s * s) / n**2) for s, q in pairs],
            "sites": entry["sites"],
        }
        if level == "dataset":
            result[level] = values
        else:
            result[level][name] = values
    return result


def _place_shards(
    task: plates.Task, folder: pathlib.Path, dataset: str, split: str, shards: list[dict[str, Any]]
) -> tfds.core.SplitInfo:
    """Gives a split's shards their names, and waits until the disk has them."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=dataset, split=split, filetype_suffix="array_record"
    )
    targets = [pathlib.Path(path) for path in template.sharded_filepaths(len(shards))]
    for shard, target in zip(shards, targets, strict=True):
        path = task.folder / shard["file"]
        target.unlink(missing_ok=True)  # of an earlier call that was stopped
        try:
            os.link(path, target)  # and not renamed: a build that is stopped here resumes with it
        except OSError:  # a file system without links
            path.replace(target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=[shard["records"] for shard in shards],
        num_bytes=sum(shard["bytes"] for shard in shards),
        filename_template=template,
    )


def first_set_aside(folder: pathlib.Path) -> str:
    """Returns '; 3 set aside, the first is SITE: REASON', or '' if nothing is."""
    with (folder / "set_aside.csv").open(newline="", encoding="utf-8") as file:
        items = csv.DictReader(file)
        first = next(items, None)
        if first is None:
            return ""
        return f"; {1 + sum(1 for _ in items):,} set aside, the first is {first['site_id']}: {first['reason']}"


def _write_csv(path: pathlib.Path, header: tuple[str, ...], rows: Iterator[tuple] | list[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
