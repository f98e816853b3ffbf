"""CDAN: a discriminator of features and predictions together (Long et al. 2018, arXiv 1705.10667)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.invariance.dann import Dann


@dataclasses.dataclass(frozen=True)
class Cdan(Dann):
    """DANN whose discriminator reads (R_f features) * (R_g softmax(logits)) / sqrt(projected), R_f and R_g normal and
    fixed: the random projection of their outer product to `projected` numbers (section 3.2 there). An image's domain
    loss weighs 1 + exp(-H), H the entropy of its prediction, normalised to mean 1 over the minibatch (CDAN+E). No
    gradient is followed into predictions and weights, as in Transfer-Learning-Library. Its other keys are DANN's.
    """

    projected: int = 1024
    classes: int = 0

    def init(self, key, features):
        keys = jax.random.split(key, 3)
        carry = {
            "features": jax.random.normal(keys[0], (features.shape[-1], self.projected)),
            "classes": jax.random.normal(keys[1], (self.classes, self.projected)),
        }
        return super().init(keys[2], jnp.zeros((1, self.projected)))[0], carry

    def _read(self, carry, out, features):
        probabilities = jax.lax.stop_gradient(jax.nn.softmax(out.logits))
        read = (features @ carry["features"]) * (probabilities @ carry["classes"]) / self.projected**0.5
        weights = 1 + jnp.exp(jax.scipy.special.xlogy(probabilities, probabilities).sum(-1))
        return read, weights / weights.mean()
