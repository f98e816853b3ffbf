"""RxRx19a: 305,520 images of cells infected with SARS-CoV-2, under 1,672 compounds.

    python -m tfds_builders.prepare rxrx19a --source=DIR

DIR holds metadata.csv and images/ (see `metadata.DOWNLOAD`), and a splits.csv (experiment,split)
to hold experiments out.
"""

from typing import Any

from tfds_builders.common import screen, types
from tfds_builders.common.rows import tables
from tfds_builders.rxrx.rxrx19a import metadata


class Builder(screen.ScreenBuilder):
    """RxRx19a to one record per site, with five channels."""

    about = {
        "description": (
            "RxRx19a (Recursion): five-channel fluorescence images of HRCE and Vero cells, mock-infected or with "
            "irradiated or active SARS-CoV-2. A well has one of 1,672 compounds at one of six or more concentrations, "
            "or nothing; four sites per well, 1024x1024 pixels. Channels: nucleus, endoplasmic reticulum, actin, "
            "nucleolus and RNA, Golgi."
        ),
        "homepage": "https://www.rxrx.ai/rxrx19a",
        "license": "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), (c) Recursion",
        "citation": (
            "Heiser et al. (2020). Identification of potential treatments for COVID-19 through artificial "
            "intelligence-enabled phenomic analysis of human cells infected with SARS-CoV-2. bioRxiv "
            "2020.04.21.054387, https://doi.org/10.1101/2020.04.21.054387"
        ),
    }
    channels = ("nucleus", "endoplasmic reticulum", "actin", "nucleolus and RNA", "Golgi")
    extra_columns = {"concentration_um": float, "smiles": str, "condition": str}
    published = {"sites": 305_520, "perturbations": 1_672}

    def read_table(self) -> types.Table:
        """metadata.csv."""
        return metadata.read(self.source)

    def image_source(self) -> Any:
        """PNG files in images/."""
        from tfds_builders.common import sources

        return sources.Folders(tables.check_folder(self.source, self.name, metadata.DOWNLOAD), self.follow_links)
