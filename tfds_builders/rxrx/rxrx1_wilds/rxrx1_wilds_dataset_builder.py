"""RxRx1 as WILDS ships it, rxrx1_v1.0: the centre 256x256 pixels of three of its channels, one PNG file per site.

    python -m tfds_builders.prepare rxrx1_wilds --source=DIR

DIR is WILDS' rxrx1_v1.0, which holds metadata.csv and images/ (see `metadata.DOWNLOAD`). A splits.csv
(experiment,split) there is used in place of WILDS's split.
"""

from typing import Any

from rxrx_jax.base.errors import UserError
from tfds_builders.common import screen, types
from tfds_builders.common.rows import tables
from tfds_builders.rxrx.rxrx1 import rxrx1_dataset_builder as rxrx1
from tfds_builders.rxrx.rxrx1_wilds import metadata, reader


class Builder(screen.ScreenBuilder):
    """WILDS' rxrx1_v1.0 to one record per site, in its splits."""

    about = {
        "description": (
            "RxRx1-WILDS, rxrx1_v1.0: the centre 256x256 pixels of the first three channels of RxRx1 (Recursion), "
            "fluorescence images of HUVEC, RPE, HEPG2 and U2OS cells in 51 experimental batches. A well has one of "
            "1,108 siRNAs, one of 30 positive controls, or nothing. Channels: nucleus, endoplasmic reticulum, actin."
        ),
        "homepage": "https://wilds.stanford.edu/datasets/#rxrx1",
        "license": rxrx1.Builder.about["license"],
        "citation": """\
@inproceedings{koh2021wilds,
  title={{WILDS}: A Benchmark of in-the-Wild Distribution Shifts},
  author={Koh, Pang Wei and Sagawa, Shiori and Marklund, Henrik and Xie, Sang Michael and Zhang, Marvin and
    Balsubramani, Akshay and Hu, Weihua and Yasunaga, Michihiro and Phillips, Richard Lanas and Gao, Irena and
    Lee, Tony and David, Etienne and Stavness, Ian and Guo, Wei and Earnshaw, Berton A. and Haque, Imran S. and
    Beery, Sara and Leskovec, Jure and Kundaje, Anshul and Pierson, Emma and Levine, Sergey and Finn, Chelsea and
    Liang, Percy},
  booktitle={International Conference on Machine Learning},
  year={2021}
}""",
    }
    channels = rxrx1.Builder.channels[:3]
    published = rxrx1.Builder.published

    @classmethod
    def make_config(cls, **fields) -> screen.ScreenConfig:
        """As the base class, for records of channels."""
        config = super().make_config(**fields)
        if config.records.encoding == "source":
            raise UserError(f"{cls.name}: encoding=source keeps one file per channel, and here three share one: use "
                            "delta, zstd or raw")  # fmt: skip
        return config

    def read_table(self) -> types.Table:
        """metadata.csv."""
        return metadata.read(self.source)

    def image_source(self) -> Any:
        """PNG files in images/."""
        from tfds_builders.common import sources

        folder = tables.check_folder(self.source, self.name, metadata.DOWNLOAD)
        return sources.Folders(folder, self.follow_links, colour=True)

    reader_type = reader.ColourReader
