"""All trees of up to three of five pieces: the losses are zero at their flows, and the policy of the flows ends in the
target, each tree counted once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fragments import FIVE, SMALL
from test_generate_balance import LOSSES, everything, terms

from rxrx_jax.generate import exact
from rxrx_jax.generate.environments import assemble


@pytest.mark.slow
def test_all_losses_are_zero_at_the_flows_of_trees():
    graph, log_reward, flow, log_pf = everything(SMALL)
    assert flow[0] == pytest.approx(np.logaddexp.reduce(log_reward), abs=1e-9)
    *given, valid = terms(SMALL, graph, log_reward, flow, log_pf)
    every = jax.jit(jax.vmap(lambda *given: jnp.stack([loss(*given) for loss in LOSSES.values()])))
    assert every(*given, valid).max() < 1e-8
    for i in (0, 1, 3, 4):
        assert (every(*[x + 0.1 * (i == k) for k, x in enumerate(given)], valid).mean(0) > 1e-4).all()
    found = exact.terminal_distribution(graph, jnp.maximum(log_pf, -1e9), SMALL.longest)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert exact.total_variation(found, exact.target(jnp.asarray(log_reward))[0]) < 1e-5
    repeated = [len(set(row[row < len(flow)])) < (row < len(flow)).sum() for row in graph.child]
    assert 10 < sum(repeated) < len(repeated)  # so that there were moves to sum
    ends = jax.tree.map(lambda x: x[graph.terminal], graph.states)
    assert len(set(assemble.all_smiles(FIVE, jax.vmap(SMALL.terminal)(ends)))) > 100
