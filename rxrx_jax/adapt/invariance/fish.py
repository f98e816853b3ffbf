"""Fish: inter-domain gradient matching (Shi et al. 2021, arXiv 2104.09937, algorithm 1)."""

import dataclasses

import jax

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
        inner, all_found = state, []
        for part in by_group(minibatch, self.groups):
            params, collections, opt_state, found = super().update(differentiate, optimiser, inner, part)
            inner = dataclasses.replace(inner, params=params, collections=collections, opt_state=opt_state)
            all_found.append(found)
        metrics = jax.tree.map(lambda *x: sum(x) / len(x), *all_found)
        moved = jax.tree.map(lambda old, new: old + self.meta_rate * (new - old), state.params, inner.params)
        return moved, inner.collections, inner.opt_state, metrics
