"""Masked-autoencoder pretraining. No label is ever used."""

import dataclasses
import math

import jax

from rxrx_jax import models
from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.channel_agnostic import CROSS_HEADS
from rxrx_jax.models.losses import masked_fourier_loss, masked_pixel_loss, normalise_patches
from rxrx_jax.models.mae import MaskedAutoencoder
from rxrx_jax.models.vit import Encoder, Size


@dataclasses.dataclass(frozen=True)
class Mae:
    """The loss is (1 - fourier_weight) * pixel loss + fourier_weight * Fourier loss, over masked patches."""

    module: MaskedAutoencoder
    encoder: Encoder  # the same encoder, for whole images
    normalise_target: bool
    fourier_weight: float = 0.0
    frozen = None
    inherits = "encoder"
    method = Method()

    @classmethod
    def from_config(cls, config: Config, source, method: Method) -> "Mae":
        del source, method
        task, encoder = config.task, models.make_encoder(config.model)
        if not isinstance(encoder, Encoder):
            raise UserError(f"model.name={config.model.name!r}: task.name=mae needs vit")
        if not 0 < task.mask_ratio < 1:
            raise UserError(f"task.mask_ratio={task.mask_ratio}: expected a number between 0 and 1")
        fourier_weight = task.get("fourier_weight", 0.0)
        if not 0 <= fourier_weight <= 1:
            raise UserError(f"task.fourier_weight={fourier_weight}: expected a number from 0 to 1")
        width, depth, heads = task.decoder
        multiple = math.lcm(4, heads, CROSS_HEADS if encoder.style.channel_agnostic else 1)
        if width % multiple:
            raise UserError(f"task.decoder={task.decoder}: the width {width} must be a multiple of {multiple}")
        decoder = Size(width, depth, 4 * width, heads)
        options = dict(style=encoder.style, remat=encoder.remat, dtype=encoder.dtype)
        module = MaskedAutoencoder(encoder.size, decoder, encoder.patch, task.mask_ratio, **options)
        return cls(module, encoder, task.normalise_target, fourier_weight)

    def init(self, key, images):
        noise = self.noise(jax.random.split(key, len(images)), images)
        return {"params": self.module.init(key, images, noise)["params"]}

    def loss(self, params, collections, batch, key, progress):
        del progress
        images = batch.images
        noise, rngs = self.noise(batch.keys, images), {"drop_path": batch.keys[0]}
        prediction, found = self.module.apply({"params": params}, images, noise, train=True, rngs=rngs)
        loss, metrics = self.score(prediction, images, found["mask"])
        return loss.mean(), (collections, {name: value.mean() for name, value in metrics.items()})

    def score(self, prediction, images, mask):
        """(loss [B], {"pixel_loss": [B], "fourier_loss": [B]}, empty when the loss is of one kind)."""
        target = self.module.patches(images)
        if self.normalise_target:
            target = normalise_patches(target)
        weights, losses = {"pixel_loss": 1 - self.fourier_weight, "fourier_loss": self.fourier_weight}, {}
        if weights["pixel_loss"]:
            losses["pixel_loss"] = masked_pixel_loss(prediction, target, mask)
        if weights["fourier_loss"]:
            losses["fourier_loss"] = masked_fourier_loss(prediction, target, mask, self.module.patch)
        loss = sum(weights[name] * value for name, value in losses.items())
        return loss, losses if len(losses) > 1 else {}

    def predict(self, params, batch_stats, images, mask):
        del batch_stats, mask
        _, found = self.encoder.apply({"params": params["encoder"]}, images)
        return {"embedding": found["embedding"]}

    def noise(self, key, images):
        """Uniform noise [B, N] from one key per image, key [B]; N patches, of each channel if channel agnostic."""
        n = jax.eval_shape(self.module.patches, images).shape[1]
        return jax.vmap(lambda k: jax.random.uniform(k, (n,)))(key)
