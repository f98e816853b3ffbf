"""A prepared folder: its table, statistics and records; rows of it, and which images they are."""

import contextlib
import csv
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, reason, shortened
from rxrx_jax.base.files import mirror
from rxrx_jax.base.spellings import SPLITS, WELL_TYPES
from rxrx_jax.data.builders import builders
from rxrx_jax.data.records import Chosen, Records, Tiles, allow_open_files
from rxrx_jax.data.roles import Roles
from rxrx_jax.data.sites import Sites, read_sites

ARRAYS = "arrays"  # `data.name` of a run that was trained on images in memory
AGAIN = "copy the folder again, or rebuild the dataset"
# of a prepared folder, all that training reads but for the records
READ = ("dataset_info.json", "features.json", "metadata.json", "sites.csv", "manifest.csv", "perturbations.csv",
        "statistics.json")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared folder, or arrays: its table, names behind the indices, statistics and record readers (by split), and
    the roles that a protocol gives its rows."""

    folder: pathlib.Path | None  # None for arrays; of one in an object store, the local one that stands for it
    sites: Sites
    experiments: list[str]
    plates: list[str]  # "EXPERIMENT/PLATE"
    cell_types: list[str]
    classes: list[str]  # name of each perturbation id, "" where the source does not say
    image_shape: tuple[int, int, int]  # [H, W, C] of an image
    mean: dict[str, np.ndarray]  # by statistics name: [1 or experiments or plates, C] float32, pixel units
    std: dict[str, np.ndarray]
    sources: dict  # by split: `sources[split][index][rows, columns]` is a window of an image
    roles: Roles = Roles()
    means: np.ndarray | None = None  # of arrays, by row: [n, C] float64; a folder has them in manifest.csv
    channels: tuple[int, ...] = ()  # of the records, those that images have (`with_channels`); () = all
    digest: str = ""  # of arrays, what `fingerprint` gives of a folder
    address: str = ""  # of a folder in an object store

    @functools.cached_property
    def digests(self) -> np.ndarray:
        """What every row is known by to later stages, whatever the dataset or the row is called: uint64 [rows]."""
        return pixel_digests(self)

    @property
    def manifest(self) -> pathlib.Path | None:
        """The file of a prepared folder that has the digest of every record."""
        return self.folder and self.folder / "manifest.csv"


def open_dataset(name: str, settings: dict, folder: str | None = None, cache: str | None = None) -> Dataset:
    """Opens a prepared dataset; the simulated screen is built on first use.

    Args: name, of a published dataset or of plates of your own, or the path of a builder's .py file; settings, its
    builder config; folder, where prepared datasets lie (TFDS's usual place), on a disk or in an object store; cache,
    "DIR,SIZE" for what is read of one in a store (`mirror.DEFAULT`).
    Raises UserError with the command that prepares a missing one.
    """
    if name == "rxrx_sim":
        path = builders().prepare(name, out=folder, **settings)
    else:
        path = builders().find(name, out=folder, **settings)
    if not mirror.exists(path):
        raise UserError(
            f"no dataset in {path}; make it with `python -m tfds_builders.prepare {name} --source=FOLDER_OF_IMAGES"
            f"{f' --out={folder}' if folder else ''}` (the README says where to download the images)"
        )
    return read_dataset(path, cache)


def read_dataset(path: pathlib.Path | str, cache: str | None = None) -> Dataset:
    """Reads a prepared folder's table and statistics and opens its records.

    Args: path, on a disk or in an object store; cache, as of `open_dataset`. Raises UserError if a file is not what the
    build wrote, by its SHA256SUMS, which folders of earlier versions do not have; or if it cannot be read.
    """
    address = str(path) if files.is_remote(path) else ""
    where = mirror.Mirror(address, cache or "") if address else None
    path = where.folder if where else pathlib.Path(path)
    about = files.read_json(path / "metadata.json", AGAIN)
    for what in files.changed(path, READ, AGAIN, "sums" in about)[:1]:
        raise UserError(f"{path}: {what}; {AGAIN}")
    sites, experiments, plates, cell_types = read_sites(path)
    with _reading(path / "perturbations.csv"), open(path / "perturbations.csv", newline="", encoding="utf-8") as f:
        names: dict[int, str] = {}
        for row in csv.DictReader(f):
            label = int(row["perturbation_id"])
            if names.setdefault(label, row["perturbation"]) != row["perturbation"]:
                raise ValueError(f"two names of {label}")
    with _reading(path / "metadata.json"):
        classes = [names.get(i, "") for i in range(about["classes"])]
    with _reading(path / "statistics.json"):
        mean, std = _statistics(files.read_json(path / "statistics.json", AGAIN), experiments, plates)
    with _reading(path / "features.json"):
        import tensorflow_datasets as tfds  # half a second that `--help` of a command does not wait for

        builder = tfds.builder_from_directory(path)
        image = builder.info.features["image"]
        bits16, shape = image.np_dtype != np.uint8, tuple(about.get("image_shape", image.shape))
    if bits16:
        raise UserError(f"{path} holds 16-bit images and training reads 8-bit ones: prepare it without bits=16")
    sources = {}
    for name, split in builder.info.splits.items():
        labels = sites.label[sites.split == name]
        tiles = math.prod(about.get("grid", (1,)))
        sources[name] = Records(split.file_instructions, image, int(split.num_bytes), labels, tiles, where)
        if "tile" in about:
            sources[name] = Tiles(sources[name], shape, about["tile"])
        if len(sources[name]) != len(labels):
            raise UserError(
                f"{path}: sites.csv has {len(labels)} rows of split {name} but there are {len(sources[name])} records; "
                "rebuild the dataset"
            )
    allow_open_files(sum(len(split.file_instructions) for split in builder.info.splits.values()))
    return Dataset(
        folder=path,
        sites=sites,
        experiments=experiments,
        plates=plates,
        cell_types=cell_types,
        classes=classes,
        image_shape=shape,
        mean=mean,
        std=std,
        sources=sources,
        address=address,
    )


def with_channels(dataset: Dataset, channels: tuple[int, ...]) -> Dataset:
    """The dataset with these channels of its images, from 0 and in this order, and of its statistics; () = all.

    What identifies an image (`pixel_digests`) stays that of all channels. Raises UserError as `chosen_channels`."""
    if not (channels := chosen_channels(channels, dataset.image_shape[2])):
        return dataset
    recorded = tuple((dataset.channels or range(dataset.image_shape[2]))[i] for i in channels)
    images = {split: x.images if isinstance(x, Chosen) else x for split, x in dataset.sources.items()}
    mean, std = ({name: x[:, list(channels)] for name, x in found.items()} for found in (dataset.mean, dataset.std))
    return dataclasses.replace(
        dataset,
        image_shape=(*dataset.image_shape[:2], len(channels)),
        mean=mean,
        std=std,
        sources={split: Chosen(source, recorded) for split, source in images.items()},
        channels=recorded,
    )


def chosen_channels(channels: tuple[int, ...], count: int, key: str = "data.channels") -> tuple[int, ...]:
    """`channels` of images that have `count`. Raises UserError naming the key for a number that is none of theirs or
    that stands there twice."""
    for i, channel in enumerate(channels):
        if type(channel) is not int or not 0 <= channel < count:
            raise UserError(f"{key}={channels}: expected numbers from 0 to {count - 1}, as the images have {count}")
        if channel in channels[:i]:
            raise UserError(f"{key}={channels}: channel {channel} is there twice; name each once")
    return tuple(channels)


def channels_for(trained: tuple[int, ...], count: int, path: str) -> tuple[int, ...]:
    """The channels to take of images of `count` for a network that was trained on `trained` (() = all) of its own;
    images that have these channels and no others are taken as they are. Raises UserError where one is not there."""
    if len(trained) == count <= max(trained, default=0):
        return ()
    return chosen_channels(trained, count, f"{path}: data.channels")


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """Says in one line that a file does not hold what a build writes; TFDS and readers of tables raise many kinds."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {shortened(str(error))}); {AGAIN}") from error


def _statistics(found: dict, experiments: list[str], plates: list[str]) -> tuple[dict, dict]:
    """Mean and standard deviation of statistics.json by name: [1 or experiments or plates, C] float32."""
    groups = {
        "dataset": [found["dataset"]],
        "experiment": [found["experiment"][name] for name in experiments],
        "plate": [found["plate"][name] for name in plates],
    }
    unknown = [np.nan] * found["channels"]  # of the dataset, when the train split is empty
    stack = lambda key: {g: np.array([s[key] or unknown for s in v], np.float32) for g, v in groups.items()}  # noqa: E731
    return stack("mean"), stack("std")


def fingerprint(dataset: Dataset) -> str:
    """A digest (sha256, hex) of what must be equal on all hosts: tables and statistics, among them the digest that each
    record had when it was built, and the names and sizes of record files. No record is read; where the folder is and
    what it was built from does not matter. Of arrays, all of their pixels and the table."""
    if dataset.folder is None:
        return dataset.digest
    digest = hashlib.sha256()
    for path in sorted(dataset.folder.iterdir()):
        if path.name == "metadata.json":
            about = json.loads(path.read_text())
            text = json.dumps({key: value for key, value in about.items() if key != "source"}, sort_keys=True)
            found = hashlib.sha256(text.encode()).hexdigest()
        elif path.suffix in (".csv", ".json"):
            found = files.sha256(path, AGAIN)
        elif ".array_record-" in path.name:
            found = path.stat().st_size
        else:
            continue
        digest.update(f"{path.name} {found}\n".encode())
    return digest.hexdigest()


def pixel_digests(dataset: Dataset) -> np.ndarray:
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
        with arrow_csv.open_csv(path) as file:  # of all channels, whichever the images of `with_channels` have
            names = [name for name in file.schema.names if name.startswith("mean_w")]
        if len(names) < dataset.image_shape[2]:
            raise pa.ArrowKeyError(f"{len(names)} columns mean_w for images of {dataset.image_shape[2]} channels")
        types = dict.fromkeys(names, pa.float64())
        options = arrow_csv.ConvertOptions(include_columns=names, column_types=types)
        table = arrow_csv.read_csv(path, convert_options=options)
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


def select(
    dataset: Dataset,
    splits=None,
    experiments=None,
    cell_types=None,
    well_types=None,
    sites=None,
) -> np.ndarray:
    """Rows of the table that match every criterion given (each a sequence of values): sorted int64 [n].

    well_types: treatment, positive_control, negative_control. Raises UserError for a value that does not exist.
    """
    table = dataset.sites
    keep = np.ones(len(table), bool)

    def apply(key, wanted, column, known):
        nonlocal keep
        if wanted is None:
            return
        wanted = (wanted,) if isinstance(wanted, (str, int)) else tuple(wanted)
        if unknown := [w for w in wanted if w not in known]:
            raise UserError(f"data selection {key}={unknown[0]!r}: the dataset has {', '.join(map(str, known))}")
        keep &= np.isin(column, wanted)

    names = lambda values, index: np.array(values)[index]  # noqa: E731
    apply("splits", splits, table.split, SPLITS)
    apply("experiments", experiments, names(dataset.experiments, table.experiment), dataset.experiments)
    apply("cell_types", cell_types, names(dataset.cell_types, table.cell_type), dataset.cell_types)
    apply("well_types", well_types, table.well_type, WELL_TYPES)
    apply("sites", sites, table.site, sorted(set(table.site.tolist())))
    return np.flatnonzero(keep)


def select_fitted(dataset: Dataset, **criteria) -> np.ndarray:
    """The rows that are trained on: those of the protocol that match the criteria of `select`. Sorted int64 [n]."""
    return np.intersect1d(dataset.roles.fit, select(dataset, **criteria))
