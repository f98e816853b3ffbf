"""Fish: inter-domain gradient matching (Shi et al. 2021, arXiv 2104.09937, algorithm 1)."""

import dataclasses

import jax
import optax

from rxrx_jax.adapt.method import Method, Needs, by_group


@dataclasses.dataclass(frozen=True)
class Fish(Method):
    """From a copy of the parameters the run's optimiser takes one step on each domain of the minibatch in turn, and the
    parameters move by meta_rate of the way to where it ends. With optim.name=sgd the inner steps are the paper's."""

    meta_rate: float = 0.01

    @property
    def needs(self):
        return Needs(groups=(2, 10**6), whole_minibatch=True)

    def update(self, differentiate, optimiser, state, minibatch):
        params, collections, opt_state, all_found = state.params, state.collections, state.opt_state, []
        for part in by_group(minibatch, self.groups):
            gradients, collections, found = differentiate(params, collections, part)
            updates, opt_state = optimiser.update(gradients, opt_state, params)
            params = optax.apply_updates(params, updates)
            all_found.append(found | {"gradient_norm": optax.tree.norm(gradients)})
        metrics = jax.tree.map(lambda *x: sum(x) / len(x), *all_found)
        moved = jax.tree.map(lambda old, new: old + self.meta_rate * (new - old), state.params, params)
        return moved, collections, opt_state, metrics
