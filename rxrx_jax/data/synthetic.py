"""A dataset that is not there: what a compiled step must know of it, and minibatches of its shape made of noise."""

import collections
import dataclasses

import jax
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.data.builders import builders
from rxrx_jax.data.sites import SPLITS

# What the datasets' own pages say beyond the builders' `published`: the side of an image in pixels, the controls that
# are classes of their own, and the sites to train on where they are not all.
PAGES = {
    "rxrx1": {"pixels": 512, "controls": 1, "train_images": 40_612},  # WILDS rxrx1_v1.0: site 1 of 33 experiments
    "rxrx2": {"pixels": 1024, "controls": 1},
    "rxrx19a": {"pixels": 1024, "controls": 1},
    "rxrx19b": {"pixels": 2048, "controls": 1},
    # RxRx3 says "2.2 million" sites and that plates are numbered 1 to 48: at most so many, most experiments have fewer.
    "rxrx3": {"pixels": 2048, "controls": 2, "train_images": 2_200_000, "plates": 180 * 48},
    "rxrx3_core": {"pixels": 512, "controls": 2, "plates": 180 * 48},
}


@dataclasses.dataclass(frozen=True)
class Description:
    """What shapes a train step of a dataset, and its length: no image and no table is needed to tell.

    classes, experiments, plates: ranges of as many as there are (`Dataset` has names in their places)."""

    name: str
    image_shape: tuple[int, int, int]  # [H, W, C]
    classes: range
    experiments: range
    plates: range
    cell_types: range
    train_images: int  # an epoch: the records of the first split, of which a protocol may leave some out


def describe(name: str, settings: dict | None = None) -> Description:
    """Describes a dataset by its published design or, rxrx_sim, by its settings; nothing is read or prepared.

    Raises UserError where the number of experiments or plates is not published.
    """
    builder = builders().builder_class(name)
    config = builder.make_config(**(settings or {}))
    if name == "rxrx_sim":
        return _describe_simulated(config.settings)
    page = PAGES[name] | builder.published
    missing = [key for key in ("experiments", "plates") if key not in page]
    if missing:
        raise UserError(f"{name}: its number of {' and '.join(missing)} is not published; prepare the dataset first")
    side = getattr(config.settings, "image_size", None) or page["pixels"]
    return Description(
        name=name,
        image_shape=(side, side, len(builder.channels)),
        classes=range(page["perturbations"] + page["controls"]),
        experiments=range(page["experiments"]),
        plates=range(page["plates"]),
        cell_types=range(4 if name == "rxrx1" else 1),
        train_images=page.get("train_images", page.get("sites")),
    )


def _describe_simulated(screen) -> Description:
    from rxrx_jax.simulate.screen import sites

    rows = list(sites(screen))
    number = lambda *keys: range(len({tuple(row[key] for key in keys) for row in rows}))  # noqa: E731
    return Description(
        name="rxrx_sim",
        image_shape=(screen.image_size, screen.image_size, 6),
        classes=range(screen.classes),
        experiments=number("experiment"),
        plates=number("experiment", "plate"),
        cell_types=number("cell_type"),
        train_images=collections.Counter(row["split"] for row in rows)[SPLITS[0]],
    )


def synthetic_minibatches(dataset, size: int, crop: int, seed: int):
    """This host's part of one random minibatch, again and again without end.

    Args: dataset, a Description or a Dataset. Keys, shapes and dtypes are those of data.training_minibatches.
    """
    random = np.random.default_rng([seed, jax.process_index()])
    local = size // jax.process_count()
    minibatch = {
        "image": random.integers(0, 256, (local, crop, crop, dataset.image_shape[2]), dtype=np.uint8),
        "valid": np.ones(local, bool),
    }
    ranges = {"label": "classes", "experiment": "experiments", "plate": "plates", "cell_type": "cell_types"}
    for key, values in ranges.items():
        minibatch[key] = random.integers(0, len(getattr(dataset, values)), local, dtype=np.int32)
    minibatch["row"] = np.full(local, -1, np.int64)
    while True:
        yield dict(minibatch)  # its own: the trainer takes keys out


def synthetic_statistics(dataset) -> dict[str, np.ndarray]:
    """Statistics of that noise, as augment.plate_statistics gives them: {"mean", "std"}, float32 [plates, C]."""
    shape = len(dataset.plates), dataset.image_shape[2]
    mean, std = 255 / 2, ((256**2 - 1) / 12) ** 0.5
    return {"mean": np.full(shape, mean, np.float32), "std": np.full(shape, std, np.float32)}
