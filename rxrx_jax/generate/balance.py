"""The losses of generative flow networks on one trajectory of T moves, of which the first `length` count.

    log_pf, log_pb [T]   of each move, forward by the policy and backward
    log_flow [T]         of the state before each move; the first one's is log Z
    log_z, log_reward    []; the reward is R_w^beta
    valid [T] bool       which moves count: the first ones, at least one

All of them are zero exactly where the flows are those of the reward. `vmap` gives the minibatch.
"""

import jax
import jax.numpy as jnp


def trajectory_balance(log_pf, log_pb, log_flow, log_z, log_reward, valid) -> jax.Array:
    """TB (Malkin et al. 2022, arXiv 2201.13259): (log Z + sum log P_F - log R - sum log P_B)^2."""
    del log_flow
    return (log_z + jnp.where(valid, log_pf - log_pb, 0).sum() - log_reward) ** 2


def _flows(log_flow, log_z, log_reward, valid) -> jax.Array:
    """log F of the states before each move and after the last: [T + 1], the reward from the terminal state on."""
    flows = jnp.append(log_flow, 0).at[0].set(log_z)
    return jnp.where(jnp.append(valid, False), flows, log_reward)


def detailed_balance(log_pf, log_pb, log_flow, log_z, log_reward, valid) -> jax.Array:
    """DB (Bengio et al. 2021, arXiv 2111.09266): the mean over moves of (log F(s) P_F - log F(s') P_B)^2."""
    flows = _flows(log_flow, log_z, log_reward, valid)
    residual = jnp.where(valid, flows[:-1] + log_pf - flows[1:] - log_pb, 0)
    return (residual**2).sum() / valid.sum()


def subtrajectory_balance(log_pf, log_pb, log_flow, log_z, log_reward, valid, decay: float = 0.9) -> jax.Array:
    """SubTB(lambda) (Madan et al. 2023, arXiv 2209.12782): TB of every part of the trajectory, from s_i to s_j, the
    mean with weights decay^(j - i)."""
    moves = jnp.where(valid, log_pf - log_pb, 0)
    height = _flows(log_flow, log_z, log_reward, valid) - jnp.append(0, jnp.cumsum(moves))  # [T + 1]
    at = jnp.arange(len(height))
    longer = at[None] - at[:, None]  # j - i
    weights = jnp.where((longer > 0) & (at[None] <= valid.sum()), decay ** jnp.maximum(longer, 0), 0)
    return (weights * (height[:, None] - height[None]) ** 2).sum() / weights.sum()


LOSSES = {"tb": trajectory_balance, "db": detailed_balance, "subtb": subtrajectory_balance}
