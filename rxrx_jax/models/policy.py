"""The networks of a generative flow network: a policy, with what else is said of a state, and log Z of a condition."""

import flax.linen as nn
import jax

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError


class Policy(nn.Module):
    """(state [..., n], condition [..., c]) -> (logits [..., actions], {"backward" [..., backward_actions], "log_flow"
    [...]}), the two last where they are asked for.

    stop_bias: what is added to the last action, which stops: below 0, first trajectories are longer."""

    actions: int
    backward_actions: int = 0  # 0: uniform over the parents
    flow: bool = False
    width: int = 128
    depth: int = 2
    stop_bias: float = 0.0

    @nn.compact
    def __call__(self, state: jax.Array, condition: jax.Array):
        x = nn.Dense(self.width, name="state")(state) + nn.Dense(self.width, False, name="condition")(condition)
        for i in range(self.depth - 1):
            x = nn.Dense(self.width, name=f"hidden{i}")(nn.leaky_relu(x))
        x = nn.leaky_relu(x)
        zeros = nn.initializers.zeros  # the first policy is uniform but for stop_bias
        logits = nn.Dense(self.actions, kernel_init=zeros, name="forward")(x).at[..., -1].add(self.stop_bias)
        found = {}
        if self.backward_actions:
            found["backward"] = nn.Dense(self.backward_actions, kernel_init=zeros, name="backward")(x)
        if self.flow:
            found["log_flow"] = nn.Dense(1, name="flow")(x)[..., 0]
        return logits, found


class LogZ(nn.Module):
    """condition [..., c] -> (log Z [...], {})."""

    width: int = 64
    depth: int = 2

    @nn.compact
    def __call__(self, condition: jax.Array):
        x = condition
        for i in range(self.depth):
            x = nn.leaky_relu(nn.Dense(self.width, name=f"hidden{i}")(x))
        return nn.Dense(1, name="out")(x)[..., 0], {}


def make_policy(config: Config, actions: int, backward_actions: int, flow: bool) -> tuple[Policy, LogZ]:
    """The networks of `config.model`."""
    sizes = config.width, config.depth, config.log_z_width
    if config.name != "policy" or min(sizes) < 1:
        raise UserError(f"model.name={config.name!r} of width, depth, log_z_width {sizes}: expected policy, from 1 on")
    policy = Policy(actions, backward_actions, flow, config.width, config.depth, config.stop_bias)
    return policy, LogZ(config.log_z_width)
