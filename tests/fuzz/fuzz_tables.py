"""Tables: the csv files of every dataset and of own plates, from text to the rows of each plate and their labels.

A csv file has no checksum, so what a damaged line says cannot be held against a reader. What the other lines say can: a
row whose line is untouched is the same, label and all, or set aside; and every line is a row or set aside.
"""

import pathlib
import re
import tempfile
from unittest import mock

import numpy as np
import plates_tools
from trials import Damage, Found, Target, Wrong

from rxrx_jax.simulate import export, layouts
from rxrx_jax.simulate.screen import Screen
from tfds_builders.common.rows import plan
from tfds_builders.common.types import SetAside, Table
from tfds_builders.embeddings import vectors
from tfds_builders.own import source, table
from tfds_builders.own.spec import Spec
from tfds_builders.rxrx.rxrx1 import metadata as rxrx1
from tfds_builders.rxrx.rxrx2 import metadata as rxrx2
from tfds_builders.rxrx.rxrx3 import metadata as rxrx3
from tfds_builders.rxrx.rxrx3_core import metadata as rxrx3_core
from tfds_builders.rxrx.rxrx19a import metadata as rxrx19a
from tfds_builders.rxrx.rxrx19b import metadata as rxrx19b

SCREEN = Screen(
    image_size=32, treatments=4, positive_controls=1, replicates=1, positive_wells=1, untreated_wells=1, plates=2,
    train=("SIMA-01", "SIMB-01"), val=("SIMA-02",), test=("SIMB-02",),
)  # fmt: skip
LINE = re.compile(r"([^ ()]+\.csv) line (\d+)\)?$")
SPLITS = "splits.csv"
KEPT = ("site_id", "well_id", "cell_type", "experiment", "plate", "well", "site", "well_type", "perturbation")


def lines(path: pathlib.Path) -> list[str]:
    """The lines of a table as Python reads them, the first is that of its columns."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [line.rstrip("\r\n") for line in file]
    except UnicodeDecodeError:
        return []


def read(found: Table, root: pathlib.Path) -> Found:
    """Exhausts a table through the plan of a build. Items are (file, text of the line, site_id) -> the row."""
    texts = {path.name: lines(path) for path in root.glob("*.csv")}
    seen: dict[str, set[int]] = {name: set() for name in texts}
    given, ids = [], {}

    def watched():
        for item in items:
            where = LINE.search(item.reason if isinstance(item, SetAside) else item["where"])
            assert where, item
            seen[where[1]].add(int(where[2]))
            if not isinstance(item, SetAside):
                given.append(item)
                ids[item["site_id"], item["where"]] = item["perturbation_id"]
            yield item

    items, found.rows = found.rows, watched()
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        plan.write(pathlib.Path(folder) / "plan", found)
        made = plan.Plan(pathlib.Path(folder) / "plan")
        rows, aside = [], list(made.set_aside())
        read_aside = len(aside)
        for place in made.plates():
            more, lost = made.rows(*place)
            rows += more
            aside += lost
        names = {label: name for label, name, _ in made.classes()}
        made.about()
    if (planned := len(rows) + len(aside) - read_aside) != len(given):
        raise Wrong(f"silent loss: {len(given)} rows of the table, {planned} of the plan")
    for name, numbers in seen.items():
        lost = [n for n, text in enumerate(texts[name][1:], 2) if text.strip() and n not in numbers]
        if lost and numbers:  # a table of which rows were read
            raise Wrong(f"silent loss: line {lost[0]} of {name}")
    result = Found({}, len(aside))
    for row in rows:
        if row["perturbation"] and names.get(row["perturbation_id"]) != row["perturbation"]:
            raise Wrong(f"wrong label: {row['perturbation_id']} is {names.get(row['perturbation_id'])}: {row}")
        where = LINE.search(row["where"])
        text = texts[where[1]][int(where[2]) - 1]
        label = ids[row["site_id"], row["where"]]  # None: numbered by the plan, by the names that there are
        more = row.keys() - {*KEPT, "split", "perturbation_id", *plan.PRIVATE}
        value = (*(row[key] for key in KEPT), row["split"], label, repr(sorted((key, row[key]) for key in more)))
        result.items[where[1], texts[where[1]][0], text, row["site_id"]] = value
    return result


def judge(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
    """Untouched lines give the same rows or none."""
    splits = any(name == SPLITS or name in (f"gone: {SPLITS}", f"another's content: {SPLITS}") for name in damage.names)
    fewer = False
    for key, value in expected.items.items():
        other = found.items.get(key)
        fewer |= other is None
        if other is not None and (other[:9], other[10:]) != (value[:9], value[10:]):
            raise Wrong(f"wrong record: {other} for {value}")
        if other is not None and other[9] != value[9] and not splits:
            raise Wrong(f"wrong split: {other} for {value}")
    changed = found.items.keys() - expected.items.keys()
    return "changed" if changed else "fewer" if fewer else "same"


def simulated(name: str, write, reader) -> Target:
    def make(folder: pathlib.Path) -> None:
        blank = np.zeros((SCREEN.image_size, SCREEN.image_size, layouts.CHANNELS), np.uint8)
        with tempfile.TemporaryDirectory() as temporary, mock.patch.object(export, "render_site", lambda *_: blank):
            with mock.patch.object(layouts, "render_site", lambda *_: blank):
                write(SCREEN, pathlib.Path(temporary))
            for path in pathlib.Path(temporary).glob("*.csv"):
                (folder / path.name).write_bytes(path.read_bytes())

    return Target(name, make, lambda root: read(reader(root), root), judge)


def own(name: str, write) -> Target:
    """A tree of a user's own, of which the tables are damaged."""
    options: dict[str, str] = {}

    def make(folder: pathlib.Path) -> None:
        for option in write(folder):
            key, _, value = option[2:].partition("=")
            options[key.replace("-", "_")] = value

    def read_own(root: pathlib.Path) -> Found:
        fields = {key: value for key, value in options.items() if key != "source"}
        fields["negative_control"] = (fields["negative_control"],)
        fields["held_out"] = tuple(filter(None, fields.get("held_out", "").split(",")))
        spec = Spec(**fields)
        path = spec.table(root)
        columns = table.columns(path, spec)
        kinds = table.kinds(path, columns, spec, root)
        tables = [one for one in (path, spec.splits_table(root)) if one]
        files = source.find(root, spec.pattern, spec.named(), table.experiments(path, columns), tables)
        return read(table.read(path, columns, spec, kinds, files), root)

    return Target(name, make, read_own, judge, files=("*.csv",))


def _vectors(root: pathlib.Path) -> Found:
    found = Found({})
    for block in vectors.read(vectors.find(root / "embeddings.csv")):
        for name, place, values, reason in zip(block.ids, block.places, block.values, block.reasons, strict=True):
            assert len(values) == len(block.names)
            if reason:
                found.lost += 1
            else:
                text = (root / "embeddings.csv").read_bytes().split(b"\n")
                number = int(place.split()[-1]) - 1
                found.items[text[0], text[number].rstrip(b"\r") if number < len(text) else b"", name] = values.tobytes()
    return found


def _vectors_judge(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
    for key, value in expected.items.items():
        if found.items.get(key, value) != value:
            raise Wrong(f"wrong embedding: {key}")
    return "same" if expected.items == found.items else "changed"


def _write_vectors(folder: pathlib.Path) -> None:
    values = np.random.default_rng(0).normal(size=(12, 4)).round(6)
    rows = [f"HUVEC-01_1_B{i:02d},{','.join(map(str, row))}" for i, row in enumerate(values.tolist(), 2)]
    (folder / "embeddings.csv").write_text("\n".join(["well_id," + ",".join(f"feature_{i}" for i in range(4)), *rows]))


TARGETS = [
    simulated("rxrx1", export.write_published, rxrx1.read),
    simulated("rxrx1 of Kaggle", export.write_kaggle, rxrx1.read),
    simulated("rxrx1 of the relaunch", lambda *of: export.write_kaggle(*of, strings=True), rxrx1.read),
    simulated("rxrx2", layouts.write_rxrx2, rxrx2.read),
    simulated("rxrx3", layouts.write_rxrx3, rxrx3.read),
    simulated("rxrx3_core", layouts.write_rxrx3_core, rxrx3_core.read),
    simulated("rxrx19a", layouts.write_rxrx19a, rxrx19a.read),
    simulated("rxrx19b", layouts.write_rxrx19b, rxrx19b.read),
    own("own plates", plates_tools.jump),
    own("own plates by site", plates_tools.nine),
    Target("embeddings csv", _write_vectors, _vectors, _vectors_judge),
]
