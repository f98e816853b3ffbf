"""On device, inside the jitted step: flips, quarter turns, normalisation, intensity jitter.

Images come as uint8 [B, S, S, C], cropped by data/, and leave as float32 of that shape.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError

NORMALISATIONS = ("dataset", "image", "image_unbiased", "experiment", "plate")
OF_IMAGES = ("image", "image_unbiased")  # each image has statistics of its own
WINDOWS = ("random", "centre")
EVALUATION_VIEWS = ("crop", "whole")
TRANSDUCTIVE_NORMALISATIONS = ("experiment", "plate")  # their statistics come from unlabelled held-out images too
EPSILON = 1e-3  # of a standard deviation in pixel units: a black channel stays zero
IMAGE_EPSILON = 1e-5  # of an image's own variance, in units of 255^2


@dataclasses.dataclass(frozen=True)
class Augment:
    """normalisation: one of NORMALISATIONS; crop: side in pixels of the views, which data/ cuts; intensity_jitter:
    standard deviation of the random gain and offset that each channel of each training image gets after normalisation;
    window: one of WINDOWS, where in an image a training view lies ("centre" is where those of evaluation lie);
    evaluation_view: one of EVALUATION_VIEWS, what is scored of an image: its centre of `crop` pixels, or all of it.

    Normalisation "image" is the self-standardisation of the Phenom models (Kraus et al. 2024, arXiv 2404.10242):
    (x / 255 - mean) / sqrt(variance of x / 255 + 1e-5), by image and channel, with the biased variance.
    "image_unbiased" is that of WILDS (examples/transforms.py): (x - mean) / deviation, `torch.std`'s, of n - 1 degrees
    of freedom; a constant channel is divided by 1.

    `statistics` of the methods are those of `plate_statistics`: arguments, not constants, so that one compiled step
    serves every dataset of the same shape."""

    normalisation: str
    crop: int
    flips: bool
    rot90: bool
    intensity_jitter: float
    window: str = "random"
    evaluation_view: str = "crop"

    @property
    def evaluation_crop(self) -> int | None:
        """Side in pixels of the centre that is scored; None for whole images."""
        return None if self.evaluation_view == "whole" else self.crop

    def __post_init__(self):
        if self.window not in WINDOWS:
            raise UserError(f"augment.window={self.window!r}: expected {' or '.join(WINDOWS)}")
        if self.evaluation_view not in EVALUATION_VIEWS:
            expected = " or ".join(EVALUATION_VIEWS)
            raise UserError(f"augment.evaluation_view={self.evaluation_view!r}: expected {expected}")
        if self.normalisation not in NORMALISATIONS:
            raise UserError(f"normalisation={self.normalisation!r}: expected one of {', '.join(NORMALISATIONS)}")

    def train(self, minibatch: dict, statistics: dict, keys: jax.Array) -> jax.Array:
        """Random views of `minibatch["image"]`; that of image i depends on the image and on keys[i] of [B] alone."""
        images = minibatch["image"]
        c = images.shape[-1]
        # The first two draws are unused; they were the crop's corner, and keeping them leaves the others unchanged.
        bits = jax.vmap(lambda k: jax.random.bits(k, (6,), jnp.uint32))(keys)  # [B, 6]
        pick = lambda i: (bits[:, i] & 1).astype(bool)[:, None, None, None]  # noqa: E731
        if self.rot90:  # a turn is a transpose and a flip; half turns are two flips
            images = jnp.where(pick(2), images.transpose(0, 2, 1, 3)[:, ::-1], images)
            images = jnp.where(pick(3), images[:, ::-1, ::-1], images)
        if self.flips:
            images = jnp.where(pick(4), images[:, ::-1], images)
            images = jnp.where(pick(5), images[:, :, ::-1], images)
        x = self._normalise(images, minibatch, statistics)
        if self.intensity_jitter:
            # Uniform with that deviation: XLA draws normal noise again for every pixel (benchmarks/kernels.py).
            draw = lambda k: jax.random.uniform(jax.random.fold_in(k, 1), (2, 1, 1, c), minval=-1.0)  # noqa: E731
            noise = jax.vmap(draw)(keys) * (3**0.5 * self.intensity_jitter)  # [B, 2, 1, 1, C]
            x = x * (1 + noise[:, 0]) + noise[:, 1]
        return x

    def evaluation(self, minibatch: dict, statistics: dict) -> jax.Array:
        """The images, normalised; deterministic."""
        return self._normalise(minibatch["image"], minibatch, statistics)

    def _normalise(self, images, minibatch, statistics):
        x = images.astype(jnp.float32)
        if self.normalisation == "image":
            x = x / 255
            mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
            return (x - mean) / jnp.sqrt(variance + IMAGE_EPSILON)
        if self.normalisation == "image_unbiased":
            constant = x.min((1, 2), keepdims=True) == x.max((1, 2), keepdims=True)
            std = x.std((1, 2), keepdims=True, ddof=1)
            return (x - x.mean((1, 2), keepdims=True)) / jnp.where(constant, 1, std)
        mean = statistics["mean"][minibatch["plate"]][:, None, None, :]  # [B, 1, 1, C]
        std = statistics["std"][minibatch["plate"]][:, None, None, :]
        return (x - mean) / (std + EPSILON)


def plain(normalisation: str, crop: int) -> Augment:
    """Without random views, for what is only evaluated."""
    return Augment(normalisation, crop, flips=False, rot90=False, intensity_jitter=0.0)


def plate_statistics(dataset, normalisation: str) -> dict[str, np.ndarray]:
    """Statistics to normalise each plate's images: {"mean", "std"}, float32 [plates, C] in pixel units, which are the
    plate's own, its experiment's or the dataset's (of the train split)."""
    sites = dataset.sites
    _, first = np.unique(sites.plate, return_index=True)  # one site of each plate
    source = "dataset" if normalisation in OF_IMAGES else normalisation  # of images it is not used
    group = {
        "dataset": np.zeros_like(sites.plate),
        "experiment": sites.experiment,
        "plate": sites.plate,
    }[source][first]
    found = {"mean": dataset.mean[source][group], "std": dataset.std[source][group]}
    if normalisation not in OF_IMAGES and not np.isfinite(found["mean"]).all():
        raise UserError(
            f"normalisation={normalisation!r}: {dataset.folder or 'the table'} has no training site to take it from"
        )
    return found
