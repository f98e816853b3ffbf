"""What a multi-objective generative flow network makes: how far its samples reach, how different they are and, where
the environment is small enough to know, how far their distribution is from its target."""

import dataclasses
import functools
import json
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
from rxrx_jax.generate.show import judge

FRONT = "front.json"  # the non-dominated samples
SAMPLES = "samples.json"  # these, and the best samples of each preference


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
        terminal = jax.vmap(self.task.environment.terminal)(judge.row(self.graph.states, self.graph.terminal))
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
    over objectives of Spearman's correlation between the weight that it has and its mean. Where the problem knows more
    than its rewards read, `top10_NAME` of each such number and, of the objectives as they truly are,
    `true/hypervolume`, `true/r2` and `true/top10_reward`.

    exponents: others, for which alone what is exact is said, as `exponent_1/total_variation`. The samples that no other
    dominates are written to front.json, the best of each preference to samples.json. Raises UserError for exponents
    that are not above 0."""
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
    values, states = [], []
    for i, each in enumerate(w):
        context.between()
        keys = jax.random.split(jax.random.fold_in(key, i), samples)
        terminal = context.sample(params, np.tile(each, (samples, 1)), np.full(samples, beta), keys)
        terminal = jax.tree.map(np.asarray, terminal)
        values.append(context.values(terminal))
        states.append(terminal)
    states = jax.tree.map(lambda *x: np.concatenate(x), *states)
    found = judge.judge(task.problem, task.scalarise, w, states, np.concatenate(values), top, true)
    yield from found.numbers.items()
    hosts.on_first_host(lambda: write(context.workdir, task.problem.names, found))


def write(workdir: epath.Path, names: tuple[str, ...], found: judge.Judged) -> None:
    """Writes front.json and samples.json. Args: names, of the objectives."""
    samples = {"objectives": names, "front": found.front, "preferences": found.preferences}
    for name, content in ((FRONT, found.front), (SAMPLES, samples)):
        (workdir / name).write_text(json.dumps(content, indent=1) + "\n")


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
