"""RxRx3: 2.2 million images of HUVEC under 17,063 CRISPR knockouts and 1,674 compounds, in 180 experiments.

    python -m tfds_builders.prepare rxrx3 --source=DIR

DIR holds metadata.csv and images/EXPERIMENT/PlateN.tar of any plates (see `metadata.DOWNLOAD`), and a splits.csv
(experiment,split) to hold experiments out. Images are published with 16 bits; --set bits=16 keeps them.
"""

from typing import Any

from tfds_builders.common import screen, types
from tfds_builders.common.rows import tables, treatments
from tfds_builders.rxrx.rxrx3 import metadata


class Builder(screen.ScreenBuilder):
    """RxRx3 to one record per well, which has one site."""

    about = {
        "description": (
            "RxRx3 (Recursion): six-channel fluorescence images of HUVEC. A well has a CRISPR knockout of one of "
            "17,063 genes (16,328 of them anonymised), one of 1,674 compounds at one of eight concentrations, or a "
            "control; one site a well, 2048x2048 pixels of 16 bits. Channels: nucleus, endoplasmic reticulum, actin, "
            "nucleolus and RNA, mitochondria, Golgi."
        ),
        "homepage": "https://www.rxrx.ai/rxrx3",
        "license": "Recursion Non-Commercial End User License Agreement (https://rxrx3.rxrx.ai/static/)",
        "citation": (
            "Fay et al. (2023). RxRx3: Phenomics Map of Biology. bioRxiv 2023.02.07.527350, "
            "https://doi.org/10.1101/2023.02.07.527350"
        ),
    }
    channels = treatments.CHANNELS
    bits = 16
    extra_columns = {"concentration_um": float, "smiles": str, "perturbation_type": str, "treatment": str}
    published = {"experiments": 180, "perturbations": 17_063 + 1_674}

    def read_table(self) -> types.Table:
        """metadata.csv, or one of its other published names."""
        return metadata.read(self.source)

    def image_source(self) -> Any:
        """A tar of PNG files per plate."""
        from tfds_builders.common import sources

        return sources.Tars(tables.check_folder(self.source, self.name, metadata.DOWNLOAD), self.follow_links)
