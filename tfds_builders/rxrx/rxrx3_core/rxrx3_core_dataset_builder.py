"""RxRx3-core: 222,601 wells of RxRx3, 735 genes and 1,674 compounds, as 512x512 JPEG 2000 images.

    python -m tfds_builders.prepare rxrx3_core --source=DIR

DIR holds metadata_rxrx3_core.csv and the Parquet files of data/, or WebDataset tars (see `metadata.DOWNLOAD`), and a
splits.csv (experiment,split) to hold experiments out.
"""

from typing import Any

from tfds_builders.common import screen, settings, types
from tfds_builders.common.rows import tables, treatments
from tfds_builders.rxrx.rxrx3_core import metadata


class Builder(screen.ScreenBuilder):
    """RxRx3-core to one record per well, which has one site."""

    about = {
        "description": (
            "RxRx3-core (Recursion): the centre of 222,601 wells of RxRx3, six-channel fluorescence images of HUVEC "
            "compressed with JPEG 2000. A well has a CRISPR knockout of one of 735 genes, one of 1,674 compounds at "
            "one of eight concentrations, or a control; 512x512 pixels. Channels: nucleus, endoplasmic reticulum, "
            "actin, nucleolus and RNA, mitochondria, Golgi."
        ),
        "homepage": "https://huggingface.co/datasets/recursionpharma/rxrx3-core",
        "license": (
            "Recursion Non-Commercial End User License Agreement "
            "(LICENSE in https://huggingface.co/datasets/recursionpharma/rxrx3-core)"
        ),
        "citation": (
            "Kraus, Comitani, Urbanik, Kenyon-Dean, Arumugam, Saberian, Wognum, Celik and Haque (2025). RxRx3-core: "
            "Benchmarking drug-target interactions in High-Content Microscopy. arXiv:2503.20158"
        ),
    }
    records = settings.Records(encoding="source")  # lossy JPEG 2000: six times smaller than its pixels re-encoded
    channels = treatments.CHANNELS
    extra_columns = {
        "concentration_um": float,
        "smiles": str,
        "perturbation_type": str,
        "treatment": str,
        "well_type_label": str,
    }
    published = {"sites": 222_601, "experiments": 180, "perturbations": 735 + 1_674}

    def read_table(self) -> types.Table:
        """metadata_rxrx3_core.csv."""
        return metadata.read(self.source)

    def image_source(self) -> Any:
        """Rows of Parquet files, or WebDataset tars, whichever the folder holds."""
        from tfds_builders.common import sources

        root = tables.check_folder(self.source, self.name, metadata.DOWNLOAD)
        return sources.choose(root, sources.Parquet, sources.WebDataset, follow_links=self.follow_links)
