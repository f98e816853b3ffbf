"""Which image a record holds, whatever the dataset, the folder or the encoding is called."""

import numpy as np
import pyarrow as pa
from pyarrow import csv

from rxrx_jax.base.errors import UserError, reason


def pixel_digests(dataset) -> np.ndarray:
    """A 64-bit digest of the pixels of every row of `dataset.sites`: uint64 [n], in their order.

    It hashes the mean of every channel as manifest.csv has it: the sum of all pixels, exact, to six digits, some 15
    bits per channel, which the build counts from the decoded image and `tfds_builders.verify` checks. So it exists
    for every prepared folder without reading a record; an encoding, a split, a name, a flip or a rotation does not
    change it; and two different images of five or six channels share one by chance less than once in 10^18 pairs.

    Raises UserError for a folder without these columns, or with another number of rows.
    """
    if dataset.folder is None:
        return _digests([[float(f"{value:.6g}") for value in column] for column in dataset.means.T])
    path = dataset.folder / "manifest.csv"
    try:
        with csv.open_csv(path) as file:  # of all channels, whichever the images of `with_channels` have
            names = [name for name in file.schema.names if name.startswith("mean_w")]
        if len(names) < dataset.image_shape[2]:
            raise pa.ArrowKeyError(f"{len(names)} columns mean_w for images of {dataset.image_shape[2]} channels")
        types = dict.fromkeys(names, pa.float64())
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(include_columns=names, column_types=types))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); rebuild the dataset") from error
    if len(table) != len(dataset.sites):
        raise UserError(f"{path} has {len(table)} rows and sites.csv {len(dataset.sites)}; rebuild the dataset")
    return _digests([table[name].to_numpy() for name in names])


def _digests(means: list) -> np.ndarray:
    digest = np.full(len(means[0]), len(means), np.uint64)
    for column in means:
        digest = _mix(digest ^ np.ascontiguousarray(column, np.float64).view(np.uint64))
    return digest


def _mix(x: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"): a
    bijection of 64 bits, every bit of which depends on all bits of x."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
