"""Reads RxRx3-core's table: RxRx3's columns for the wells of 735 genes and all compounds, and well_type_label."""

import pathlib
from typing import Any

from tfds_builders.common.rows import tables, treatments
from tfds_builders.common.types import Table
from tfds_builders.rxrx.rxrx3 import metadata as rxrx3

URL = "https://huggingface.co/datasets/recursionpharma/rxrx3-core"
DOWNLOAD = (
    f"read the licence at {URL}, then download metadata_rxrx3_core.csv and the folder data/ (17 GB) from there to DIR: "
    "hf download recursionpharma/rxrx3-core --repo-type=dataset --local-dir=DIR. "
    "Then run: python -m tfds_builders.prepare rxrx3_core --source=DIR"
)
FILES = ("metadata_rxrx3_core.csv", "metadata.csv")
COLUMNS = (*rxrx3.COLUMNS, "well_type_label")
NOTES = (*rxrx3.NOTES, "The source does not document the column well_type_label; it is passed on as it is.")


def read(source: pathlib.Path | None) -> Table:
    """Reads the table, and splits.csv if there is one; the rows stream."""
    source = tables.check_folder(source, "rxrx3_core", DOWNLOAD)
    return treatments.read(source, FILES, COLUMNS, rxrx3.SITE_COLUMNS, _describe, NOTES, DOWNLOAD)


def _describe(cells: dict[str, str], site: dict[str, Any]) -> dict[str, Any] | str:
    fields = rxrx3.describe(cells, site)
    return fields if isinstance(fields, str) else {**fields, "well_type_label": cells["well_type_label"]}
