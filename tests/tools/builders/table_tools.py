"""What the tests of the tables share: writes csv files, reads them, parts the rows from those set aside."""

import collections
import dataclasses

import pytest

from tfds_builders.common.types import SITE_COLUMNS, SetAside, Table


@dataclasses.dataclass
class Read:
    """A table that was read to its end."""

    rows: list[dict]  # without original and where
    set_aside: list[SetAside]
    originals: list[dict]
    where: list[str]
    table: Table

    @property
    def notes(self):
        return self.table.notes

    @property
    def facts(self):
        return self.table.facts


def exhaust(table) -> Read:
    """Reads all rows; each must have the keys that every row has, with values of the right types."""
    read = Read([], [], [], [], table)
    for item in table.rows:
        if isinstance(item, SetAside):
            read.set_aside.append(item)
            continue
        row = dict(item)
        read.originals.append(row.pop("original"))
        read.where.append(row.pop("where"))
        assert set(SITE_COLUMNS) <= row.keys() and all(type(row[key]) is int for key in ("plate", "site"))
        read.rows.append(row)
    return read


def write(folder, **tables):
    """Writes tables given as {name: lines or bytes}; the name without .csv. Returns the folder."""
    for name, content in tables.items():
        if not isinstance(content, bytes):
            content = "\n".join(content).encode()
        (folder / f"{name}.csv").write_bytes(content)
    return folder


def link(folder, *files):
    """Links real tables into a folder; every metadata*.csv as metadata.csv. Skips where one is missing."""
    for file in files:
        if not file.exists():
            pytest.skip(f"{file} is not there")
        name = "metadata.csv" if file.name.startswith("metadata") else file.name
        (folder / name).symlink_to(file)
    return folder


def split_counts(read):
    """Returns the number of rows by split."""
    return dict(collections.Counter(row["split"] for row in read.rows))
