"""Runs and weights from Python.

run = rxrx_jax.load("runs/mae_vit")          # a workdir, an exported folder, a file of weights, hf://owner/name
run.embed(images, plate=plates)              # uint8 [B, H, W, C] -> float32 [B, D]
run.predict(images, plate=plates)            # -> float32 [B, K], of a classifier
pandas.DataFrame(run.metrics)
"""

import dataclasses
import functools
import os
import types
from collections.abc import Callable, Sequence
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax import embed, tasks, weights
from rxrx_jax.adapt import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.data import channels_for
from rxrx_jax.data.augment import OF_IMAGES, TRANSDUCTIVE_NORMALISATIONS, plain
from rxrx_jax.training import checkpoint, metrics
from rxrx_jax.weights import export


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network. path: where it lies; config: the resolved config of a run, config.json of an exported folder,
    {"model": ...} of other weights; metrics: the lines of a run's metrics.jsonl, flat dicts, [] of other weights."""

    path: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]

    def embed(self, images: np.ndarray, plate: Sequence | None = None, minibatch: int = 64) -> np.ndarray:
        """Embeddings as `python -m rxrx_jax.embed` makes them: of a larger image the mean over tiles.

        Args:
          images: uint8 [B, H, W, C], of the channels that the run read, or of all those of which it read some
            (`data.channels`).
          plate: [B], the plate of each image, any names: where training normalised by the statistics of each plate or
            experiment, those of the images with the same name are taken, so that all of its images should be given.
          minibatch: images at a time.

        Returns float32 [B, D]. Raises UserError for images that do not fit, and for a network other than a ViT.
        """
        images = self._channels(images)
        model, function = self._embedder(images.shape[1:])
        plates, statistics = self._statistics(images, plate, model.normalisation)
        return _in_parts(functools.partial(function, model.params), images, plates, statistics, minibatch)

    def predict(self, images: np.ndarray, plate: Sequence | None = None, minibatch: int = 64) -> np.ndarray:
        """Probabilities of the classes for the centre of each image, as in evaluation.

        Args: as `embed` takes them.

        Returns float32 [B, K], columns by perturbation id. Raises UserError for images that do not fit, for what is not
        a classifier, and where the method of a run reads the images of a plate or experiment together.
        """
        function = self._predictor
        images = self._channels(images)
        crop, (height, width) = self.config["augment"]["crop"], images.shape[1:3]
        if min(height, width) < crop:
            raise UserError(f"the run was trained on {crop} pixels and the images have {height}x{width}")
        plates, statistics = self._statistics(images, plate, self.config["normalisation"])
        if self.config["augment"].get("evaluation_view") != "whole":
            top, left = (height - crop) // 2, (width - crop) // 2
            images = images[:, top : top + crop, left : left + crop]
        try:
            return _in_parts(function, images, plates, statistics, minibatch)
        except flax.errors.ScopeParamShapeError as error:  # of the first layer: the crop is the run's
            why = shortened(str(error), 200)
            raise UserError(
                f"{self.path} takes images of another number of channels than {images.shape[3]}: {why}"
            ) from error

    def _channels(self, images: np.ndarray) -> np.ndarray:
        data = self.config.get("data")  # an exported folder's is the name
        trained = data.get("channels", ()) if isinstance(data, dict) else self.config.get("data_channels", ())
        chosen = channels_for(tuple(trained), _checked(images).shape[3], self.path)
        return images[..., list(chosen)] if chosen else images

    @functools.cached_property
    def _embedder(self) -> Callable:
        """By the shape (H, W, C) of images: (embed.Model, its compiled function)."""

        def make(shape):
            model = embed.open_model(self.path, shape[2])
            return model, embed.make_embed(model, shape, None, None)

        return functools.cache(make)

    @functools.cached_property
    def _predictor(self) -> Callable:
        """The compiled function (minibatch, statistics of plates) -> probabilities."""
        trained = "resolved" in self.config
        params, batch_stats = {}, {}
        if trained:
            params, batch_stats = checkpoint.stored_network(self.path, checkpoint.published_part(self.path))
        if "linear" not in params.get("head", {}):
            what = f"task {self.config['task']['name']}" if trained else "weights without a head"
            raise UserError(f"{self.path} predicts no classes: it is of {what}; load a run of classify or probe")
        classes = params["head"]["linear"]["kernel"].shape[1]
        if "context" in params["head"]:
            name = self.config["protocol"]["name"]
            raise UserError(f"{self.path}: the head is also given what is known of an image, as its protocol {name} "
                            "says, which only the run's evaluation does")  # fmt: skip
        task = tasks.make_task(Config(self.config), types.SimpleNamespace(classes=classes, shares=_NO_SHARES))
        if type(task.method).at_test is not Method.at_test:
            raise UserError(f"{self.path}: the method {self.config['adapt']['name']} reads the images of a plate or "
                            "experiment together, which only the run's evaluation does")  # fmt: skip
        params, batch_stats = ({"encoder": {}, "head": {}} | tree for tree in (params, batch_stats))
        augment = plain(self.config["normalisation"], self.config["augment"]["crop"])

        @jax.jit
        def predict(params, batch_stats, minibatch, statistics):
            images = augment.evaluation(minibatch, statistics)
            found = task.predict(params, batch_stats, images, jnp.ones(len(images), bool))
            return jax.nn.softmax(found["logits"].astype(jnp.float32))

        return functools.partial(predict, params, batch_stats)

    def _statistics(self, images: np.ndarray, plate, normalisation: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(number of each image's plate, int32 [B], {"mean", "std"}, float32 [plates, C])."""
        index = np.zeros(len(images), np.int32)
        if normalisation in OF_IMAGES:
            return index, {key: np.zeros((1, images.shape[3]), np.float32) for key in ("mean", "std")}  # not read
        if normalisation not in TRANSDUCTIVE_NORMALISATIONS:
            found = self.config if "mean" in self.config else export.dataset_statistics(self.config)
            return index, {key: np.array([found[key]], np.float32) for key in ("mean", "std")}
        if plate is None or len(plate) != len(images):
            raise UserError(
                f"{self.path} was trained with statistics of each {normalisation}: pass plate=, a name for each image"
            )
        names, index = np.unique(np.asarray(plate), return_inverse=True)
        pixels = [images[index == i].reshape(-1, images.shape[3]) for i in range(len(names))]
        mean, std = ([getattr(x, of)(axis=0, dtype=np.float64) for x in pixels] for of in ("mean", "std"))
        return index.astype(np.int32), {"mean": np.array(mean, np.float32), "std": np.array(std, np.float32)}


_NO_SHARES = {"experiment": (), "plate": ()}  # of domains in training images: only a loss reads them


def load(path: str | os.PathLike) -> Run:
    """A trained network.

    Args: path, of a run's workdir or one of its checkpoints, of a folder that rxrx_jax.weights.export wrote, of a file
    of weights of OpenPhenom's or timm's kind, or hf://owner/name.

    Raises UserError naming what is missing or does not fit.
    """
    path = os.fspath(path)
    if not checkpoint.is_run(path):
        return Run(path, weights.about(path) or {"model": weights.load(path).model}, [])
    folder = checkpoint.find_checkpoint(path)
    lines = folder.parent.parent / metrics.NAME
    return Run(path, checkpoint.read_config(folder), metrics.read(lines) if lines.exists() else [])


def _checked(images: np.ndarray) -> np.ndarray:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        what = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else f"a {type(images).__name__}"
        raise UserError(f"images are {what}, expected a numpy array, uint8 [B, H, W, C], of one or more")
    return images


def _in_parts(function: Callable, images, plates, statistics, size: int) -> np.ndarray:
    """function({"image", "plate"}, statistics), on `size` images at a time, the last ones padded: [B, ...]."""
    found, size = [], min(size, len(images))
    for start in range(0, len(images), size):
        image, plate = images[start : start + size], plates[start : start + size]
        short = size - len(image)
        minibatch = {
            "image": np.pad(image, ((0, short), (0, 0), (0, 0), (0, 0))) if short else image,
            "plate": np.pad(plate, (0, short)) if short else plate,
        }
        found.append(np.asarray(function(minibatch, statistics))[: len(image)])
    return np.concatenate(found)
