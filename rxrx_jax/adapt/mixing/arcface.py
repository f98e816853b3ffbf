"""ArcFace: a classifier of angles with a margin, beside the usual one (Deng et al. 2019, arXiv 1801.07698, equation
3), as the first place of RxRx1's competition trains (github.com/maciej-sypetkowski/kaggle-rcic-1st)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rxrx_jax.adapt.method import Method, number
from rxrx_jax.models.heads import unit


@dataclasses.dataclass(frozen=True)
class ArcFace(Method):
    """The loss is (1 - weight) times the cross-entropy of the head, which is what predicts at test, plus weight times
    that of s cos(theta_k) over the classes, theta_k the angle of the features and the class's own weights, to which
    `margin` is added for the true class; past pi - margin its cosine falls linearly, as in the authors' code.

    That code also halves the second term: weight 1/9 has its proportions. It takes the features through a neck of two
    linear layers with BatchNorm; here they are the encoder's."""

    weight: float = number(0.2, 0, 1)
    s: float = 30.0
    margin: float = number(0.5, 0, 1.5)
    classes: int = 0

    def init(self, key, features):
        init = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's for a linear layer
        return {"kernel": init(key, (features.shape[-1], self.classes))}, {}

    def loss(self, params, carry, out, progress, key):
        cosines = unit(out.features, axis=1) @ unit(params["kernel"], axis=0)  # [B, K]
        labels = jnp.maximum(out.labels, 0)
        true = jnp.take_along_axis(cosines, labels[:, None], axis=1)[:, 0]
        one_hot = jax.nn.one_hot(labels, self.classes)
        logits = self.s * (cosines + one_hot * (with_margin(true, self.margin) - true)[:, None])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        arc = jnp.where(out.labelled, each, 0).sum() / out.batch.labelled
        return (1 - self.weight) * out.risk + self.weight * arc, carry, {"arcface_loss": arc}


def with_margin(cosine: jax.Array, margin: float) -> jax.Array:
    """cos(theta + margin) of cos(theta) [n] up to theta = pi - margin, from there cos(theta) - margin sin(margin)."""
    sine = jnp.sqrt(jnp.maximum(1 - cosine**2, 1e-9))  # its slope is finite where the angle is 0
    added = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
    return jnp.where(cosine > -jnp.cos(margin), added, cosine - margin * jnp.sin(margin))
