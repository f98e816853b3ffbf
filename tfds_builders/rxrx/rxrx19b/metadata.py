"""Reads RxRx19b's metadata.csv: compounds on HUVEC under a cytokine storm; one site a well.

The source documents `treatment` as the compound tested, if any, so a blank one is a well without a compound; and
`disease_condition` as healthy, storm-severe, or blank for no cytokines. That wells without a compound are
negative controls, whatever their condition, is the reading of this project.
"""

import pathlib

from tfds_builders.common.rows import tables, treatments
from tfds_builders.common.types import Table

DOWNLOAD = (
    "python -m tfds_builders.download rxrx19b --to=DIR fetches it (409 GB). By hand: download the images and the "
    "metadata from https://www.rxrx.ai/rxrx19b#Download and unpack both so that DIR holds metadata.csv and images/. "
    "Then run: python -m tfds_builders.prepare rxrx19b --source=DIR"
)
FILES = ("metadata.csv",)
COLUMNS = ("site_id", "well_id", "cell_type", "experiment", "plate", "well", "site", "disease_condition", "treatment",
           "treatment_conc", "SMILES")  # fmt: skip
NOTES = (
    "Wells without a compound (negative_control EMPTY) are under the healthy cocktail, the severe storm or no "
    "cytokines (a blank condition): select by condition before you call them controls.",
)


def read(source: pathlib.Path | None) -> Table:
    """Reads metadata.csv, and splits.csv if there is one; the rows stream."""
    source = tables.check_folder(source, "rxrx19b", DOWNLOAD)
    return treatments.read(source, FILES, COLUMNS, tables.SITE_COLUMNS, treatments.compound, NOTES, DOWNLOAD)
