"""The networks of a generative flow network: a policy, with what else is said of a state, and log Z of a condition."""

import flax.linen as nn
import jax

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError


class Rows(nn.Module):
    """A dense layer on zeros and ones, as the sum of the kernel's rows at the ones: int32 [..., n] -> [..., width].
    Places from `inputs` on stand for nothing. On the first layer of a policy it saves most of the multiplications."""

    inputs: int
    width: int

    @nn.compact
    def __call__(self, hot: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.inputs, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return kernel.at[hot].get(mode="fill", fill_value=0).sum(-2) + bias


class Policy(nn.Module):
    """(the places of a state's ones int32 [..., n], condition [..., c]) -> (logits [..., actions], {"backward" [...,
    backward_actions], "log_flow" [...]}), the two last where they are asked for. `given` and `of` are its two halves,
    so that what a condition gives is computed once for all states of a trajectory.

    inputs: the length of a state's encoding; stop_bias: what is added to the last action, which stops: below 0, first
    trajectories are longer."""

    inputs: int
    actions: int
    backward_actions: int = 0  # 0: uniform over the parents
    flow: bool = False
    width: int = 128
    depth: int = 2
    stop_bias: float = 0.0

    def setup(self):
        zeros = nn.initializers.zeros  # the first policy is uniform but for stop_bias
        self.state = Rows(self.inputs, self.width)
        self.condition = nn.Dense(self.width, False)
        self.hidden = [nn.Dense(self.width) for _ in range(self.depth - 1)]
        self.forward = nn.Dense(self.actions, kernel_init=zeros)
        if self.backward_actions:
            self.backward = nn.Dense(self.backward_actions, kernel_init=zeros)
        if self.flow:
            self.log_flow = nn.Dense(1)

    def __call__(self, state: jax.Array, condition: jax.Array):
        return self.of(state, self.given(condition))

    def given(self, condition: jax.Array) -> jax.Array:
        """Of a condition: [..., width]."""
        return self.condition(condition)

    def of(self, state: jax.Array, given: jax.Array):
        """As `__call__`, of what a condition gives."""
        x = self.state(state) + given
        for layer in self.hidden:
            x = layer(nn.leaky_relu(x))
        x = nn.leaky_relu(x)
        logits, found = self.forward(x).at[..., -1].add(self.stop_bias), {}
        if self.backward_actions:
            found["backward"] = self.backward(x)
        if self.flow:
            found["log_flow"] = self.log_flow(x)[..., 0]
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


def make_policy(config: Config, inputs: int, actions: int, backward: int, flow: bool) -> tuple[Policy, LogZ]:
    """The networks of `config.model`; the other arguments are the policy's."""
    sizes = config.width, config.depth, config.log_z_width
    if config.name != "policy" or min(sizes) < 1:
        raise UserError(f"model.name={config.name!r} of width, depth, log_z_width {sizes}: expected policy, from 1 on")
    policy = Policy(inputs, actions, backward, flow, config.width, config.depth, config.stop_bias)
    return policy, LogZ(config.log_z_width)
