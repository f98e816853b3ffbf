"""Multi-objective generative flow networks: one policy for all preferences and exponents, whose terminal states are
distributed as R_w(x)^beta (Bengio et al. 2021, arXiv 2106.04399; Jain et al. 2023, arXiv 2210.12765).

On-policy: the source says only which trajectories of the run a minibatch has. Where rewards are JAX the rollout is part
of the step: sampling, loss and update are one compiled program. Where they are not, `propose` samples and scores on the
host before each step, which then replays the actions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import on_one_device, whole
from rxrx_jax.data.batch import TRAIN
from rxrx_jax.generate import balance, rewards, rollout
from rxrx_jax.generate.conditions import Conditions
from rxrx_jax.generate.environments import Environment
from rxrx_jax.generate.reinforce import reinforce
from rxrx_jax.generate.rewards import fragments, grid, strings
from rxrx_jax.generate.rewards import map as of_map
from rxrx_jax.generate.scalarise import scalarisation
from rxrx_jax.models.policy import LogZ, Policy, make_policy

LOSSES = balance.LOSSES | {"reinforce": reinforce}
CHECKED = 512  # terminal states of random trajectories whose objectives are checked before training


@dataclasses.dataclass(frozen=True)
class Flow:
    """problem: what is built, and its objectives; loss_of: one of `balance.LOSSES`; log_reward_floor: below which
    beta log R_w does not go in training; random: share of moves that are uniform; per: "trajectory" or "minibatch",
    what each draw of a condition is for."""

    problem: rewards.Problem
    conditions: Conditions
    scalarise: Callable
    loss_of: Callable
    policy: Policy
    log_z: LogZ
    random: float
    log_reward_floor: float
    per: str
    seed: int
    size: int  # trajectories per minibatch
    frozen = None
    inherits = None
    method = Method()

    @property
    def environment(self) -> Environment:
        return self.problem.environment

    @classmethod
    def from_config(cls, config: Config, source, method: Method) -> "Flow":
        del method
        task = config.task
        if not getattr(source, "on_policy", False):
            raise UserError(f"task.name={task.name} samples what it trains on: it needs data.source=nothing")
        if config.get("selection", "last") != "last":
            raise UserError(f"selection={config.selection}: task.name={task.name} has no validation rows; use last")
        if task.environment not in PROBLEMS:
            raise UserError(f"task.environment={task.environment!r}: expected {', '.join(PROBLEMS)}")
        problem = PROBLEMS[task.environment](task)
        if task.loss not in LOSSES:
            raise UserError(f"task.loss={task.loss!r}: expected {', '.join(LOSSES)}")
        loss_of = LOSSES[task.loss]
        if task.loss == "subtb":
            if not task.subtb_decay > 0:
                raise UserError(f"task.subtb_decay={task.subtb_decay}: expected a number above 0")
            loss_of = functools.partial(loss_of, decay=task.subtb_decay)
        if task.backward not in ("uniform", "learned") or task.condition not in ("trajectory", "minibatch"):
            raise UserError(f"task.backward={task.backward!r}, task.condition={task.condition!r}: expected uniform or "
                            "learned, and trajectory or minibatch")  # fmt: skip
        if not 0 <= task.random <= 1:
            raise UserError(f"task.random={task.random}: expected a share of moves, from 0 to 1")
        if not task.log_reward_floor < 0:
            raise UserError(f"task.log_reward_floor={task.log_reward_floor}: expected a number below 0")
        conditions = Conditions(
            len(problem.names),
            **{key: getattr(task, key) for key in ("alpha", "exponent", "preference_bins", "exponent_bins")},
            **{key: getattr(task, key) for key in ("preference", "exponents", "encoding")},
        )
        environment = problem.environment
        backward = environment.backward_actions if task.backward == "learned" else 0
        sizes = environment.width, environment.actions, backward
        policy, log_z = make_policy(config.model, *sizes, task.loss not in ("tb", "reinforce"))
        check(problem)
        return cls(
            problem,
            conditions,
            scalarisation(task.scalarisation),
            loss_of,
            policy,
            log_z,
            task.random,
            task.log_reward_floor,
            task.condition,
            config.seed,
            source.size,
        )

    def init(self, key, view):
        del view
        keys, condition = jax.random.split(key), jnp.zeros(self.conditions.width)
        policy = self.policy.init(keys[0], self.environment.hot(self.environment.reset()), condition)["params"]
        return {"params": {"policy": policy, "log_z": self.log_z.init(keys[1], condition)["params"]}}

    def loss(self, params, collections, batch, key, progress):
        del key, progress
        if self.problem.on_host:
            w, beta, values = (batch.columns[name] for name in ("w", "beta", "values"))
            encoded = jax.vmap(self.conditions.encode)(w, beta)
            trajectories = jax.vmap(functools.partial(rollout.replay, self.environment))(batch.columns["actions"])
            said = jax.vmap(lambda encoded, states: jax.vmap(self.network(params, encoded))(states))(
                encoded, trajectories.states
            )
        else:
            w, beta, encoded, trajectories, said = self.sample(params, batch.views[0])
            values = jax.vmap(lambda last: self.problem.objectives(self.environment.terminal(last)))(trajectories.last)
        log_reward = beta * self.scalarise(values, w)
        clipped = log_reward < self.log_reward_floor
        log_reward = jnp.maximum(log_reward, self.log_reward_floor)
        losses = jax.vmap(self.one_loss, (None, 0, 0, 0, 0))(params, encoded, trajectories, said, log_reward)
        metrics = {f"objective/{name}": values[:, i].mean() for i, name in enumerate(self.problem.names)}
        metrics |= {"reward": jnp.exp(self.scalarise(values, w)).mean(), "clipped": clipped.mean()}
        metrics |= {"moves": trajectories.valid.sum(1).mean()}
        return losses.mean(), (collections, metrics)

    @property
    def proposed(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The columns that `propose` adds to a minibatch; none where rewards are JAX."""
        d = len(self.problem.names)
        floats = {"w": (d,), "beta": (), "values": (d,)}
        shapes = {name: jax.ShapeDtypeStruct((self.size, *shape), np.float32) for name, shape in floats.items()}
        shapes["actions"] = jax.ShapeDtypeStruct((self.size, self.environment.longest), np.int32)
        return shapes if self.problem.on_host else {}

    @on_one_device()
    def propose(self, state, minibatch: dict) -> dict:
        """This host's part of a minibatch, {"train": {"number" [b]}}, with trajectories sampled by the parameters of a
        state and scored on the host. Raises UserError for an objective that is not from 0 to 1."""
        params = jax.tree.map(whole, state.params)
        w, beta, _, found, _ = self._sample(params, minibatch[TRAIN]["number"])
        terminal = jax.vmap(self.environment.terminal)(found.last)
        terminal = jax.tree.map(np.asarray, terminal)
        values = self.problem.checked(terminal, self.problem.objectives(terminal)).astype(np.float32)
        new = {"w": w, "beta": beta, "values": values, "actions": found.actions}
        new = {name: np.asarray(value) for name, value in new.items()}
        return minibatch | {TRAIN: minibatch[TRAIN] | new}

    @functools.cached_property
    def _sample(self) -> Callable:
        return jax.jit(self.sample)

    def sample(self, params, number):
        """(w [B, d], beta [B], conditions [B, c], trajectories, what the network said of their states) of the run's
        trajectories `number` [B], each a function of the parameters, the seed and its number."""
        key = jax.random.fold_in(jax.random.key(self.seed), 4)
        group = number if self.per == "trajectory" else number // self.size
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        w, beta = jax.vmap(self.conditions.sample)(fold(jax.random.fold_in(key, 0), group))
        encoded = jax.vmap(self.conditions.encode)(w, beta)
        return w, beta, encoded, *self.rollout(params, encoded, fold(key, 1 + number))

    def rollout(self, params, encoded, keys) -> tuple[rollout.Trajectory, Any]:
        """`rollout.sample` of B conditions [B, c] by one key each."""

        def one(encoded, key):
            return rollout.sample(self.environment, self.network(params, encoded), key, self.random)

        return jax.vmap(one)(encoded, keys)

    def network(self, params, encoded) -> Callable:
        """What the policy says of one state, under one condition [c]: (logits [actions], the rest)."""
        apply = functools.partial(self.policy.apply, {"params": params["policy"]})
        given = apply(encoded, method="given")
        return lambda state: apply(self.environment.hot(state), given, method="of")

    def one_loss(self, params, encoded, trajectory, said, log_reward):
        """The loss of one trajectory under one condition [c], whose states the network said that of."""
        environment, (logits, found), backward = self.environment, said, None
        if self.policy.backward_actions:  # of the states after the moves
            last = self.network(params, encoded)(trajectory.last)[1]["backward"]
            backward = jnp.concatenate([found["backward"][1:], last[None]])
        return self.loss_of(
            rollout.log_forward(environment, trajectory, logits),
            rollout.log_backward(environment, trajectory, backward),
            found.get("log_flow", jnp.zeros(environment.longest)),
            self.log_z.apply({"params": params["log_z"]}, encoded)[0],
            log_reward,
            trajectory.valid,
        )


@on_one_device()
def check(problem: rewards.Problem) -> None:
    """Raises UserError where an objective of a random terminal state is not from 0 to 1. On the host every minibatch is
    checked instead."""
    if problem.on_host:
        return
    environment = problem.environment

    def one(key):
        found, _ = rollout.sample(environment, lambda _: (jnp.zeros(environment.actions),), key)
        terminal = environment.terminal(found.last)
        return terminal, problem.objectives(terminal)

    terminal, values = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), CHECKED))
    problem.checked(jax.tree.map(np.asarray, terminal), values)


def make_grid(task: Config) -> rewards.Problem:
    return grid.problem(rewards.chosen(task.objectives, grid.OBJECTIVES), task.side, task.dimensions)


def make_strings(task: Config) -> rewards.Problem:
    return strings.problem(task.objectives, task.length, task.letters)


def make_fragments(task: Config) -> rewards.Problem:
    return fragments.problem(tuple(task.objectives), task.most, task.workers, task.get("proxy", ""))


def make_map(task: Config) -> rewards.Problem:
    target = of_map.make_target(task.tower, task.gene, task.reward)
    return of_map.problem(tuple(task.objectives), target, task.most, task.workers)


PROBLEMS = {"grid": make_grid, "strings": make_strings, "fragments": make_fragments, "map": make_map}
