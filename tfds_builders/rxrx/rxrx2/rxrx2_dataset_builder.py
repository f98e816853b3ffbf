"""RxRx2: 131,953 images of HUVEC under 434 soluble factors at six concentrations.

    python -m tfds_builders.prepare rxrx2 --source=DIR

DIR holds metadata.csv and images/ (see `metadata.DOWNLOAD`), and a splits.csv (experiment,split)
to hold experiments out.
"""

from typing import Any

from tfds_builders.common import screen, types
from tfds_builders.common.rows import tables, treatments
from tfds_builders.rxrx.rxrx2 import metadata


class Builder(screen.ScreenBuilder):
    """RxRx2 to one record per site."""

    about = {
        "description": (
            "RxRx2 (Recursion): six-channel fluorescence images of HUVEC. A well has one of 434 soluble factors at "
            "one of six concentrations, or nothing; four sites per well, 1024x1024 pixels. Channels: nucleus, "
            "endoplasmic reticulum, actin, nucleolus and RNA, mitochondria, Golgi."
        ),
        "homepage": "https://www.rxrx.ai/rxrx2",
        "license": "CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/), (c) Recursion",
        "citation": (
            "Functional immune mapping with deep-learning enabled phenomics applied to immunomodulatory and COVID-19 "
            "drug discovery. bioRxiv 2020.08.02.233064, https://doi.org/10.1101/2020.08.02.233064"
        ),
    }
    channels = treatments.CHANNELS
    extra_columns = {"concentration_mg_ml": float}
    published = {"sites": 131_953, "perturbations": 434}

    def read_table(self) -> types.Table:
        """metadata.csv."""
        return metadata.read(self.source)

    def image_source(self) -> Any:
        """PNG files in images/."""
        from tfds_builders.common import sources

        return sources.Folders(tables.check_folder(self.source, self.name, metadata.DOWNLOAD), self.follow_links)
