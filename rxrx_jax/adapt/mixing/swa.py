"""SWA, stochastic weight averaging: the network of the mean of the last parameters (Izmailov et al. 2018, arXiv
1803.05407, algorithm 1)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, number


@dataclasses.dataclass(frozen=True)
class SWA(Method):
    """What is evaluated and published is the mean of the parameters after every step of the last `share` of the run
    (the paper takes one per epoch of it, SWAD, Cha et al. 2021, arXiv 2102.08604, one per step); before that, the
    parameters themselves. BatchNorm's statistics are estimated again after the last step, on all training images;
    an evaluation before it has the mean of the running ones. The learning rate stays that of the run's schedule,
    where the paper holds it constant or lets it cycle."""

    share: float = number(0.25, 0, 1)

    def averaged(self, step, total_steps):
        first = int(total_steps * (1 - self.share))
        count = jnp.maximum(step - first, 0)  # averaged so far
        return count / (count + 1)

    def finished(self, predict, network, rows):
        if not jax.tree.leaves(network.batch_stats):
            return network
        return network._replace(batch_stats=predict.batch_statistics(network, rows))
