"""MOReinforce (Lin et al. 2022, arXiv 2203.15386): one policy conditioned on the preference, trained by REINFORCE for
the scalarised reward. A baseline in comparisons: it has a best move, and does not sample in proportion to a reward."""

import jax
import jax.numpy as jnp


def reinforce(log_pf, log_pb, log_flow, log_z, log_reward, valid) -> jax.Array:
    """Of one trajectory, in the form of the losses of `balance.py`: its gradient by log_pf is that of minus the
    expected reward R_w^beta, with exp(log_z), a function of the condition, learned as a baseline.

    Args:
      log_pf: [T], of each move; the others of `balance.py` that are of moves or states are not used.
      log_z: [], the logarithm of the baseline.
      log_reward: [].
      valid: bool [T], which moves count.
    """
    del log_pb, log_flow
    reward, baseline = jnp.exp(log_reward), jnp.exp(log_z)
    advantage = jax.lax.stop_gradient(reward - baseline)
    return -advantage * jnp.where(valid, log_pf, 0).sum() + (reward - baseline) ** 2
