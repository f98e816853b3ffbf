"""The gradient of REINFORCE, in the mean over trajectories, is that of the expected reward, with any baseline."""

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.generate.reinforce import reinforce

REWARDS = jnp.array([0.2, 0.9, 0.5])


def test_its_mean_gradient_is_that_of_the_expected_reward():
    logits, log_z = jnp.array([0.3, -0.2, 0.1]), jnp.log(0.4)

    def mean_loss(logits, log_z):
        """Two moves of three actions, the second of which does not count; the reward is of the first."""
        log_p = jax.nn.log_softmax(logits)
        losses = [
            reinforce(jnp.array([log_p[a], 5.0]), None, None, log_z, jnp.log(REWARDS[a]), jnp.array([True, False]))
            for a in range(3)
        ]
        return jax.lax.stop_gradient(jnp.exp(log_p)) @ jnp.stack(losses)

    of_logits, of_baseline = jax.grad(mean_loss, (0, 1))(logits, log_z)
    expected = jax.grad(lambda logits: jax.nn.softmax(logits) @ REWARDS)(logits)
    np.testing.assert_allclose(of_logits, -expected, atol=1e-6)
    # The baseline learns the expected reward.
    np.testing.assert_allclose(of_baseline, 2 * 0.4 * (0.4 - jax.nn.softmax(logits) @ REWARDS), atol=1e-6)
