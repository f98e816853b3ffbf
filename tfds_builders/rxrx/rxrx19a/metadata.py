"""Reads RxRx19a's metadata.csv: compounds on cells infected with SARS-CoV-2, with five channels.

The source documents `disease_condition` (mock, irradiated or viral) and `treatment`, the compound tested. Mock and
irradiated wells are the controls of the infection, not of a compound, so the condition is a column of its own.
That a blank treatment means no compound is the reading of this project; such a well is a negative control
whatever its condition.
"""

import pathlib

from tfds_builders.common.rows import tables, treatments
from tfds_builders.common.types import Table

URL = "https://storage.googleapis.com/rxrx/RxRx19a/"
DOWNLOAD = (
    "python -m tfds_builders.download rxrx19a --to=DIR fetches it (445 GB). By hand: download the images and the "
    f"metadata from https://www.rxrx.ai/rxrx19a#Download (believed to be {URL}images and {URL}RxRx19a-metadata.zip) "
    "and unpack both so that DIR holds metadata.csv and images/. "
    "Then run: python -m tfds_builders.prepare rxrx19a --source=DIR"
)
FILES = ("metadata.csv",)
COLUMNS = ("site_id", "well_id", "cell_type", "experiment", "plate", "well", "site", "disease_condition", "treatment",
           "treatment_conc", "SMILES")  # fmt: skip
NOTES = (
    "A blank treatment is read as a well without a compound (negative_control EMPTY); the source does not say so.",
    "Wells without a compound are mock, irradiated or infected: select by condition before you call them controls.",
)


def read(source: pathlib.Path | None) -> Table:
    """Reads metadata.csv, and splits.csv if there is one; the rows stream."""
    source = tables.check_folder(source, "rxrx19a", DOWNLOAD)
    return treatments.read(source, FILES, COLUMNS, tables.SITE_COLUMNS, treatments.compound, NOTES, DOWNLOAD)
