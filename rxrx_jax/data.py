"""Prepared dataset -> minibatches. Only this module knows of Grain and TFDS.

A minibatch is a dict of numpy arrays, this host's part of the global one:
image uint8 [B, S, S, C], a window of the record (a random one in training, the centre in evaluation); label int32 [B],
-1 where unknown or hidden; experiment, plate, cell_type int32 [B], indices into the dataset's lists; row int64 [B], the
site's row in `Dataset.sites`; valid bool [B], False for padding.
"""

import concurrent.futures
import csv
import dataclasses
import functools
import json
import pathlib
import sys

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from rxrx_jax.errors import UserError
from rxrx_jax.sampler import PairSampler, Sampler
from rxrx_jax.sites import Sites, hide_labels, read_sites
from rxrx_jax.synthetic import Description, describe, synthetic_minibatches, synthetic_statistics
from tfds_builders.common.build import cores
from tfds_builders.common.encodings import DecodeWhenCut

__all__ = ["Dataset", "Description", "Sites", "describe", "evaluation_minibatches", "hide_labels", "make_sampler",
           "open_dataset", "read_dataset", "read_minibatch", "select", "synthetic_minibatches", "synthetic_statistics",
           "training_minibatches"]  # fmt: skip

SPLITS = ("train", "id_test", "val", "test")
HELD_OUT = ("val", "test")  # splits of unseen experiments
KEYS = ("label", "experiment", "plate", "cell_type")
READING = grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)  # minibatches; each is read by all cores


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared folder: its table, names behind the indices, statistics and record readers (by split)."""

    folder: pathlib.Path
    sites: Sites
    experiments: list[str]
    plates: list[str]  # "EXPERIMENT/PLATE"
    cell_types: list[str]
    classes: list[str]  # name of each perturbation id, "" where the source does not tell
    image_shape: tuple[int, int, int]  # [H, W, C] of the records
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
    sites, experiments, plates, cell_types = read_sites(path)
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
        # Everything but the pixels is in the table already, and of them only what is cut out is decoded.
        skip = {key: tfds.decode.SkipDecoding() for key in builder.info.features}
        sources[name] = builder.as_data_source(name, decoders=skip | {"image": DecodeWhenCut()})
        if len(sources[name]) != (rows := (sites.split == name).sum()):
            raise UserError(
                f"{path}: sites.csv has {rows} rows of split {name} but there are {len(sources[name])} records; "
                "build the dataset again"
            )
    return Dataset(
        folder=path,
        sites=sites,
        experiments=experiments,
        plates=plates,
        cell_types=cell_types,
        classes=classes,
        image_shape=builder.info.features["image"].shape,
        mean=stack("mean"),
        std=stack("std"),
        sources=sources,
    )


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


def make_sampler(
    dataset: Dataset, rows: np.ndarray, size: int, group: str, groups_per_minibatch: int, seed: int, pairs: str = ""
):
    """A Sampler over `rows` whose groups are the dataset's experiments or plates; with `pairs="perturbation"` a
    PairSampler, which uses the train split's labels and no others. Says once how many sites have no partner."""
    if group not in ("experiment", "plate"):
        raise UserError(f"data.group={group!r}: expected experiment or plate")
    if not pairs:
        return Sampler(rows, getattr(dataset.sites, group)[rows], size, groups_per_minibatch, seed)
    if pairs != "perturbation":
        raise UserError(f"data.pairs={pairs!r}: expected perturbation or nothing")
    if groups_per_minibatch:
        raise UserError(f"data.pairs={pairs} needs data.groups_per_minibatch=0, not {groups_per_minibatch}")
    sites = hide_labels(dataset.sites)
    sampler = PairSampler(rows, sites.label[rows], sites.experiment[rows], sites.cell_type[rows], size, seed)
    if sampler.left_out and jax.process_index() == 0:
        print(f"{sampler.left_out} of {len(rows)} training sites have no partner and are left out", file=sys.stderr)
    return sampler


def read_minibatch(
    dataset: Dataset,
    sites: Sites,
    rows: np.ndarray,
    crop: int | None = None,
    corners: np.ndarray | None = None,
    size: int | None = None,
) -> dict[str, np.ndarray]:
    """Reads a window of each record of `rows` [n], padded to `size` with black, unlabelled, invalid images.

    Args: crop, side of the windows in pixels, None for whole images; corners [n, 2], (top, left) of each window, None
    for the centre.
    """
    size = len(rows) if size is None else size
    *whole, channels = dataset.image_shape
    height, width = (crop, crop) if crop else whole
    if corners is None:
        corners = np.broadcast_to([(whole[0] - height) // 2, (whole[1] - width) // 2], (len(rows), 2))
    image = np.empty((size, height, width, channels), np.uint8)
    image[len(rows) :] = 0
    split = sites.split[rows]

    def read(lanes):
        records = dataset.sources[split[lanes[0]]].__getitems__(sites.index[rows[lanes]].tolist())
        for lane, record in zip(lanes, records):
            top, left = corners[lane]
            window = record["image"][top : top + height, left : left + width]
            if window.strides[-1] == 1:
                image[lane] = window
            else:  # planes, three times faster one by one
                for channel in range(channels):
                    image[lane, ..., channel] = window[..., channel]

    # Few records a job, so that few are in memory and every core has some.
    share = min(8, -(-len(rows) // cores()))
    parts = [np.flatnonzero(split == name) for name in np.unique(split)]
    jobs = [part[i : i + share] for part in parts for i in range(0, len(part), share)]
    list(_threads().map(read, jobs))
    minibatch = {"image": image, "valid": np.arange(size) < len(rows)}
    for key in KEYS:
        padding = -1 if key == "label" else 0
        minibatch[key] = np.full(size, padding, np.int32)
        minibatch[key][: len(rows)] = getattr(sites, key)[rows]
    minibatch["row"] = np.full(size, -1, np.int64)
    minibatch["row"][: len(rows)] = rows
    return minibatch


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    """One for all readers: decoding releases Python's lock, and more threads than cores would only take turns."""
    return concurrent.futures.ThreadPoolExecutor(cores(), "read")


def crop_corners(seed: int, step: int, count: int, image_shape: tuple, crop: int) -> np.ndarray:
    """Corners (top, left) of the random windows of minibatch `step`, uniform over all places: int64 [count, 2].

    Those of position i are a function of (seed, step, i) alone, from Philox, a generator that counts (Salmon et al.
    2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    bits = np.random.Philox(key=seed, counter=[0, step, 0, 0]).random_raw(2 * count).reshape(count, 2)
    places = np.array([image_shape[0] - crop + 1, image_shape[1] - crop + 1], np.uint64)
    return ((bits >> np.uint64(32)) * places >> np.uint64(32)).astype(np.int64)


class _Steps:
    """A Grain random-access source whose element number i is this host's part of minibatch number i."""

    def __init__(self, dataset: Dataset, samplers: list[Sampler], steps: int, crop: int, seed: int):
        self.dataset, self.samplers, self.steps, self.crop, self.seed = dataset, samplers, steps, crop, seed
        self.sites = hide_labels(dataset.sites)

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        step = int(step)
        rows = [sampler.rows(step) for sampler in self.samplers]
        total = sum(map(len, rows))
        corners = crop_corners(self.seed, step, total, self.dataset.image_shape, self.crop)
        of_sampler = np.split(corners, np.cumsum([len(r) for r in rows])[:-1])
        here = lambda parts: np.concatenate([host_part(part) for part in parts])  # noqa: E731
        return read_minibatch(self.dataset, self.sites, here(rows), self.crop, here(of_sampler))


def host_part(rows: np.ndarray) -> np.ndarray:
    """This host's contiguous part of a global minibatch."""
    return np.array_split(rows, jax.process_count())[jax.process_index()]


def training_minibatches(dataset: Dataset, samplers: list[Sampler], steps: int, start: int, crop: int, seed: int):
    """Iterator over this host's part of minibatches start, start+1, .. steps-1; each draws from every sampler in turn,
    and of each record a random window of `crop` x `crop` pixels (`crop_corners`).

    Labels outside the train split are hidden here, before anything else sees a minibatch.
    """
    source = grain.MapDataset.source(_Steps(dataset, samplers, steps, crop, seed))[start:]
    return iter(source.to_iter_dataset(READING))


def evaluation_minibatches(dataset: Dataset, rows: np.ndarray, size: int, crop: int | None = None):
    """Iterator over this host's part of minibatches that hold each of `rows` exactly once, labels shown; the last one
    is padded to `size` with `valid` False. Images are the centre of `crop` x `crop` pixels, or whole."""
    local = size // jax.process_count()

    def read(start):
        lanes = host_part(np.arange(start, start + size))
        return read_minibatch(dataset, dataset.sites, rows[lanes[lanes < len(rows)]], crop, size=local)

    source = grain.MapDataset.source(list(range(0, len(rows), size))).map(read)
    return iter(source.to_iter_dataset(READING))
