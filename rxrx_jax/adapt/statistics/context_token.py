"""Context token: an experiment's mean patch token as one more token of each of its images, for vision transformers what
AdaBN is for networks with BatchNorm (ContextViT, Bao & Karaletsos 2023, arXiv 2305.19402).

A training minibatch is of one experiment. The token is Linear(mean), of the patch tokens, with their positions and
before the first block, of all images of the minibatch; no gradient passes through the mean. At test the mean is over
all unlabelled images of the experiment (transductive). The token is not pooled, and an encoder that is used without
this method, by a later stage or `rxrx_jax.embed`, is without it.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.adapt.method import Method, Needs


@dataclasses.dataclass(frozen=True)
class ContextToken(Method):
    @property
    def needs(self):
        return Needs(groups=(1, 1), tokens=True, transductive=True)

    @property
    def read_by(self):
        return self.domain

    def init(self, key, features):
        width = features.shape[-1]
        return {"context": nn.Dense(width).init(key, jnp.zeros((1, width)))["params"]}, {}

    def forward(self, encode, images, batch):
        def tokens(params, patches):  # [B, N, D] -> [B, 1, D]
            mean = jax.lax.stop_gradient(patches.mean(axis=(0, 1), dtype=jnp.float32))
            return jnp.broadcast_to(_token(params, mean), (len(patches), 1, len(mean)))

        return encode(images, tokens=tokens), {}

    def at_test(self, predict, network, group):
        if not len(group.rows):
            return predict(network, group.rows)
        token = _token(network.params["domain"], predict.patches(network, group.members))
        return predict(network, group.rows, tokens=np.asarray(token))


def _token(params: dict, mean: jax.Array) -> jax.Array:
    """[D] -> [1, D]."""
    return nn.Dense(len(mean)).apply({"params": params["context"]}, mean[None])
