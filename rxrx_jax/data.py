"""Prepared dataset -> minibatches. Only this module knows of Grain and TFDS.

A minibatch is a dict of numpy arrays, this host's part of the global one:
image uint8 [B, H, W, C]; label int32 [B], -1 where unknown or hidden; experiment, plate, cell_type int32 [B], indices
into the dataset's lists; row int64 [B], the site's row in `Dataset.sites`; valid bool [B], False for padding.
"""

import csv
import dataclasses
import json
import pathlib

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from rxrx_jax.errors import UserError
from rxrx_jax.sampler import Sampler

SPLITS = ("train", "id_test", "val", "test")
HELD_OUT = ("val", "test")  # splits of unseen experiments
KEYS = ("label", "experiment", "plate", "cell_type")


@dataclasses.dataclass(frozen=True)
class Sites:
    """The table of a dataset's sites, one entry a record; all arrays [n]. `index` is the position within the split."""

    split: np.ndarray
    index: np.ndarray
    site_id: np.ndarray
    well_id: np.ndarray
    site: np.ndarray
    well_type: np.ndarray
    label: np.ndarray
    experiment: np.ndarray
    plate: np.ndarray
    cell_type: np.ndarray

    def __len__(self):
        return len(self.split)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared folder: its table, names behind the indices, statistics and record readers (by split)."""

    folder: pathlib.Path
    sites: Sites
    experiments: list[str]
    plates: list[str]  # "EXPERIMENT/PLATE"
    cell_types: list[str]
    classes: list[str]  # name of each perturbation id, "" where the source does not tell
    image_shape: tuple[int, int, int]
    mean: dict[str, np.ndarray]  # by statistics name: [1 or experiments or plates, C] float32, pixel units
    std: dict[str, np.ndarray]
    sources: dict


def open_dataset(name: str, settings: dict, folder: str | None = None) -> Dataset:
    """Opens a prepared dataset; the simulated screen is built on first use.

    Args: name, a builder's; settings, its builder config; folder, where prepared datasets lie (TFDS's usual place).
    Raises UserError with the command that makes a missing one.
    """
    from tfds_builders import prepare

    if name == "rxrx_sim":
        path = prepare.prepare(name, out=folder, **settings)
    else:
        path = prepare.find(name, out=folder, **settings)
    if not (path / "dataset_info.json").exists():
        raise UserError(
            f"no dataset in {path}; make it with `python -m tfds_builders.prepare {name} --source=FOLDER_OF_IMAGES"
            f"{f' --out={folder}' if folder else ''}` (the README says where to download the images)"
        )
    return read_dataset(path)


def read_dataset(path: pathlib.Path) -> Dataset:
    """Reads a prepared folder's table and statistics and opens its records."""
    with open(path / "sites.csv", newline="") as f:
        table = list(csv.DictReader(f))
    column = lambda key: np.array([row[key] for row in table])  # noqa: E731
    plate_names = [f"{row['experiment']}/{row['plate']}" for row in table]
    experiments, experiment = np.unique(column("experiment"), return_inverse=True)
    plates, plate = np.unique(plate_names, return_inverse=True)
    cell_types, cell_type = np.unique(column("cell_type"), return_inverse=True)
    split = column("split")
    index = np.empty(len(table), np.int64)
    for name in np.unique(split):
        index[split == name] = np.arange((split == name).sum())
    sites = Sites(
        split=split,
        index=index,
        site_id=column("site_id"),
        well_id=column("well_id"),
        site=column("site").astype(np.int32),
        well_type=column("well_type"),
        label=column("perturbation_id").astype(np.int32),
        experiment=experiment.astype(np.int32),
        plate=plate.astype(np.int32),
        cell_type=cell_type.astype(np.int32),
    )
    with open(path / "perturbations.csv", newline="") as f:
        names = {int(row["perturbation_id"]): row["perturbation"] for row in csv.DictReader(f)}
    classes = [names.get(i, "") for i in range(json.loads((path / "metadata.json").read_text())["classes"])]

    statistics = json.loads((path / "statistics.json").read_text())
    groups = {
        "dataset": [statistics["dataset"]],
        "experiment": [statistics["experiment"][name] for name in experiments],
        "plate": [statistics["plate"][name] for name in plates],
    }
    unknown = [np.nan] * statistics["channels"]  # of the dataset, when the train split is empty
    stack = lambda key: {g: np.array([s[key] or unknown for s in v], np.float32) for g, v in groups.items()}  # noqa: E731

    builder = tfds.builder_from_directory(path)
    if builder.info.features["image"].np_dtype != np.uint8:
        raise UserError(f"{path} holds 16-bit images and training reads 8-bit ones: prepare it without bits=16")
    sources = {}
    for name in builder.info.splits:
        # Everything but the pixels is in the table already.
        skip = {key: tfds.decode.SkipDecoding() for key in builder.info.features if key != "image"}
        sources[name] = builder.as_data_source(name, decoders=skip)
        if len(sources[name]) != (split == name).sum():
            raise UserError(
                f"{path}: sites.csv has {(split == name).sum()} rows of split {name} but there are "
                f"{len(sources[name])} records; build the dataset again"
            )
    return Dataset(
        folder=path,
        sites=sites,
        experiments=experiments.tolist(),
        plates=plates.tolist(),
        cell_types=cell_types.tolist(),
        classes=classes,
        image_shape=builder.info.features["image"].shape,
        mean=stack("mean"),
        std=stack("std"),
        sources=sources,
    )


def hide_labels(sites: Sites) -> Sites:
    """The table as tasks see it: the label is -1 everywhere but in the train split."""
    return dataclasses.replace(sites, label=np.where(sites.split == "train", sites.label, -1).astype(np.int32))


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
    apply("well_types", well_types, table.well_type, ("treatment", "positive_control", "negative_control"))
    apply("sites", sites, table.site, sorted(set(table.site.tolist())))
    return np.flatnonzero(keep)


def make_sampler(dataset: Dataset, rows: np.ndarray, size: int, group: str, groups_per_minibatch: int, seed: int):
    """A Sampler over `rows` whose groups are the dataset's experiments or plates."""
    if group not in ("experiment", "plate"):
        raise UserError(f"data.group={group!r}: expected experiment or plate")
    return Sampler(rows, getattr(dataset.sites, group)[rows], size, groups_per_minibatch, seed)


def read_minibatch(dataset: Dataset, sites: Sites, rows: np.ndarray, size: int | None = None) -> dict[str, np.ndarray]:
    """Reads the records of `rows` [n], padded to `size` with black, unlabelled, invalid images."""
    size = len(rows) if size is None else size
    image = np.zeros((size, *dataset.image_shape), np.uint8)
    split = sites.split[rows]
    for name in np.unique(split):
        lanes = np.flatnonzero(split == name)
        records = dataset.sources[name].__getitems__(sites.index[rows[lanes]].tolist())
        for lane, record in zip(lanes, records):
            image[lane] = record["image"]
    minibatch = {"image": image, "valid": np.arange(size) < len(rows)}
    for key in KEYS:
        padding = -1 if key == "label" else 0
        minibatch[key] = np.full(size, padding, np.int32)
        minibatch[key][: len(rows)] = getattr(sites, key)[rows]
    minibatch["row"] = np.full(size, -1, np.int64)
    minibatch["row"][: len(rows)] = rows
    return minibatch


class _Steps:
    """A Grain random-access source whose element number i is this host's part of minibatch number i."""

    def __init__(self, dataset: Dataset, samplers: list[Sampler], steps: int):
        self.dataset, self.samplers, self.steps = dataset, samplers, steps
        self.sites = hide_labels(dataset.sites)

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        lanes = [host_part(sampler.rows(int(step))) for sampler in self.samplers]
        return read_minibatch(self.dataset, self.sites, np.concatenate(lanes))


def host_part(rows: np.ndarray) -> np.ndarray:
    """This host's contiguous part of a global minibatch."""
    return np.array_split(rows, jax.process_count())[jax.process_index()]


def training_minibatches(dataset: Dataset, samplers: list[Sampler], steps: int, start: int = 0):
    """Iterator over this host's part of minibatches start, start+1, .. steps-1; each draws from every sampler in turn.

    Labels outside the train split are hidden here, before anything else sees a minibatch.
    """
    source = grain.MapDataset.source(_Steps(dataset, samplers, steps))[start:]
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def evaluation_minibatches(dataset: Dataset, rows: np.ndarray, size: int):
    """Iterator over this host's part of minibatches that hold each of `rows` exactly once, labels shown; the last one
    is padded to `size` with `valid` False."""
    local = size // jax.process_count()

    def read(start):
        lanes = host_part(np.arange(start, start + size))
        return read_minibatch(dataset, dataset.sites, rows[lanes[lanes < len(rows)]], local)

    source = grain.MapDataset.source(list(range(0, len(rows), size))).map(read)
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
