"""The source of images: records of a prepared dataset, drawn by samplers, cut on the hosts and augmented on device."""

import dataclasses
import difflib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base import hosts
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import NEGATIVE_CONTROL
from rxrx_jax.data import dataset as datasets
from rxrx_jax.data.augment import Augment, plate_statistics
from rxrx_jax.data.batch import CONTROLS, HELD_OUT, TRAIN
from rxrx_jax.data.minibatches import KEYS, training_minibatches
from rxrx_jax.data.sampler import make_control_sampler, make_sampler

LENGTHS = {TRAIN: "data.minibatch", HELD_OUT: "data.unlabelled_minibatch", CONTROLS: "data.control_minibatch"}
SELECT = ("experiments", "cell_types", "well_types", "sites")


@dataclasses.dataclass(frozen=True)
class ImageViews:
    """What sources of images have in common. sizes: images per minibatch of each stream; image_shape [H, W, C];
    constants: {"mean", "std"}, float32 [plates, C]."""

    augment: Augment
    sizes: dict[str, int]
    image_shape: tuple[int, int, int]
    constants: dict[str, np.ndarray]

    def __post_init__(self):
        if self.augment.crop > min(self.image_shape[:2]):
            raise UserError(f"augment.crop={self.augment.crop} is larger than the images, {self.image_shape[:2]}")

    @property
    def lengths(self) -> dict[str, str]:
        return LENGTHS

    @property
    def view(self) -> jax.ShapeDtypeStruct:
        crop = self.augment.crop
        return jax.ShapeDtypeStruct((1, crop, crop, self.image_shape[2]), jnp.float32)

    @property
    def spec(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        def stream(size):
            image = jax.ShapeDtypeStruct((size, *self.view.shape[1:]), jnp.uint8)
            indices = dict.fromkeys(KEYS, jax.ShapeDtypeStruct((size,), np.int32))
            return {"image": image, "valid": jax.ShapeDtypeStruct((size,), bool)} | indices

        return {name: stream(size) for name, size in self.sizes.items()}

    def views(self, columns, constants, keys, number):
        """Of each image [B, S, S, C] uint8 `number` random views, [B, S, S, C] float32 each."""
        of = lambda i: keys if i == 0 else jax.vmap(jax.random.fold_in, (0, None))(keys, i)  # noqa: E731
        return tuple(self.augment.train(columns, constants, of(i)) for i in range(number))


@dataclasses.dataclass(frozen=True)
class Images(ImageViews):
    """dataset: a datasets.Dataset; samplers: by stream."""

    dataset: datasets.Dataset
    samplers: dict
    seed: int

    @property
    def context(self) -> int:
        """The length of the context that the protocol gives each image; 0 for none."""
        return 0 if self.dataset.roles.context is None else self.dataset.roles.context.shape[1]

    @property
    def spec(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        def more(size):
            return {"context": jax.ShapeDtypeStruct((size, self.context), np.float32)} if self.context else {}

        return {name: columns | more(self.sizes[name]) for name, columns in super().spec.items()}

    @property
    def units(self) -> dict[str, int]:
        return {name: sampler.unit for name, sampler in self.samplers.items()}

    @property
    def examples(self) -> int:
        return self.samplers[TRAIN].size * self.samplers[TRAIN].steps_per_epoch

    @property
    def classes(self) -> int:
        return len(self.dataset.classes)

    @functools.cached_property
    def shares(self) -> dict[str, tuple[float, ...]]:
        """By kind of domain, the share of each domain in the images that are trained on."""
        found = {}
        for kind, names in (("experiment", self.dataset.experiments), ("plate", self.dataset.plates)):
            values = getattr(self.dataset.sites, kind)[self.samplers[TRAIN].drawn_from]
            counts = np.bincount(values, minlength=len(names))
            found[kind] = tuple((counts / counts.sum()).tolist())
        return found

    @property
    def cell_types(self) -> dict[str, tuple[int, ...]]:
        """By kind of domain, the cell type of each domain, -1 for one with several."""
        found, sites = {}, self.dataset.sites
        for kind, names in (("experiment", self.dataset.experiments), ("plate", self.dataset.plates)):
            low, high = np.full(len(names), len(self.dataset.cell_types)), np.full(len(names), -1)
            np.minimum.at(low, getattr(sites, kind), sites.cell_type)
            np.maximum.at(high, getattr(sites, kind), sites.cell_type)
            found[kind] = tuple(np.where(low == high, low, -1).tolist())
        return found

    @functools.cached_property
    def fingerprint(self) -> str:  # hashes the side tables: once
        return datasets.fingerprint(self.dataset)

    def minibatches(self, start: int, steps: int):
        how = self.augment.crop, self.seed, self.augment.window
        return training_minibatches(self.dataset, self.samplers, steps, start, *how)

    def rows(self, step: int) -> list[dict]:
        sites, data = self.dataset.sites, self.dataset
        return [
            {
                "stream": stream,
                "row": int(row),
                "site_id": str(sites.site_id[row]),
                "split": str(sites.split[row]),
                "experiment": data.experiments[sites.experiment[row]],
                "plate": data.plates[sites.plate[row]],
            }
            for stream, sampler in self.samplers.items()
            for row in sampler.rows(step)
        ]

    def without(self, step: int, instead: int) -> "Images":
        return dataclasses.replace(
            self, samplers={name: LeavingOut(s, step, instead) for name, s in self.samplers.items()}
        )


@dataclasses.dataclass(frozen=True)
class LeavingOut:
    """A sampler without the minibatch number `step`, in whose place stands number `instead`."""

    sampler: object
    step: int
    instead: int

    def rows(self, step: int) -> np.ndarray:
        return self.sampler.rows(self.instead if step == self.step else step)

    def __getattr__(self, name):
        return getattr(self.sampler, name)


def make(config: Config, roles: Callable, dataset: datasets.Dataset | None = None) -> Images:
    """The source of `config.data`. All hosts call it; a missing simulated dataset is built by the first host.

    Args: roles, of the dataset's rows by the config's protocol: labels outside its `fit` rows are hidden; dataset, in
    place of the one that the config names.

    Raises UserError for what cannot be drawn."""
    named = config.data.name, config.data.builder.as_kwargs(), config.data.get("folder"), config.data.get("cache")
    channels = config.data.get("channels", ())
    find = functools.cache(lambda: datasets.with_channels(dataset or datasets.open_dataset(*named), channels))
    hosts.on_first_host(lambda: find() and None)
    dataset = hosts.on_all_hosts(lambda: dataclasses.replace(find(), roles=roles(find())))
    c = config.data
    selected = checked(c.select.as_kwargs())
    rows = datasets.select_fitted(dataset, **selected)
    drawn = c.minibatch, c.group, c.groups_per_minibatch, config.seed, c.get("pairs", "")
    crops = c.get("crops_per_record", 1)
    samplers = {TRAIN: make_sampler(dataset, rows, *drawn, crops=crops)}
    if c.unlabelled_minibatch:
        names, scored = c.unlabelled_roles, dataset.roles.scored
        if not names or set(names) - set(scored):
            known = ", ".join(scored)
            raise UserError(f"data.unlabelled_roles={names}: the protocol scores {known}; name some of them")
        held_out = np.sort(np.concatenate([scored[name] for name in names]))
        held_out = held_out[np.isin(held_out, datasets.select(dataset, **selected))]
        if not len(held_out):
            raise UserError("data.unlabelled_minibatch: no image of data.unlabelled_roles matches data.select")
        samplers[HELD_OUT] = make_sampler(
            dataset, held_out, c.unlabelled_minibatch, c.group, 0, config.seed + 1, crops=crops
        )
    else:
        c.get("unlabelled_roles")
    if size := c.get("control_minibatch", 0):
        wells = dataset.sites.well_id  # all sites of those that the protocol shows
        rows = datasets.select(dataset, **selected | {"well_types": NEGATIVE_CONTROL})
        rows = rows[np.isin(wells[rows], wells[dataset.roles.fit])]
        samplers[CONTROLS] = make_control_sampler(dataset, samplers[TRAIN], rows, size, c.group, config.seed + 2)
    return Images(
        augment=Augment(config.normalisation, **config.augment.as_kwargs()),
        sizes={name: sampler.size for name, sampler in samplers.items()},
        image_shape=dataset.image_shape,
        constants=plate_statistics(dataset, config.normalisation),
        dataset=dataset,
        samplers=samplers,
        seed=config.seed,
    )


def checked(criteria: dict) -> dict:
    """The keys of data.select, which may not name splits: the protocol says what is trained on."""
    if unknown := [key for key in criteria if key not in SELECT]:
        near = "".join(f"did you mean {key}? " for key in difflib.get_close_matches(unknown[0], SELECT, 1))
        raise UserError(f"data.select.{unknown[0]}: no such key; {near}data.select has {', '.join(SELECT)}")
    return criteria
