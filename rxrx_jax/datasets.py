"""Datasets from Python: prepared ones, and images in memory, of which is computed what a folder says of itself.

dataset = datasets.open("rxrx1")                                   # or a prepared folder; or datasets.from_arrays
rows = datasets.select(dataset, cell_types="HUVEC", splits="train")
for minibatch in datasets.minibatches(dataset, rows, 64): ...      # {"image": uint8 [64, H, W, C], "label": ...}
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rxrx_jax import data
from rxrx_jax.base import files, hosts
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.spellings import (
    MISSING,
    SPAN,
    SPLITS,
    TREATMENT,
    UNSPECIFIED,
    WELL_TYPES,
    canonical_well,
    is_missing,
)
from rxrx_jax.data import Dataset, Sites
from rxrx_jax.data.dataset import select

__all__ = ["Dataset", "from_arrays", "minibatches", "open", "select"]

MOST_SITES = 10**6
NEEDED = ("experiment", "plate", "well")
DEFAULTS = {"cell_type": UNSPECIFIED, "well_type": TREATMENT, "split": SPLITS[0], "perturbation": ""}


def open(
    name: str | os.PathLike, folder: str | os.PathLike | None = None, *, cache: str | None = None, **settings
) -> Dataset:
    """A prepared dataset; the simulated screen is built on first use.

    Args:
      name: of a dataset, its prepared folder, or a builder's .py file.
      folder: where datasets lie that are named; None is TFDS_DATA_DIR or ~/tensorflow_datasets. Both may be on gs:// or
        s3://.
      cache: "DIR,SIZE", the disk for what is read of an object store; None is ~/.cache/rxrx_jax,16GB.
      settings: what it was prepared with, as `seed=1` for the simulated screen; none for a folder.

    Raises UserError with the command that prepares a missing one.
    """
    if files.is_remote(name):
        if settings:
            raise UserError(f"{name} is prepared with settings of its own; open it without {', '.join(settings)}")
        return data.read_dataset(str(name), cache)
    path = pathlib.Path(name).expanduser()
    if (path / "dataset_info.json").exists():
        if settings:
            raise UserError(f"{path} is prepared with settings of its own; open it without {', '.join(settings)}")
        return data.read_dataset(path)
    if path.is_dir() or (path.name != str(name) and path.suffix != ".py"):
        raise UserError(f"{name} is not a folder that tfds_builders.prepare made")
    return data.open_dataset(str(name), settings, None if folder is None else str(folder), cache)


def minibatches(
    dataset: Dataset, rows: np.ndarray | None = None, size: int = 64, crop: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The images of some rows of a dataset, each once, in their order.

    Args:
      dataset: as `open` returns it.
      rows: int [n], as `select` returns them; None for all.
      size: images at a time; the last minibatch may have fewer.
      crop: side in pixels of the centre that is taken; None for whole images.

    Yields dicts of "image" [B, H, W, C] uint8; "row" int64 [B], the place in `dataset.sites`; and int32 [B]: "label"
    (the perturbation, -1 if unlabelled), "experiment", "plate", "cell_type", the places in `dataset.classes`,
    `dataset.experiments` and so on. Raises UserError for a record that cannot be read.
    """
    rows = np.arange(len(dataset.sites)) if rows is None else np.asarray(rows)
    for minibatch in data.evaluation_minibatches(dataset, rows, size, crop):
        valid = minibatch.pop("valid")
        yield {key: values[valid] for key, values in minibatch.items()}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Images of a split: `rows[i][rows, columns]` is a window of its image i, as that of `records.Records`."""

    images: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[self.rows[index]]


def from_arrays(images: np.ndarray, table: Mapping[str, Sequence]) -> Dataset:
    """A dataset of images in memory, to train on: `training.train.run(config, workdir, dataset)`.

    Args:
      images: [n, H, W, C] uint8; not copied, so a memory map is fine.
      table: a DataFrame or a dict of columns, each [n]: experiment (the biological batch), plate, well (A1 or A01);
        and, if there are any, perturbation (the label; None, NaN, NA, '', '-', ... where it is unknown), site (by
        default numbered within the well), split (train, id_test, val or test; by default all train), cell_type, and
        well_type (treatment, positive_control or negative_control).

    Names are read as `tfds_builders` reads those of a csv file, and perturbations are numbered as it numbers them:
    treatments, then controls, each sorted by name. Images that are equal are counted on stderr. Raises UserError, one
    line, for images or a table that cannot be used.
    """
    images = images if isinstance(images, np.ndarray) else np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise UserError(f"images are {images.dtype}{list(images.shape)}: expected uint8 [n, H, W, C]")
    columns = _columns(table, len(images))
    well_id = _joined(columns["experiment"], columns["plate"], columns["well"])
    site_id = _joined(well_id, columns["site"])
    names, counts = np.unique(site_id, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"table: {names[counts > 1][0]} (experiment, plate, well, site) is there twice")
    classes, label = _labels(columns["perturbation"], columns["well_type"])
    experiments, experiment = np.unique(columns["experiment"], return_inverse=True)
    plates, plate = np.unique(_joined(columns["experiment"], columns["plate"], by="/"), return_inverse=True)
    cell_types, cell_type = np.unique(columns["cell_type"], return_inverse=True)
    split, index = columns["split"], np.empty(len(images), np.int64)
    rows = {name: np.flatnonzero(split == name) for name in SPLITS if (split == name).any()}
    for chosen in rows.values():
        index[chosen] = np.arange(len(chosen))
    sites = Sites(
        split=split,
        index=index,
        site_id=site_id,
        well_id=well_id,
        site=columns["site"].astype(np.int32),
        well_type=columns["well_type"],
        label=label,
        experiment=experiment.astype(np.int32),
        plate=plate.astype(np.int32),
        cell_type=cell_type.astype(np.int32),
    )
    total, squares = _sums(images)
    for note in _repeats(images, total, squares, site_id, split):
        hosts.say(note)
    groups = {"dataset": np.where(split == SPLITS[0], 0, -1), "experiment": experiment, "plate": plate}
    sizes = {"dataset": 1, "experiment": len(experiments), "plate": len(plates)}
    moments = {key: _moments(total, squares, group, sizes[key], images.shape) for key, group in groups.items()}
    pixels = images.shape[1] * images.shape[2]
    return Dataset(
        folder=None,
        sites=sites,
        experiments=experiments.tolist(),
        plates=plates.tolist(),
        cell_types=cell_types.tolist(),
        classes=classes,
        image_shape=images.shape[1:],
        mean={key: mean for key, (mean, _) in moments.items()},
        std={key: std for key, (_, std) in moments.items()},
        sources={name: Rows(images, chosen) for name, chosen in rows.items()},
        means=total / pixels,
        digest=_digest(images, columns),
    )


def _columns(table: Mapping[str, Sequence], n: int) -> dict[str, np.ndarray]:
    """The columns as text [n], those that are missing by their defaults; `site` as integers."""
    names = list(table.keys())
    if twice := [name for name in (*NEEDED, *DEFAULTS, "site") if names.count(name) > 1]:
        raise UserError(f"table has {names.count(twice[0])} columns {twice[0]}; keep one")
    if missing := [name for name in NEEDED if name not in names]:
        raise UserError(f"table has no column {missing[0]}; it has {', '.join(map(str, names))}")
    found = {}
    for name in (*NEEDED, *DEFAULTS):
        values = list(table[name]) if name in names else [DEFAULTS[name]] * n
        if len(values) != n:
            raise UserError(f"table has {len(values):,} rows of {name} for {n:,} images")
        found[name] = np.array([_text(value) for value in values], str)
    for name in NEEDED:
        if (found[name] == "").any():
            raise UserError(f"table: {name} of row {np.flatnonzero(found[name] == '')[0]} is empty")
    for name, blank in (("perturbation", ""), ("cell_type", UNSPECIFIED)):
        found[name] = np.array([blank if is_missing(text) else text for text in found[name].tolist()], str)
    wells = [canonical_well(text) for text in found["well"].tolist()]
    if None in wells:
        row = wells.index(None)
        raise UserError(f"table: well {shortened(found['well'][row])!r} of row {row} is not a well of {SPAN}")
    found["well"] = np.array(wells, str)
    pairs = sorted(set(zip(found["experiment"].tolist(), found["plate"].tolist())))
    for by in "_/":
        if twice := [name for name, n in collections.Counter(map(by.join, pairs)).items() if n > 1]:
            raise UserError(f"table: two plates would have the name {twice[0]} (experiment, plate): rename one of them")
    for name, known in (("split", SPLITS), ("well_type", WELL_TYPES)):
        if unknown := sorted(set(found[name].tolist()) - set(known)):
            raise UserError(f"table: {name} {unknown[0]!r}: expected {', '.join(known)}")
    if "site" in names:
        try:
            found["site"] = np.array(list(table["site"])).astype(np.int64, casting="safe")
        except TypeError as error:
            raise UserError("table: the column site must hold integers") from error
        if ((found["site"] < 0) | (found["site"] >= MOST_SITES)).any():
            raise UserError(f"table: the column site must hold integers from 0 to {MOST_SITES - 1:,}")
        if len(found["site"]) != n:
            raise UserError(f"table has {len(found['site']):,} rows of site for {n:,} images")
    else:
        seen: collections.Counter[tuple] = collections.Counter()
        found["site"] = np.zeros(n, np.int64)
        for i, well in enumerate(zip(*(found[name].tolist() for name in NEEDED))):
            seen[well] += 1
            found["site"][i] = seen[well]
    return found


def _text(value) -> str:
    """A cell without spaces around it; '' for None, NaN and pandas' NA and NaT, which are not text that reads alike."""
    text = str(value).strip()
    return "" if not isinstance(value, str) and text.lower() in (*MISSING, "nat") else text


def _joined(*columns: np.ndarray, by: str = "_") -> np.ndarray:
    return np.array([by.join(map(str, values)) for values in zip(*(column.tolist() for column in columns))], str)


def _labels(perturbation: np.ndarray, well_type: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names of the classes, and the class of every row, -1 where it has no name: int32 [n]."""
    rows: dict[str, list[int]] = collections.defaultdict(lambda: [0] * len(WELL_TYPES))
    for name, kind in zip(perturbation.tolist(), well_type.tolist()):
        if name:
            rows[name][WELL_TYPES.index(kind)] += 1
    kinds = {name: counts.index(max(counts)) for name, counts in rows.items()}  # that of most rows
    classes = sorted(kinds, key=lambda name: (kinds[name], name))
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    return classes, np.array([number[name] for name in perturbation.tolist()], np.int32)


def _sums(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of pixels and of their squares of every image and channel: [n, C] each, exact."""
    total = np.empty((len(images), images.shape[3]), np.int64)
    squares = np.empty_like(total)
    for i, image in enumerate(images):  # one in memory at a time
        flat = image.reshape(-1, image.shape[2]).astype(np.int64)
        total[i], squares[i] = flat.sum(0), (flat * flat).sum(0)
    return total, squares


def _repeats(images, total, squares, site_id, split) -> Iterator[str]:
    """Says how many images equal an earlier one, and first how many of these are in another split: a score on them is
    partly memory. Images of one value throughout are not counted, as in `tfds_builders`."""
    varied = (total * total != squares * (images.shape[1] * images.shape[2])).any(1)
    _, group, size = np.unique(np.hstack([total, squares]), axis=0, return_inverse=True, return_counts=True)
    first: dict[bytes, int] = {}
    equal = []
    for i in np.flatnonzero(varied & (size[group.ravel()] > 1)):  # the only ones that can be equal
        if (other := first.setdefault(hashlib.sha256(images[i].tobytes()).digest(), int(i))) != i:
            equal.append((i, other))
    across = [(i, other) for i, other in equal if split[i] != split[other]]
    warning = "WARNING: images in one split that equal one in a different split, so that scores are partly memory"
    for words, some in ((warning, across), ("images that equal that of an earlier row", equal)):
        if some:
            i, other = some[0]
            example = f"{site_id[i]} ({split[i]}) and {site_id[other]} ({split[other]})"
            yield f"{words}: {len(some):,}, such as {example}"


def _moments(total, squares, group, number, shape) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by group and channel, float32 [number, C] each; NaN for a group without images."""
    mean, std = np.full((2, number, total.shape[1]), np.nan, np.float32)
    for one in range(number):
        chosen = group == one
        n = int(chosen.sum()) * shape[1] * shape[2]
        if n:
            first, second = total[chosen].sum(0) / n, squares[chosen].sum(0) / n
            mean[one], std[one] = first, np.sqrt(np.maximum(second - first**2, 0))
    return mean, std


def _digest(images: np.ndarray, columns: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(str(images.shape).encode())
    for image in images:
        digest.update(image.tobytes())
    for name, values in sorted(columns.items()):
        digest.update("\0".join([name, *map(str, values.tolist())]).encode())
    return digest.hexdigest()
