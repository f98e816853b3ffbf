"""What a multi-objective generative flow network makes: how far its samples reach, how different they are and, where
the environment is small enough to know, how far their distribution is from its target."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from rxrx_jax.adapt.method import Network
from rxrx_jax.base import hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import whole
from rxrx_jax.evaluate.predict import Evaluated
from rxrx_jax.generate import exact, pareto

FRONT = "front.json"  # the non-dominated samples


@dataclasses.dataclass
class SampleContext(Evaluated):
    """Of a task that samples: every host evaluates by itself, on one device."""

    task: object
    mesh: jax.sharding.Mesh
    minibatch: int
    workdir: epath.Path
    seed: int
    ledger: object = None
    network: Network | None = None
    between: Callable = lambda: None

    @functools.cached_property
    def graph(self) -> exact.Graph | None:
        return exact.enumerate_states(self.task.environment) if self.task.environment.few else None

    @functools.cached_property
    def sample(self) -> Callable:
        """(params, w [n, d], beta [n], keys [n]) -> terminal states [n, ...], no move to which was random."""
        task = dataclasses.replace(self.task, random=0.0)

        def run(params, w, beta, keys):
            found, _ = task.rollout(params, jax.vmap(task.conditions.encode)(w, beta), keys)
            return jax.vmap(task.environment.terminal)(found.last)

        return jax.jit(run)

    def values(self, terminal) -> np.ndarray:
        """The objectives of terminal states [n, ...]: [n, d]. Raises UserError where one is not from 0 to 1."""
        problem = self.task.problem
        values = problem.objectives(terminal) if problem.on_host else self._values(terminal)
        return problem.checked(terminal, values)

    @functools.cached_property
    def _values(self) -> Callable:
        return jax.jit(jax.vmap(self.task.problem.objectives))

    @functools.cached_property
    def everything(self) -> np.ndarray:
        """The objectives of all terminal states of `graph`: [n, d]."""
        terminal = jax.vmap(self.task.environment.terminal)(_row(self.graph.states, self.graph.terminal))
        return self.values(jax.tree.map(np.asarray, terminal))

    @functools.cached_property
    def distribution(self) -> Callable:
        """(params, w [d], beta) -> (learned distribution [n] over the terminal states of `graph`, its target, learned
        log Z and the true one)."""
        task, graph, values = self.task, self.graph, self.everything

        def run(params, w, beta):
            encoded = task.conditions.encode(w, beta)
            logits = jax.vmap(task.network(params, encoded))(graph.states)[0]
            learned = exact.terminal_distribution(graph, logits, task.environment.longest)
            aim, log_z = exact.target(beta * task.scalarise(values, w))
            return learned, aim, task.log_z.apply({"params": params["log_z"]}, encoded)[0], log_z

        return jax.jit(run)


def make_context(config, source, step, shared: dict) -> SampleContext:
    """As `predict.make_context`."""
    del config, source
    return SampleContext(step.task, **shared)


def evaluate(
    context: SampleContext, steps: int = 10, samples: int = 128, top: int = 10, exponents: tuple[float, ...] = ()
) -> Iterator[tuple[str, float]]:
    """On the lattice of preferences with `steps` steps along each side, at the largest exponent:

    total_variation, its `_worst` over preferences and that of the uniform policy, and log_z_error, the worst, where the
    environment has few states; of `samples` for each preference hypervolume, r2, r2_published, igd_plus, gd_plus and
    pc_entropy (the latter three against the true front, where it is known), the share of different ones; and of the
    `top` best different ones of each preference their mean reward and their diversity. follows_preference: the smallest
    over objectives of Spearman's correlation between the weight that it has and its mean.

    exponents: others, for which alone what is exact is said, as `exponent_1/total_variation`. The samples that no other
    dominates are written to front.json. Raises UserError for exponents that are not above 0."""
    task = context.task
    params = jax.tree.map(whole, context.network.params)
    w = pareto.simplex(len(task.problem.names), steps).astype(np.float32)
    beta = np.float32(task.conditions.largest)
    true = None
    if not all(0 < other < np.inf for other in exponents):
        raise UserError(f"evaluators.pareto.exponents={tuple(exponents)}: expected numbers above 0")
    if context.graph is not None:
        for other in exponents:
            yield from _exact(context, params, w, np.float32(other), f"exponent_{other:g}/")
        yield from _exact(context, params, w, beta)
        true = pareto.front(context.everything)
    key = jax.random.fold_in(jax.random.key(context.seed), 3)
    values, best, apart, different, states = [], [], [], [], []
    for i, each in enumerate(w):
        context.between()
        keys = jax.random.split(jax.random.fold_in(key, i), samples)
        terminal = context.sample(params, np.tile(each, (samples, 1)), np.full(samples, beta), keys)
        terminal = jax.tree.map(np.asarray, terminal)
        found = context.values(terminal)
        first = np.unique(_flat(terminal), axis=0, return_index=True)[1]
        reward = np.exp(np.asarray(task.scalarise(found, each)))[first]
        chosen = first[np.argsort(-reward, kind="stable")[:top]]
        best.append(np.sort(reward)[::-1][:top].mean())
        apart.append(pareto.diversity(task.problem.distances(_row(terminal, chosen))))
        different.append(len(first) / samples)
        values.append(found)
        states.append(terminal)
    values, states = np.concatenate(values), jax.tree.map(lambda *x: np.concatenate(x), *states)
    same = [task.problem.names[i] for i in pareto.constant(values)]
    if same:
        print(f"note: {', '.join(same)}: constant over all samples, so that the hypervolume is 0", file=sys.stderr)
    yield "hypervolume", 0.0 if same else pareto.hypervolume(values)
    yield "r2", pareto.r2(values, w)
    yield "r2_published", pareto.r2_published(values, w)
    kept = np.flatnonzero(pareto.non_dominated(values))
    kept = kept[np.unique(_flat(_row(states, kept)), axis=0, return_index=True)[1]]
    if true is not None:
        yield "hypervolume_share", pareto.hypervolume(values) / pareto.hypervolume(true)
        yield "igd_plus", pareto.igd_plus(values[kept], true)
        yield "gd_plus", pareto.gd_plus(values[kept], true)
        yield "pc_entropy", pareto.pc_entropy(values[kept], true)
    yield f"top{top}_reward", float(np.mean(best))
    yield f"top{top}_diversity", float(np.mean(apart))
    yield "unique", float(np.mean(different))
    if len(task.problem.names) > 1:
        yield "follows_preference", follows(w, values.reshape(len(w), samples, -1).mean(1))
    rows = [{"state": task.problem.say(_row(states, i))} | dict(zip(task.problem.names, values[i].tolist()))
            for i in kept]  # fmt: skip
    hosts.on_first_host(lambda: (context.workdir / FRONT).write_text(json.dumps(rows, indent=1) + "\n"))


def follows(w: np.ndarray, means: np.ndarray) -> float:
    """The smallest over objectives of Spearman's correlation between weights and means, both [n, d]; 0 for a constant
    one."""
    from scipy.stats import spearmanr

    found = [0.0 if np.ptp(mean) == 0 else spearmanr(weight, mean).statistic for weight, mean in zip(w.T, means.T)]
    return float(min(found))


def _exact(context: SampleContext, params, w: np.ndarray, beta, prefix: str = "") -> Iterator[tuple[str, float]]:
    apart, uniform, off = [], [], []
    graph, environment = context.graph, context.task.environment
    flat = exact.terminal_distribution(graph, jnp.zeros(graph.legal.shape), environment.longest)
    for each in w:
        context.between()
        learned, aim, log_z, true = context.distribution(params, each, beta)
        apart.append(float(exact.total_variation(learned, aim)))
        off.append(abs(float(log_z - true)))
        uniform.append(float(exact.total_variation(flat, aim)))
    yield f"{prefix}total_variation", float(np.mean(apart))
    yield f"{prefix}total_variation_worst", max(apart)
    yield f"{prefix}total_variation_uniform", float(np.mean(uniform))
    yield f"{prefix}log_z_error", max(off)


def _row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def _flat(tree) -> np.ndarray:
    return np.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(tree)], 1)
