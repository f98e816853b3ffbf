"""The wells of a run for its maps: embeddings, what each was called, neighbours, thumbnails and intensities.

What is missing is reported as text, never raised.
"""

import dataclasses
import io
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow import csv

from rxrx_jax import data
from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import mirror
from rxrx_jax.base.page.explorer import SIZE
from rxrx_jax.data.builders import builders
from rxrx_jax.evaluate import predictions, protocols
from rxrx_jax.evaluate.embeddings import as_dataset
from rxrx_jax.evaluate.nearest import nearest
from rxrx_jax.report.pictures import composite

MOST = 5_000  # wells, and thumbnails, in a page
NEAR = 8  # neighbours that are listed
STANDS_FOR = {"in_batch_wells": "in_batch", "private": "cross_batch"}  # where a protocol has no rows of that name
ABOUT = ("well_id", "perturbation", "experiment", "plate", "cell_type", "well")


@dataclasses.dataclass
class Wells:
    """Wells with a role, sorted by name.

    columns: those of ABOUT and role, text [n]. embedding: [n, D], means over sites. called: the perturbation that each
    was taken for, [n], and `how`: by the network, or by the nearest well of another experiment. total: how many there
    were before thinning.
    """

    columns: dict[str, np.ndarray]
    embedding: np.ndarray
    called: np.ndarray
    how: str
    neighbours: tuple[np.ndarray, np.ndarray]  # the nearest wells [n, NEAR], -1 where there are fewer; cosines
    total: int

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def right(self) -> np.ndarray:
        """Whether each was called what it is: "right", "wrong", "" where one of these is not known."""
        known = (self.called != "") & (self.columns["perturbation"] != "")
        return np.where(known, np.where(self.called == self.columns["perturbation"], "right", "wrong"), "")


def read(workdir: pathlib.Path) -> Wells | str:
    """The in-batch and cross-batch wells of embeddings.parquet, as the protocol in the run's config divides them, at
    most MOST; or why there are none. Other wells and the private leaderboard stand for these where a protocol has no
    rows of that name."""
    name = embeddings.NAME
    if not (workdir / name).exists():
        return f"no {name}"
    try:
        columns, embedding = embeddings.read(workdir / name)
        scored = protocols.find(protocols.of_run(workdir))(as_dataset(columns)).roles.scored
    except (UserError, OSError, ValueError, KeyError) as e:
        return f"{name} cannot be read ({type(e).__name__})"
    roles = {role: scored[role] for role in ("in_batch", "cross_batch") if role in scored}
    roles |= {role: scored[other] for other, role in STANDS_FOR.items() if other in scored and role not in scored}
    rows = np.concatenate([np.zeros(0, np.int64), *roles.values()])
    if len(rows) < 3 or embedding.shape[1] < 2:
        return f"{name} is too small for a map"
    if not np.isfinite(embedding).all():
        return f"{name} holds numbers that are not finite"
    ids, first, well = np.unique(columns["well_id"][rows].astype(str), return_index=True, return_inverse=True)
    mean = np.zeros((len(ids), embedding.shape[1]), np.float32)
    np.add.at(mean, well, embedding[rows])
    mean /= np.bincount(well)[:, None]
    empty = np.full(len(ids), "")
    found = {key: columns[key][rows[first]].astype(str) if key in columns else empty for key in ABOUT}
    found["role"] = np.repeat(list(roles), [len(of) for of in roles.values()])[first]
    kept = np.unique(np.linspace(0, len(ids) - 1, min(MOST, len(ids))).astype(int))
    found, mean = {key: values[kept] for key, values in found.items()}, mean[kept]
    near = nearest(mean, NEAR, "cosine")
    elsewhere = nearest(mean, 1, "cosine", apart=found["experiment"])[0][:, 0]
    called, how = found["perturbation"][elsewhere], "its nearest neighbour of another experiment (cosine)"
    called = np.where(elsewhere < 0, "", called)
    if of_network := _called(workdir):
        called, how = np.array([of_network.get(one, "") for one in found["well_id"]]), "the network"
    return Wells(found, mean, called, how, near, len(ids))


def _called(workdir: pathlib.Path) -> dict[str, str]:
    """Well -> the perturbation that the network takes it for, of predictions.parquet; nothing without one."""
    path = workdir / predictions.NAME
    try:
        table = pq.read_table(path, columns=["well_id", "perturbation", "perturbation_id", "predicted_well"])
    except (OSError, pa.ArrowException):
        return {}
    wells, names, labels, called = (column.to_pylist() for column in table.columns)
    name = dict(zip(labels, names))
    return {well: name.get(one, str(one)) for well, one in zip(wells, called)}


def dataset_of(config: dict) -> data.Dataset | str:
    """The dataset that a run was trained on, where it is still here; or why its images are not shown."""
    settings = config.get("data", {})
    try:
        if settings.get("name") in (None, data.ARRAYS):
            return "the images are not in a prepared folder"
        folder = builders().find(settings["name"], settings.get("folder"), **settings.get("builder", {}))
        if not mirror.exists(folder):
            return f"the dataset {settings['name']} is not here"
        dataset = data.read_dataset(folder, settings.get("cache"))
    except (UserError, OSError, TypeError) as error:
        return str(error)
    known = config.get("resolved", {}).get("provenance", {}).get("data", "")
    return dataset if data.fingerprint(dataset) in known else "the dataset has changed since"


def thumbnails(dataset: data.Dataset, wells: np.ndarray) -> list[bytes]:
    """A WebP of SIZE pixels of the first site of each well, text [n], b"" for one that the dataset does not have.

    Channels in their published colours, each from 0 to its 99.9th percentile over all of these wells.
    """
    row_of: dict[str, int] = {}
    order = np.argsort(dataset.sites.site, kind="stable")
    for row, well in zip(order[::-1].tolist(), dataset.sites.well_id[order[::-1]].tolist()):
        row_of[well] = row
    rows = np.array([row_of.get(well, -1) for well in wells.tolist()])
    known = rows[rows >= 0]
    side = max(1, min(dataset.image_shape[:2]) // SIZE)
    small = []
    for start in range(0, len(known), 64):  # of which one minibatch is in memory at full size
        images = data.read_minibatch(dataset, dataset.sites, known[start : start + 64], go_on=True)["image"]
        n, height, width, channels = images.shape
        images = images[:, : height // side * side, : width // side * side]
        blocks = images.reshape(n, height // side, side, width // side, side, channels)
        small.append(np.rint(blocks.mean((2, 4), dtype=np.float32)).astype(np.uint8))
    if not small:
        return [b""] * len(wells)
    images = np.concatenate(small)
    high = np.maximum(np.quantile(images[:: max(1, len(images) // 500)], 0.999, axis=(0, 1, 2)), 1)
    drawn = iter(images)
    return [_webp(composite(next(drawn), 0, high)) if row >= 0 else b"" for row in rows]


def _webp(picture: np.ndarray) -> bytes:
    """A small WebP of an image [H, W, 3] in 0..1."""
    image = Image.fromarray(np.rint(255 * picture).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=50, method=4)
    return out.getvalue()


def intensities(dataset: data.Dataset) -> tuple[np.ndarray, list[str]]:
    """The mean pixel value of each channel in each row of the dataset, standardised within its plate, [n, C], and the
    names of the channels."""
    names = json.loads((dataset.folder / "metadata.json").read_text())["channels"]
    columns = [f"mean_w{i + 1}" for i in range(len(names))]
    table = csv.read_csv(dataset.folder / "manifest.csv", convert_options=csv.ConvertOptions(include_columns=columns))
    values = np.stack([table[column].to_numpy() for column in columns], axis=1)
    plate, count = dataset.sites.plate, np.bincount(dataset.sites.plate)[:, None]
    total = lambda x: np.stack([np.bincount(plate, column) for column in x.T], axis=1)  # noqa: E731
    centred = values - (total(values) / np.maximum(count, 1))[plate]
    spread = np.sqrt(total(centred**2) / np.maximum(count, 1))[plate]
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9 * (1 + abs(values))), names
