"""Reads RxRx2's metadata.csv: soluble factors on HUVEC.

The source documents `treatment` as the soluble factor added to the well and `treatment_conc` as its
concentration in mg/mL, and says nothing of controls. That a blank treatment is an untreated well, and so a
negative control, is the reading of this project.
"""

import pathlib
from typing import Any

from tfds_builders.common.rows import tables, treatments
from tfds_builders.common.types import Table

DOWNLOAD = (
    "python -m tfds_builders.download rxrx2 --to=DIR fetches it (185 GB). By hand: download the images and the "
    "metadata from https://www.rxrx.ai/rxrx2#Download and unpack both so that DIR holds metadata.csv and images/. "
    "Then run: python -m tfds_builders.prepare rxrx2 --source=DIR"
)
FILES = ("metadata.csv", "rxrx2-metadata.csv")  # both names occur
COLUMNS = ("site_id", "well_id", "cell_type", "experiment", "plate", "well", "site", "treatment", "treatment_conc")
NOTES = (
    "A blank treatment is read as an untreated well (negative_control EMPTY); the source does not say so.",
    "Soluble factors are given in mg/mL, which has no micromolar value: see concentration_mg_ml.",
)


def read(source: pathlib.Path | None) -> Table:
    """Reads metadata.csv, and splits.csv if there is one; the rows stream."""
    source = tables.check_folder(source, "rxrx2", DOWNLOAD)
    return treatments.read(source, FILES, COLUMNS, tables.SITE_COLUMNS, _describe, NOTES, DOWNLOAD)


def _describe(cells: dict[str, str], site: dict[str, Any]) -> dict[str, Any] | str:
    del site
    return treatments.treated(cells["treatment"], cells["treatment_conc"], "concentration_mg_ml")
