"""RxRx19b: 70,384 images of HUVEC under a COVID-19 cytokine storm and 1,856 compounds.

    python -m tfds_builders.prepare rxrx19b --source=DIR

DIR holds metadata.csv and images/ (see `metadata.DOWNLOAD`), and a splits.csv (experiment,split)
to hold experiments out.
"""

from typing import Any

from tfds_builders.common import screen, types
from tfds_builders.common.rows import tables, treatments
from tfds_builders.rxrx.rxrx19b import metadata


class Builder(screen.ScreenBuilder):
    """RxRx19b to one record per site, which is one per well."""

    about = {
        "description": (
            "RxRx19b (Recursion): six-channel fluorescence images of HUVEC under the cytokines of severe COVID-19, of "
            "healthy donors, or none. A well has one of 1,856 compounds at one of four to six concentrations, or "
            "nothing; one site a well, 2048x2048 pixels. Channels: nucleus, endoplasmic reticulum, actin, nucleolus "
            "and RNA, mitochondria, Golgi."
        ),
        "homepage": "https://www.rxrx.ai/rxrx19b",
        "license": "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), (c) Recursion",
        "citation": (
            "Functional immune mapping with deep-learning enabled phenomics applied to immunomodulatory and COVID-19 "
            "drug discovery. bioRxiv 2020.08.02.233064, https://doi.org/10.1101/2020.08.02.233064"
        ),
    }
    channels = treatments.CHANNELS
    extra_columns = {"concentration_um": float, "smiles": str, "condition": str}
    published = {"sites": 70_384, "perturbations": 1_856}

    def read_table(self) -> types.Table:
        """metadata.csv."""
        return metadata.read(self.source)

    def image_source(self) -> Any:
        """PNG files in images/."""
        from tfds_builders.common import sources

        return sources.Folders(tables.check_folder(self.source, self.name, metadata.DOWNLOAD), self.follow_links)
