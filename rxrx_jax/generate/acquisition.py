"""Active learning on strings with several objectives (MOGFN-AL, Jain et al. 2023): an ensemble learns what an oracle
said of strings, a generative flow network samples strings in proportion to what they would add to the front of those
known, the oracle is asked of a batch of them, and so on.

What a string adds is the noisy expected hypervolume improvement (NEHVI, Daulton et al. 2021) with the members of the
ensemble as the samples of the posterior: each has its own idea of the front of the strings known. The released code
mutates known strings instead of writing new ones; ours writes them.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import balance, nsga2, pareto, rollout
from rxrx_jax.generate.environments.strings import Strings
from rxrx_jax.models.policy import Policy

WINDOW, WIDTH = 4, 64  # letters that the surrogate sees together, and its width
MOST_OBJECTIVES = 3  # boxes of an improvement number k ** (d - 1) for a front of k points
FLOOR = 1e-4  # of the acquisition as a reward


def _member(params: dict[str, jax.Array], tokens: jax.Array, letters: int) -> jax.Array:
    """Objectives in [0, 1] of one string int32 [length]: [d]. A convolution, a sum over places and two layers."""
    seen = jax.nn.one_hot(tokens, letters)
    places = len(tokens) - WINDOW + 1
    windows = jnp.concatenate([seen[i : i + places] for i in range(WINDOW)], -1)  # [places, WINDOW * letters]
    x = jax.nn.relu(windows @ params["window"] + params["shift"]).sum(0) / len(tokens) ** 0.5
    x = jax.nn.relu(x @ params["hidden"] + params["bias"])
    return jax.nn.sigmoid(x @ params["out"] + params["level"])


def predict(params: dict[str, jax.Array], tokens: jax.Array, letters: int) -> jax.Array:
    """What each of M members says of strings int32 [..., length]: [M, ..., d]."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    found = jax.vmap(lambda one: jax.vmap(lambda x: _member(one, x, letters))(flat))(params)
    return found.reshape(len(found), *tokens.shape[:-1], -1)


@functools.partial(jax.jit, static_argnames=("letters", "members", "steps"))
def fit(key: jax.Array, tokens: jax.Array, points: jax.Array, letters: int, members: int = 5, steps: int = 400):
    """An ensemble, each member of its own start and weights of the strings (the Bayesian bootstrap).

    Args:
      tokens: int32 [n, length].
      points: [n, d], of the oracle.

    Returns the parameters, a tree of [members, ...].
    """
    d = points.shape[1]

    def one(key):
        keys = jax.random.split(key, 4)
        sizes = {"window": (WINDOW * letters, WIDTH), "hidden": (WIDTH, WIDTH), "out": (WIDTH, d)}
        params = {
            name: jax.random.normal(k, size) * (2 / (WINDOW if name == "window" else size[0])) ** 0.5
            for k, (name, size) in zip(keys, sizes.items())
        }
        params |= {"shift": jnp.zeros(WIDTH), "bias": jnp.zeros(WIDTH), "level": jnp.zeros(d)}
        weights = jax.random.exponential(keys[3], (len(tokens), 1))
        optimiser = optax.adam(3e-3)

        def loss(params):
            found = jax.vmap(lambda x: _member(params, x, letters))(tokens)
            return (weights * (found - points) ** 2).mean() + 1e-5 * optax.tree.norm(params, squared=True)

        def step(carry, _):
            params, state = carry
            updates, state = optimiser.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimiser.init(params)), None, steps)[0][0]

    return jax.vmap(one)(jax.random.split(key, members))


class Boxes(NamedTuple):
    """What no point of a front dominates above 0, in boxes without overlap."""

    low: np.ndarray  # [c, d]
    high: np.ndarray  # [c, d], infinite at the ends


def boxes(points: np.ndarray) -> Boxes:
    """The boxes of points [n, d], d <= 3."""
    points = pareto.front(np.maximum(points, 0))
    if (d := points.shape[1]) > MOST_OBJECTIVES:
        raise UserError(f"an acquisition of {d} objectives: at most {MOST_OBJECTIVES}; join some in a weighted mean")
    edges = [np.concatenate([[0], np.unique(values), [np.inf]]) for values in points[:, : d - 1].T]
    corners = (itertools.product(*(e[:-1] for e in edges)), itertools.product(*(e[1:] for e in edges)))
    low, high = (np.array(list(part)).reshape(-1, d - 1) if d > 1 else np.zeros((1, 0)) for part in corners)
    over = (points[None, :, :-1] >= high[:, None]).all(-1)  # [c, n]: which points dominate all of a column
    height = np.where(over, points[:, -1], 0).max(1)
    return Boxes(np.column_stack([low, height]), np.column_stack([high, np.full(len(high), np.inf)]))


def padded(found: Boxes, room: int) -> Boxes:
    """With empty boxes, until there are `room`."""
    return Boxes(*(np.pad(part, ((0, room - len(part)), (0, 0)), constant_values=np.inf) for part in found))


def improvement(points: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """The hypervolume that each point alone would add to the front of `boxes`: [..., d] -> [...]."""
    sides = jnp.clip(jnp.minimum(points[..., None, :], high) - low, 0)
    return sides.prod(-1).sum(-1)


def nehvi(params: dict[str, jax.Array], known: np.ndarray, letters: int) -> Callable[[jax.Array], jax.Array]:
    """The acquisition: a function in JAX of strings, int32 [..., length] -> [...]: the mean over members of what the
    string adds to the front that the member sees in the known strings, int32 [n, length]."""
    seen = np.asarray(predict(params, jnp.asarray(known), letters), np.float64)  # [M, n, d]
    found = [boxes(points) for points in seen]
    room = max(len(one.low) for one in found)
    low, high = map(jnp.asarray, (np.stack(part) for part in zip(*[padded(one, room) for one in found])))

    def acquire(tokens):
        points = predict(params, tokens, letters)
        return jax.vmap(improvement)(points, low, high).mean(0)

    return acquire


def by_flow(
    key: jax.Array, environment: Strings, acquire, count: int, steps: int = 300, batch: int = 64, beta: float = 8.0
) -> np.ndarray:
    """Strings by a generative flow network that was trained, by trajectory balance, for acquire(string)^beta: int32
    [count, length]. Args: steps and batch, of training, all of which is one compiled program."""
    policy, nothing, keys = Policy(environment.width, environment.actions), jnp.zeros(1), jax.random.split(key, 3)

    def log_reward(tokens):
        return beta * jnp.log(jnp.maximum(acquire(tokens), FLOOR))

    # log Z starts at its estimate from random strings: from 0 the policy would flee whatever it samples first.
    uniform = jax.random.randint(keys[2], (512, environment.length), 0, environment.letters)
    log_z = jax.nn.logsumexp(log_reward(uniform)) - np.log(512) + environment.length * np.log(environment.letters)
    params = {"policy": policy.init(keys[0], environment.hot(environment.reset()), nothing)["params"], "log_z": log_z}
    rates = {"policy": optax.adam(2e-3), "log_z": optax.adam(1e-1)}
    optimiser = optax.multi_transform(rates, {"policy": "policy", "log_z": "log_z"})

    def draw(params, key, random):
        of = lambda state: policy.apply({"params": params["policy"]}, environment.hot(state), nothing)  # noqa: E731
        return rollout.sample(environment, of, key, random)

    def loss(params, keys):
        paths, said = jax.vmap(lambda key: draw(params, key, 0.05))(keys)
        rewards = log_reward(jax.vmap(environment.terminal)(paths.last))

        def one(path, logits, reward):
            forward = rollout.log_forward(environment, path, logits)
            backward = rollout.log_backward(environment, path)
            return balance.trajectory_balance(forward, backward, None, params["log_z"], reward, path.valid)

        return jax.vmap(one)(paths, said[0], rewards).mean()

    @jax.jit
    def trained(params):
        def step(carry, key):
            params, state = carry
            updates, state = optimiser.update(jax.grad(loss)(params, jax.random.split(key, batch)), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(keys[1], steps))
        last = jax.vmap(lambda key: draw(params, key, 0.0)[0].last)(jax.random.split(keys[2], count))
        return jax.vmap(environment.terminal)(last)

    return np.asarray(trained(params))


def by_genetic(key: jax.Array, environment: Strings, acquire, count: int, calls: int = 4000) -> np.ndarray:
    """The best strings for the acquisition that a genetic algorithm of so many calls finds: int32 [count, length]."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    start = list(rng.integers(0, environment.letters, (count, environment.length)))
    score = jax.jit(acquire)
    padded = lambda x: np.concatenate([x, np.repeat(x[-1:], count - len(x), 0)])  # noqa: E731
    found = nsga2.search(
        rng,
        start,
        lambda strings: np.asarray(score(padded(np.array(strings))))[: len(strings), None],
        nsga2.vary_integers(0, environment.letters, 1 / environment.length),
        calls,
    )
    return np.array([found.genomes[row] for row in found.population])


def _different(strings: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The different ones of strings [n, length] that are not known, in their order: int32 [m, length]."""
    seen = {one.tobytes() for one in known.astype(np.int32)}
    found = {one.tobytes(): one for one in strings.astype(np.int32) if one.tobytes() not in seen}
    return np.array(list(found.values()), np.int32).reshape(len(found), strings.shape[1])


class Round(NamedTuple):
    """After the oracle's answer: how many strings are known, their hypervolume, and that by the one of the start."""

    known: int
    hypervolume: float
    relative: float


def rounds(
    oracle: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    environment: Strings,
    propose: Callable[..., np.ndarray] | None,
    count: int,
    batch: int,
    seed: int = 0,
) -> tuple[list[Round], np.ndarray, np.ndarray]:
    """Active learning.

    Args:
      oracle: strings int32 [n, length] -> objectives [n, d] in [0, 1].
      start: int32 [n, length], the strings that are known first.
      propose: `by_flow`, `by_genetic` or a function like them; None draws at random.
      count: of rounds.
      batch: strings that the oracle is asked of in each, the best for the acquisition among eight times as many that
        were proposed; where too few of those are new, random ones too.

    Returns (the start and every round, all strings, their objectives). Raises UserError for a start whose hypervolume
    is 0, of which no share can be said, and one or no string.
    """
    if len(start) < 2 or batch < 1:
        raise UserError(f"{len(start)} strings to start from and batches of {batch}: use 2 and 1 or more")
    if environment.length < WINDOW:
        raise UserError(f"strings of length {environment.length}: the surrogate needs {WINDOW} letters or more")
    tokens, points = np.asarray(start), np.asarray(oracle(np.asarray(start)), np.float64)
    if not (first := pareto.hypervolume(points)):
        raise UserError(
            "the strings to start from have the hypervolume 0 (an objective is 0 in all): draw more of them"
        )
    history = [Round(len(tokens), first, 1.0)]
    for number in range(count):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        rng = np.random.default_rng((seed, number))
        spare = rng.integers(0, environment.letters, (8 * batch, environment.length))
        new = np.zeros((0, environment.length), np.int32)
        if propose is not None:
            params = fit(keys[0], jnp.asarray(tokens), jnp.asarray(points, jnp.float32), environment.letters)
            acquire = nehvi(params, tokens, environment.letters)
            found = _different(propose(keys[1], environment, acquire, 8 * batch), tokens)
            new = found[np.argsort(-np.asarray(acquire(jnp.asarray(found))), kind="stable")[:batch]]
        new = np.concatenate([new, _different(spare, np.concatenate([tokens, new]))])[:batch]
        tokens = np.concatenate([tokens, new])
        points = np.concatenate([points, oracle(new)])
        volume = pareto.hypervolume(points)
        history.append(Round(len(tokens), volume, volume / first))
    return history, tokens, points
