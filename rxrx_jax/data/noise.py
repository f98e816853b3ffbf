"""The source of noise: minibatches in the shape of a dataset that need not exist."""

import collections
import dataclasses

import jax
import numpy as np

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import SPLITS
from rxrx_jax.data.augment import Augment
from rxrx_jax.data.batch import TRAIN
from rxrx_jax.data.builders import builders
from rxrx_jax.data.dataset import Dataset, chosen_channels, open_dataset
from rxrx_jax.data.images import LENGTHS, ImageViews, checked

# What the datasets' own pages say beyond the builders' `published`: the side of an image in pixels, the controls that
# are classes of their own, the cell types where there are several, and the sites to train on where they are not all,
# with those of other protocols by name.
PAGES = {
    # WILDS rxrx1_v1.0: site 1 of 33 experiments
    "rxrx1": {
        "pixels": 512,
        "controls": 1,
        "cell_types": 4,
        "train_images": 40_612,
        "wilds_mixed": 40_581,
        **dict.fromkeys(("separated", "stratified", "cellsignal"), 81_224),
        "cellsignal:controls": 85_716,
    },  # fmt: skip
    "rxrx1_wilds": {"pixels": 256, "controls": 1, "cell_types": 4, "train_images": 40_612},
    "rxrx2": {"pixels": 1024, "controls": 1},
    "rxrx19a": {"pixels": 1024, "controls": 1},
    "rxrx19b": {"pixels": 2048, "controls": 1},
    # RxRx3 says "2.2 million" sites and that plates are numbered 1 to 48: at most so many, most experiments have fewer.
    "rxrx3": {"pixels": 2048, "controls": 2, "train_images": 2_200_000, "plates": 180 * 48},
    "rxrx3_core": {"pixels": 512, "controls": 2, "plates": 180 * 48},
}
KNOWN = ("rxrx_sim", *PAGES)  # whose shapes are known without their folder
GUESS = 2  # experiments, and plates, where none is published and `guess` asks for some


@dataclasses.dataclass(frozen=True)
class Description:
    """What determines the shapes of a train step on a dataset, and its length, known without images or tables.

    classes, experiments, plates: ranges of as many as there are (`Dataset` has names in their places)."""

    name: str
    image_shape: tuple[int, int, int]  # [H, W, C]
    classes: range
    experiments: range
    plates: range
    cell_types: range
    train_images: int  # an epoch: the records of the first split, of which a protocol may leave some out
    guessed: tuple[str, ...] = ()  # of experiments and plates, those whose number is GUESS, for want of another


def describe(name: str, settings: dict | None = None, folder: str | None = None, guess: bool = False) -> Description:
    """Describes a dataset by its published design or, rxrx_sim, by its settings; nothing is read or prepared. A dataset
    of your own has no published design: its prepared folder says.

    Args: as those of `open_dataset`; guess, GUESS experiments or plates where their number is not published.
    Raises UserError where it is not, without `guess`.
    """
    builder = builders().builder_class(name, folder)
    config = builder.make_config(**(settings or {}))
    if name == "rxrx_sim":
        return _describe_simulated(config.settings)
    if name not in PAGES:
        return _describe_prepared(open_dataset(name, settings or {}, folder))
    page = PAGES[name] | builder.published
    missing = [key for key in ("experiments", "plates") if key not in page]
    if missing and guess:
        page |= dict.fromkeys(missing, GUESS)
    elif missing:
        raise UserError(f"{name}: its number of {' and '.join(missing)} is not published; prepare the dataset first")
    side = getattr(config.settings, "image_size", None) or page["pixels"]
    return Description(
        name=name,
        image_shape=(side, side, len(builder.channels)),
        classes=range(page["perturbations"] + page["controls"]),
        experiments=range(page["experiments"]),
        plates=range(page["plates"]),
        cell_types=range(page.get("cell_types", 1)),
        train_images=page.get("train_images", page.get("sites")),
        guessed=tuple(missing),
    )


def _describe_prepared(dataset: Dataset) -> Description:
    number = lambda key: range(len(getattr(dataset, key)))  # noqa: E731
    return Description(
        name=dataset.folder.parents[1].name,
        image_shape=dataset.image_shape,
        classes=number("classes"),
        experiments=number("experiments"),
        plates=number("plates"),
        cell_types=number("cell_types"),
        train_images=int((dataset.sites.split == SPLITS[0]).sum()),
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


@dataclasses.dataclass(frozen=True)
class Noise(ImageViews):
    """Images of uniform noise in the shape of a dataset: what the compute alone can do, and what it is compiled
    for."""

    description: Description
    seed: int
    pairs: bool
    fingerprint = "noise"
    only_measures = True

    @property
    def units(self) -> dict[str, int]:
        return {name: 2 if self.pairs and name == TRAIN else 1 for name in self.sizes}

    @property
    def examples(self) -> int:
        return self.description.train_images

    @property
    def classes(self) -> int:
        return len(self.description.classes)

    @property
    def shares(self) -> dict[str, tuple[float, ...]]:
        equal = lambda domains: (1 / len(domains),) * len(domains)  # noqa: E731
        return {"experiment": equal(self.description.experiments), "plate": equal(self.description.plates)}

    @property
    def cell_types(self) -> dict[str, tuple[int, ...]]:
        alternate = lambda domains: tuple(i % len(self.description.cell_types) for i in domains)  # noqa: E731
        return {"experiment": alternate(self.description.experiments), "plate": alternate(self.description.plates)}

    def minibatches(self, start: int, steps: int):
        """One random minibatch, again and again."""
        random = np.random.default_rng([self.seed, jax.process_index()])
        minibatch = {name: self._random(random, size // jax.process_count()) for name, size in self.sizes.items()}
        for _ in range(start, steps):
            yield {name: dict(columns) for name, columns in minibatch.items()}

    def _random(self, random, size: int) -> dict[str, np.ndarray]:
        crop = self.augment.crop
        found = {
            "image": random.integers(0, 256, (size, crop, crop, self.image_shape[2]), dtype=np.uint8),
            "valid": np.ones(size, bool),
        }
        ranges = {"label": "classes", "experiment": "experiments", "plate": "plates", "cell_type": "cell_types"}
        for key, values in ranges.items():
            found[key] = random.integers(0, len(getattr(self.description, values)), size, dtype=np.int32)
        return found

    def rows(self, step: int) -> list[dict]:
        return []

    def without(self, step: int, instead: int) -> "Noise":
        return self


def make(config: Config, guess: bool = False) -> Noise:
    """Noise in the shape of `config.data`'s dataset; nothing is read or prepared. Args: guess, as of `describe`."""
    c = config.data
    description = describe(c.name, c.builder.as_kwargs(), c.get("folder"), guess)
    if chosen := chosen_channels(c.get("channels", ()), description.image_shape[2]):
        description = dataclasses.replace(description, image_shape=(*description.image_shape[:2], len(chosen)))
    protocol, page = config.protocol.name.removesuffix("partial").rstrip(":,"), PAGES.get(c.name, {})
    number = page.get(protocol, page.get(protocol.partition(":")[0], description.train_images))
    description = dataclasses.replace(description, train_images=number)
    c.as_kwargs(), checked(c.select.as_kwargs())  # read, though nothing is chosen
    sizes = {stream: c.get(key.removeprefix("data."), 0) for stream, key in LENGTHS.items()}
    shape = len(description.plates), description.image_shape[2]
    mean, std = 255 / 2, ((256**2 - 1) / 12) ** 0.5
    return Noise(
        augment=Augment(config.normalisation, **config.augment.as_kwargs()),
        sizes={stream: size for stream, size in sizes.items() if size or stream == TRAIN},
        image_shape=description.image_shape,
        constants={"mean": np.full(shape, mean, np.float32), "std": np.full(shape, std, np.float32)},
        description=description,
        seed=config.seed,
        pairs=bool(c.get("pairs", "")),
    )
