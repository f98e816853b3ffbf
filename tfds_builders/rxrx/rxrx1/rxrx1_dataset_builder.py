"""RxRx1: 125,510 images of cells under 1,138 siRNAs in 51 experiments, from the published files or Kaggle's.

    python -m tfds_builders.prepare rxrx1 --source=DIR

DIR holds metadata.csv and images/ (see `metadata.DOWNLOAD`), or Kaggle's train.csv, test.csv,
train_controls.csv, test_controls.csv, train/ and test/. A splits.csv (experiment,split) there is used
in place of WILDS's split.
"""

import dataclasses
from typing import Any

from tfds_builders.common import screen, types
from tfds_builders.common.rows import tables, treatments
from tfds_builders.rxrx.rxrx1 import metadata


@dataclasses.dataclass(frozen=True)
class Settings:
    """image_size: side in pixels, None = as in the source. classes: perturbation ids are 0..classes-1."""

    image_size: int | None = None
    classes: int = metadata.UNTREATED_ID + 1

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if (value is not None or name == "classes") and (type(value) is not int or value < 1):
                raise ValueError(f"{name}={value!r} must be a positive integer")


class Builder(screen.ScreenBuilder):
    """RxRx1 to one record per site, in WILDS's splits."""

    settings_type = Settings
    about = {
        "description": (
            "RxRx1 (Recursion): six-channel fluorescence images of HUVEC, RPE, HEPG2 and U2OS cells in 51 "
            "experimental batches. A well has one of 1,108 siRNAs, one of 30 positive controls, or nothing. "
            "Channels: nucleus, endoplasmic reticulum, actin, nucleolus and RNA, mitochondria, Golgi."
        ),
        "homepage": "https://www.rxrx.ai/rxrx1",
        "license": "CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/), (c) Recursion",
        "citation": """\
@inproceedings{sypetkowski2023rxrx1,
  title={RxRx1: A Dataset for Evaluating Experimental Batch Correction Methods},
  author={Sypetkowski, Maciej and Rezanejad, Morteza and Saberian, Saber and Kraus, Oren and Urbanik, John and
    Taylor, James and Mabey, Ben and Victors, Mason and Yosinski, Jason and Rezazadeh Sereshkeh, Alborz and
    Haque, Imran and Earnshaw, Berton},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  pages={4284--4293},
  year={2023}
}""",
    }
    channels = treatments.CHANNELS
    published = {"sites": 125_510, "experiments": 51, "plates": 204, "perturbations": 1_138}

    def read_table(self) -> types.Table:
        """metadata.csv, or Kaggle's four tables."""
        return metadata.read(self.source, self.settings.classes)

    def image_source(self) -> Any:
        """PNG files in images/, or Kaggle's train/ and test/."""
        from tfds_builders.common import sources

        return sources.Folders(tables.check_folder(self.source, self.name, metadata.DOWNLOAD), self.follow_links)
