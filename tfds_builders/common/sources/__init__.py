"""Where the image files of a plate are: folders, a tar per plate, Parquet rows, or WebDataset shards.

A source is a frozen dataclass of a folder, and of whether links out of it are followed, that pickles small, for
workers. All have the same four methods:
    plates() -> sorted [(experiment, plate), ...] that are on disk, by canonical name; opens no image
    open(experiment, plate) -> context manager with its PlateFiles; any plate may be asked for, also an absent one
    size() -> (H, W), the commonest size among some headers spread over the source; None without images
    strays() -> names of what is there and belongs to no plate: no image of it is ever read
"""

import pathlib

from rxrx_jax.base.errors import UserError
from tfds_builders.common.sources.files import NoImages, PlateFiles
from tfds_builders.common.sources.folders import Folders
from tfds_builders.common.sources.parquet import Parquet
from tfds_builders.common.sources.tars import Tars, WebDataset

__all__ = ["Folders", "Parquet", "PlateFiles", "Tars", "WebDataset", "choose"]


def choose(root: pathlib.Path, *kinds: type, follow_links: bool = False):
    """Returns the first of these kinds of source that the folder holds; UserError if it holds none."""
    missing = []
    for kind in kinds:
        try:
            return kind(root, follow_links)
        except NoImages as error:
            missing.append(error)
    whats, whys = " and no ".join(error.what for error in missing), "".join({error.why: None for error in missing})
    raise UserError(f"{root} has no {whats}{whys}: give the folder that holds them as --source")
