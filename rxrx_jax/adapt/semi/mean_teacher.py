"""Mean teacher: predictions on unlabelled held-out images follow those of an average of past networks (Tarvainen &
Valpola 2017, arXiv 1703.01780). Transductive."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, Needs, number
from rxrx_jax.data.batch import HELD_OUT


@dataclasses.dataclass(frozen=True)
class MeanTeacher(Method):
    """The loss gains weight * ramp * the mean squared difference of student's and teacher's class probabilities on the
    held-out images (over images and classes), of which each sees its own view. The teacher is the run's moving average
    (`optim.ema_decay`, .999 here and in the paper), which is also what is evaluated; as in the paper's code it is in
    training mode. ramp: exp(-5 (1 - t)^2) over the share `ramp_up` of the run, as there, where the weight is 100 for
    ten classes."""

    weight: float = 1.0
    ramp_up: float = number(0.25, 0.001, 1)

    @property
    def needs(self):
        return Needs(streams=(HELD_OUT,), views=2, averages=True, transductive=True)

    def forward(self, encode, images, batch):
        taught = encode(batch.of(HELD_OUT, batch.views[1]), average=True).logits
        return encode(images), {"teacher": jax.lax.stop_gradient(jax.nn.softmax(taught))}

    def loss(self, params, carry, out, progress, key):
        student = jax.nn.softmax(out.batch.of(HELD_OUT, out.logits))
        consistency = jnp.square(student - out.extra["teacher"]).mean()
        weight = self.weight * jnp.exp(-5 * jnp.square(1 - jnp.minimum(progress / self.ramp_up, 1)))
        metrics = {"consistency": consistency, "consistency_weight": weight}
        return out.risk + weight * consistency, carry, metrics
