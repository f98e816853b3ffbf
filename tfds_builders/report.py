"""The files beside the records of a prepared folder: tables, pixel statistics and the report for people."""

import collections
import csv
import dataclasses
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

SPLITS = ("train", "id_test", "val", "test")
SITE_COLUMNS = (
    "split",
    "site_id",
    "well_id",
    "cell_type",
    "experiment",
    "plate",
    "well",
    "site",
    "well_type",
    "perturbation",
    "perturbation_id",
)
UNLISTED_SHOWN = 1000  # image files without a row that the report names; it always gives their number


class SetAside(NamedTuple):
    """A site that does not become a record; experiment and split are '' when its row does not tell."""

    site_id: str
    reason: str
    experiment: str = ""
    split: str = ""


@dataclasses.dataclass
class Table:
    """What a source holds, before any image is read."""

    rows: list[dict[str, Any]]  # sites, ordered by experiment, plate, well, site
    set_aside: list[SetAside] = dataclasses.field(default_factory=list)
    classes: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)  # perturbation_id, name, well_type
    unlisted: list[str] = dataclasses.field(default_factory=list)  # image files that no row asks for
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # into metadata.json and the report
    notes: list[str] = dataclasses.field(default_factory=list)  # what a user should know, one sentence each


def classes_of(rows: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    """Returns (perturbation_id, name, well_type) of every labelled class, by id; the first name wins."""
    classes: dict[int, tuple[str, str]] = {}
    for row in rows:
        label = row["perturbation_id"]
        if label >= 0 and not classes.get(label, ("", ""))[0]:
            classes[label] = (row["perturbation"], row["well_type"])
    return [(label, *classes[label]) for label in sorted(classes)]


class PixelSums:
    """Exact integer sums of pixels and their squares per dataset (train only), experiment and plate."""

    def __init__(self, shape: tuple[int, int, int]):
        self.pixels = shape[0] * shape[1]  # per site and channel
        self.channels = shape[2]
        # (level, name) -> [sites, sum [C], sum of squares [C]]
        self.sums = collections.defaultdict(lambda: [0, *np.zeros((2, self.channels), np.int64)])

    def add(self, row: dict[str, Any], total: np.ndarray, squares: np.ndarray) -> None:
        """Adds one site's sums, [C] int64 each."""
        keys = [("experiment", row["experiment"]), ("plate", f"{row['experiment']}/{row['plate']}")]
        if row["split"] == "train":
            keys.append(("dataset", ""))
        for key in keys:
            entry = self.sums[key]
            entry[0] += 1
            entry[1] += total
            entry[2] += squares

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of statistics.json: mean and standard deviation per channel in 0..255."""
        result = {
            "channels": self.channels,
            "dataset": {"mean": None, "std": None, "sites": 0},
            "experiment": {},
            "plate": {},
        }
        for (level, name), (sites, total, squares) in self.sums.items():
            n = sites * self.pixels
            # Python integers: n * sum of squares does not fit 64 bits for the whole of RxRx1.
            pairs = [(int(s), int(q)) for s, q in zip(total, squares, strict=True)]
            entry = {
                "mean": [s / n for s, _ in pairs],
                "std": [math.sqrt((n * q - s * s) / n**2) for s, q in pairs],
                "sites": sites,
            }
            if level == "dataset":
                result[level] = entry
            else:
                result[level][name] = entry
        return result


def write_files(
    folder: pathlib.Path,
    title: str,
    table: Table,
    kept: dict[str, list[dict]],
    set_aside: list[SetAside],
    sums: PixelSums,
) -> None:
    """Writes sites.csv, perturbations.csv, set_aside.csv, statistics.json and report.md.

    Args:
      folder: where the records are.
      title: dataset, config and version, for the report.
      table: the source.
      kept: rows that became records, by split, in record order.
      set_aside: every site that did not, in the order of the report.
      sums: pixel sums over the records.
    """
    rows = ([split] + [row[key] for key in SITE_COLUMNS[1:]] for split in SPLITS for row in kept[split])
    _write_csv(folder / "sites.csv", SITE_COLUMNS, rows)
    _write_csv(folder / "perturbations.csv", ("perturbation_id", "perturbation", "well_type"), table.classes)
    _write_csv(folder / "set_aside.csv", ("site_id", "reason"), [item[:2] for item in set_aside])
    (folder / "statistics.json").write_text(json.dumps(sums.as_dict(), indent=1) + "\n")
    (folder / "report.md").write_text(report(title, table, kept, set_aside))


def _write_csv(path: pathlib.Path, header: tuple[str, ...], rows: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def report(title: str, table: Table, kept: dict[str, list[dict]], set_aside: list[SetAside]) -> str:
    """Returns the text of report.md."""
    lines = [f"# {title}", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in table.facts.items()]
    lines += [f"- **Note:** {note}" for note in table.notes]

    aside_splits = collections.Counter(item.split for item in set_aside)
    lines += ["", "## Sites per split", "", "| split | records | set aside |", "| --- | --- | --- |"]
    for split in SPLITS:
        lines.append(f"| {split} | {len(kept[split]):,} | {aside_splits[split]:,} |")
    if aside_splits[""]:
        lines.append(f"| unknown | 0 | {aside_splits['']:,} |")
    lines.append(f"| all | {sum(map(len, kept.values())):,} | {len(set_aside):,} |")

    counts = collections.Counter((row["experiment"], split) for split in SPLITS for row in kept[split])
    aside_experiments = collections.Counter(item.experiment for item in set_aside if item.experiment)
    names = sorted({name for name, _ in counts} | set(aside_experiments))
    lines += [
        "",
        "## Records per experiment",
        "",
        f"| experiment | {' | '.join(SPLITS)} | set aside |",
        "| --- " * (len(SPLITS) + 2) + "|",
    ]
    for name in names:
        cells = [f"{counts[name, split]:,}" for split in SPLITS]
        lines.append(f"| {name} | {' | '.join(cells)} | {aside_experiments[name]:,} |")

    lines += ["", f"## Set aside: {len(set_aside):,}", ""]
    if set_aside:
        lines += ["These sites are in the source but not in the records (also in `set_aside.csv`).", ""]
        reasons = collections.Counter(item.reason for item in set_aside)
        if len(reasons) < len(set_aside):
            lines += [f"- {number:,} x {reason}" for reason, number in reasons.most_common(20)] + [""]
        lines += ["| site | reason |", "| --- | --- |"]
        lines += [f"| {item.site_id} | {item.reason.replace('|', '/')} |" for item in set_aside]
    else:
        lines.append("Nothing: every site of the source is a record.")

    if table.unlisted:
        lines += [
            "",
            f"## Image files without a row: {len(table.unlisted):,}",
            "",
            "These files are on disk, but no row of the metadata asks for them.",
            "",
        ]
        lines += [f"- {name}" for name in table.unlisted[:UNLISTED_SHOWN]]
        if len(table.unlisted) > UNLISTED_SHOWN:
            lines.append(f"- and {len(table.unlisted) - UNLISTED_SHOWN:,} more")
    return "\n".join(lines) + "\n"
