"""RxRx1: 125,510 images of cells under 1,138 siRNAs in 51 experiments, from the published files or Kaggle's.

    python -m tfds_builders.prepare rxrx1 --source=DIR

DIR holds metadata.csv and images/ (see `metadata.DOWNLOAD`), or Kaggle's train.csv, test.csv,
train_controls.csv, test_controls.csv, train/ and test/. A splits.csv (experiment,split) there is used
in place of WILDS's split.
"""

import dataclasses
import functools

import tensorflow_datasets as tfds

from rxrx_jax.errors import UserError
from tfds_builders import report, screen
from tfds_builders.rxrx1 import images, metadata, splits


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

    VERSION = tfds.core.Version("1.0.0")
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

    def read_table(self) -> report.Table:
        """Reads the tables and lists the image folders."""
        if self.source is None:
            raise UserError(f"rxrx1 is built from downloaded files: {metadata.DOWNLOAD}")
        table = metadata.read(self.source, self.settings.classes)
        rows, set_aside, unlisted = images.locate(table.rows, table.set_aside, self.source)
        own_splits = splits.read_kinds(self.source) is not splits.WILDS
        facts = {
            "source": str(self.source),
            "source_kind": table.kind,
            "label_space": table.label_space,
            "classes": self.settings.classes,
            "split_by": "splits.csv of the source" if own_splits else "WILDS rxrx1_v1.0",
            "unlisted_images": len(unlisted),
        }
        return report.Table(
            rows, table.set_aside + set_aside, report.classes_of(table.rows), unlisted, facts, table.notes
        )

    @functools.cached_property
    def _size(self) -> int:
        return self.settings.image_size or images.image_size(self.table.rows)

    def image_shape(self) -> tuple[int, int, int] | None:
        """Asks the images, unless the folder is prepared already."""
        if self.source is None and self.data_path.exists():
            return None
        return self._size, self._size, images.CHANNELS

    def site_reader(self):
        """Six PNG files to one image; Pillow decodes without the GIL, so threads do."""
        return images.site_reader(self._size)
