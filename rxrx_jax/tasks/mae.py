"""Masked-autoencoder pretraining. No label is ever used."""

import dataclasses

import jax

from rxrx_jax import models
from rxrx_jax.config import Config
from rxrx_jax.errors import UserError
from rxrx_jax.models.mae import MaskedAutoencoder, masked_pixel_loss
from rxrx_jax.models.vit import Encoder, Size


@dataclasses.dataclass(frozen=True)
class Mae:
    module: MaskedAutoencoder
    encoder: Encoder  # the same encoder, for whole images
    normalise_target: bool
    frozen = None
    inherits = "encoder"

    @classmethod
    def from_config(cls, config: Config) -> "Mae":
        task, encoder = config.task, models.make_encoder(config.model)
        if not isinstance(encoder, Encoder):
            raise UserError(f"model.name={config.model.name!r}: task.name=mae needs vit")
        if not 0 < task.mask_ratio < 1:
            raise UserError(f"task.mask_ratio={task.mask_ratio}: expected a number between 0 and 1")
        width, depth, heads = task.decoder
        decoder = Size(width, depth, 4 * width, heads)
        module = MaskedAutoencoder(encoder.size, decoder, encoder.patch, task.mask_ratio, encoder.remat, encoder.dtype)
        return cls(module, encoder, task.normalise_target)

    def init(self, key, images):
        return {"params": self.module.init(key, images, self.noise(key, images))["params"], "batch_stats": {}}

    def loss(self, params, batch_stats, images, minibatch, key, progress):
        del minibatch, progress
        prediction, found = self.module.apply({"params": params}, images, self.noise(key, images))
        loss = masked_pixel_loss(prediction, images, found["mask"], self.module.patch, self.normalise_target).mean()
        return loss, (batch_stats, {})

    def predict(self, params, batch_stats, images, mask):
        del batch_stats, mask
        _, found = self.encoder.apply({"params": params["encoder"]}, images)
        return {"embedding": found["embedding"]}

    def noise(self, key, images):
        b, h, w, _ = images.shape
        return jax.random.uniform(key, (b, (h // self.module.patch) * (w // self.module.patch)))
