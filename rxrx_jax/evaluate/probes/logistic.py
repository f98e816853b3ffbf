"""Multinomial logistic regression by L-BFGS on the device, which says whether it converged."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import on_one_device
from rxrx_jax.evaluate.probes import among, check_finite

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)  # of C, from the strongest penalty to the weakest
TOLERANCE = 1e-4  # of the largest entry of the mean loss's gradient, scikit-learn's
STEPS = 500
CHUNK = 1024  # rows at a time
BLOCK = 512  # rows that the host standardises at a time
MANY = 64  # classes from which on each is scaled by itself; of few, what two classes share would be left out
# Times as far as where the loss is least along the first step: there the classes that are hardest to tell, whose
# gradients are the largest, are nearer to their minimum.
BEYOND = 1.2
LEAST_CURVED = 1e-4  # of the curvature where all classes are equally probable
CLASSES, FEATURES = 8, 16  # their numbers are padded to multiples, so that similar problems share a compilation


@dataclasses.dataclass(frozen=True)
class Logistic:
    """A fit. centre, deviation: [D], of the features it was fitted to. weights: float32 [D + 1, K], of standardised
    features and of 1. classes: [K], the labels that it tells apart. gradient: the largest absolute entry of the
    gradient of the mean loss at its end, after so many steps of L-BFGS."""

    centre: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    classes: np.ndarray
    strength: float
    steps: int
    gradient: float
    converged: bool

    def log_probabilities(self, features: np.ndarray, classes: int) -> np.ndarray:
        """Of features [n, D]: float32 [n, classes], -inf for a class that the fit never saw.

        Raises UserError for features that are not finite."""
        check_finite(features)
        parts = [self._log_probabilities(features[at : at + CHUNK]) for at in range(0, len(features), CHUNK)]
        return among(np.concatenate(parts or [np.zeros((0, len(self.classes)))]), self.classes, classes)

    def _log_probabilities(self, features: np.ndarray) -> np.ndarray:
        x = _standardised(features, self.centre, self.deviation)
        logits = x @ self.weights[:-1] + self.weights[-1]
        logits -= logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The most probable label of features [n, D]: [n]."""
        return self.log_probabilities(features, int(self.classes.max()) + 1).argmax(1)


@on_one_device()
def fit(features: np.ndarray, labels: np.ndarray, strength: float = 1.0, tolerance: float = TOLERANCE) -> Logistic:
    """Minimises sum of cross-entropies + |W|^2 / (2 C) over W and offsets without penalty, as scikit-learn's
    `LogisticRegression(C=strength)` on features standardised by their own mean and deviation.

    L-BFGS (Liu & Nocedal 1989, doi 10.1007/BF01589116; optax's, 10 pairs, zoom line search) runs in float32 until the
    largest entry of the gradient of the mean loss is below `tolerance`, or for STEPS steps; `converged` says which. Its
    first step is Newton's from zero, where the gradient needs the classes' means alone, to a little beyond where the
    loss of a sample of rows is least along it. The others are along the principal axes of the features, each scaled by
    the curvature of the loss there, and of many classes each towards its mean, where its own rows pull: the minimum is
    the same, and an ill-conditioned covariance does not slow it down.

    Args: features [n, D]; labels int [n], at least 0; strength, C.
    Raises UserError when there are fewer than two classes to tell apart, and for features that are not finite.
    """
    return _fitted(_problem(features, labels), strength, tolerance)


@on_one_device()
def choose(
    features: np.ndarray, labels: np.ndarray, validate: Callable[[Logistic], float] | None
) -> tuple[Logistic, Logistic]:
    """The fit whose C, of STRENGTHS, is best on validation (the strongest penalty of ties), and that of C = 1; twice
    the latter where there is nothing to validate on. Args: as in `fit`; validate, the validation accuracy of a fit."""
    problem = _problem(features, labels)
    if not validate:
        plain = _fitted(problem, 1.0)
        return plain, plain
    fits = {strength: _fitted(problem, strength) for strength in STRENGTHS}
    return max(fits.values(), key=validate), fits[1.0]


class _Problem(NamedTuple):
    """What fits of all strengths share. x [chunks, rows, D], label and there [chunks, rows]: standardised rows on the
    device, their classes, and 1, or 0 for padding. some_x and some_label: a sample of them. centre, deviation: of the
    features. axes [D, D] and variances [D]: their principal ones. downhill [D + 1, K]: the loss's descent at zero,
    where all classes are equally probable, along the axes and 1: a class' share times its mean, less the mean of these.
    means [D, K]: of the classes along the axes, times the root of their shares."""

    x: jax.Array
    label: jax.Array
    there: jax.Array
    some_x: np.ndarray
    some_label: np.ndarray
    n: int
    centre: np.ndarray
    deviation: np.ndarray
    classes: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    downhill: np.ndarray
    means: np.ndarray


def _problem(features: np.ndarray, labels: np.ndarray) -> _Problem:
    from scipy.sparse import csr_array

    check_finite(features)
    classes, label = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise UserError("a linear probe needs training sites of two classes; evaluators.probe cannot run here")
    n, k = len(features), len(classes)
    centre, deviation = _moments(features)
    x, label, there = _padded(features, label.astype(np.int32), centre, deviation)
    parts = [jnp.asarray(part.reshape(-1, min(CHUNK, len(x)), *part.shape[1:])) for part in (x, label, there)]
    variances, axes = np.linalg.eigh(np.asarray(_gram(parts[0]), np.float64) / n)
    order, bounds = np.argsort(label[:n], kind="stable"), np.append(0, np.cumsum(np.bincount(label[:n])))
    sums = csr_array((np.ones(n, np.float32), order, bounds), shape=(k, n)) @ x[:n]
    sums, counts = axes.T @ sums.T, np.diff(bounds)
    downhill = np.append(sums - sums.mean(1, keepdims=True), [counts - n / k], 0) / n
    downhill, means = (np.pad(part, ((0, 0), (0, -k % CLASSES))) for part in (downhill, sums / np.sqrt(counts * n)))
    some = np.random.default_rng(0).integers(n, size=CHUNK)  # as many whatever n is, so that it compiles once
    return _Problem(*parts, x[some], label[some], n, centre, deviation, classes, axes, variances, downhill, means)


def _fitted(problem: _Problem, strength: float, tolerance: float = TOLERANCE) -> Logistic:
    k, d, penalty = len(problem.classes), len(problem.centre), 1 / (strength * problem.n)

    def scales(curvature):  # of the axes and of 1, where the loss is as curved in all classes
        return 1 / np.sqrt(np.append(np.maximum(problem.variances, 0) * curvature + penalty, curvature))[:, None]

    absent = np.where(np.arange(problem.downhill.shape[1]) < k, 0, -1e30).astype(np.float32)
    newton = scales(1 / k) ** 2 * problem.downhill
    direction = np.append(problem.axes @ newton[:-1], newton[-1:], 0).astype(np.float32)
    shrinking = np.float32(penalty * np.square(newton[:-1]).sum())
    length, curvature, own = _length(problem.some_x, problem.some_label, absent, direction, shrinking)
    scale = scales(max(float(curvature), LEAST_CURVED) / k)
    toward = np.append(
        scale[:-1] * problem.means * np.sqrt(float(own) if k >= MANY else 0), np.zeros((1, len(absent))), 0
    )
    given = BEYOND * float(length) * newton / scale, absent, problem.axes, scale, toward, penalty, problem.n, tolerance
    found, steps, gradient = _minimise(problem.x, problem.label, problem.there, *map(jnp.float32, given), STEPS)
    found = (np.asarray(found, np.float64) * scale)[:, :k]
    weights = np.append((problem.axes @ found[:-1])[:d], found[-1:], 0).astype(np.float32)
    ends = float(strength), int(steps), float(gradient), bool(gradient < tolerance)
    return Logistic(problem.centre, problem.deviation, weights, problem.classes, *ends)


def _standardised(features: np.ndarray, centre: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return ((features - centre) / deviation).astype(np.float32)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and deviation of each feature, float64 [D], a block of rows at a time."""
    n, blocks = len(features), [features[at : at + BLOCK] for at in range(0, len(features), BLOCK)]
    centre = sum(block.sum(0, dtype=np.float64) for block in blocks) / n
    deviation = np.sqrt(sum(np.square(block - centre).sum(0) for block in blocks) / n)
    return centre, np.where(deviation > 1e-6 * np.abs(centre), deviation, 1)  # of a constant feature it is rounding


def _padded(features: np.ndarray, label: np.ndarray, centre: np.ndarray, deviation: np.ndarray):
    """(standardised rows; their labels; 1, or 0 for padding): whole chunks of rows, or a power of two,
    and FEATURES at a time."""
    n, d = features.shape
    rows = n + -n % CHUNK if n > CHUNK else 1 << (n - 1).bit_length()
    x = np.zeros((rows, d + -d % FEATURES), np.float32)
    for at in range(0, n, BLOCK):
        x[at : min(at + BLOCK, n), :d] = (features[at : at + BLOCK] - centre) / deviation
    return x, np.pad(label, (0, rows - n)), (np.arange(rows) < n).astype(np.float32)


_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _gram(x: jax.Array) -> jax.Array:
    x = x.reshape(-1, x.shape[2])
    return _product(x.T, x)


@jax.jit
def _length(x, label, absent, direction, shrinking):
    """(how far along a direction [D + 1, K] from zero the mean loss of rows x [n, D] is least, by bisection of its
    slope; there K times the mean of p (1 - p), and the mean of that of a row's own class). Args: shrinking, the
    direction's penalty, twice; others as in `_minimise`."""
    logits = _product(x, direction[:-1]) + direction[-1]
    own = jnp.take_along_axis(logits, label[:, None], 1)[:, 0]

    def halved(_, bounds):
        low, high = bounds
        middle = jnp.sqrt(low * high)
        p = jax.nn.softmax(middle * logits + absent)
        falls = ((p * logits).sum(1) - own).mean() + middle * shrinking < 0
        return jnp.where(falls, middle, low), jnp.where(falls, high, middle)

    length, _ = jax.lax.fori_loop(0, 14, halved, (jnp.float32(2.0**-12), jnp.float32(2.0**4)))
    p = jax.nn.softmax(length * logits + absent)
    of_own = jnp.take_along_axis(p, label[:, None], 1)
    return length, (p * (1 - p)).sum(1).mean(), (of_own * (1 - of_own)).mean()


@jax.jit
def _minimise(x, label, there, start, absent, axes, scale, toward, penalty, n, tolerance, most):
    """The weights [D + 1, K] of the rows' axes, over `scale` [D + 1, 1], and of 1, from `start` on; how many steps it
    took, that to `start` among them; and the largest entry of the gradient in terms of rows x [chunks, rows, D].
    Args: toward [D + 1, K], how much more a class is curved towards its mean, in the units of the weights returned;
    there, 1 or 0 for a row that is padding; absent [K], 0 or very negative for a class that is padding; most, how
    many steps there may be; others as in `fit`."""

    length = (toward**2).sum(0)

    def power(values, exponent):  # of 1 + toward toward', class by class
        factor = ((1 + length) ** exponent - 1) / jnp.maximum(length, 1e-30)
        return values + toward * (factor * (toward * values).sum(0))

    @jax.custom_vjp
    def loss(weights):
        return value_and_gradient(weights)[0]

    def value_and_gradient(weights):
        scaled = scale * power(weights, -0.5)
        by_feature = _product(axes, scaled[:-1])

        def add(total, chunk):
            x, label, there = chunk
            logits = _product(x, by_feature) + (scaled[-1] + absent)
            log_p = jax.nn.log_softmax(logits)
            truth = jax.nn.one_hot(label, len(absent))
            error = (jnp.exp(log_p) - truth) * there[:, None]
            value = total[0] - ((log_p * truth).sum(1) * there).sum()
            return (value, total[1] + _product(x.T, error), total[2] + error.sum(0)), None

        zeros = 0.0, jnp.zeros_like(by_feature), jnp.zeros_like(absent)
        (value, gradient, of_offsets), _ = jax.lax.scan(add, zeros, (x, label, there))
        gradient = jnp.append(_product(axes.T, gradient) / n + penalty * scaled[:-1], of_offsets[None] / n, 0)
        return value / n + penalty * (scaled[:-1] ** 2).sum() / 2, power(scale * gradient, -0.5)

    loss.defvjp(value_and_gradient, lambda gradient, by: (by * gradient,))
    solver = optax.lbfgs()

    def largest(gradient):
        by_axis = power(gradient, 0.5) / scale
        return jnp.maximum(jnp.abs(_product(axes, by_axis[:-1])).max(), jnp.abs(by_axis[-1]).max())

    def unfinished(now):
        _, _, step, gradient, moved = now
        return (step < most) & (gradient >= tolerance) & moved

    def advance(now):
        weights, state, step, _, _ = now
        value, gradient = (optax.tree_utils.tree_get(state, name) for name in ("value", "grad"))
        update, state = solver.update(gradient, state, weights, value=value, grad=gradient, value_fn=loss)
        moved = jnp.abs(update).max() > 0  # float32 may have nothing left to find
        return weights + update, state, step + 1, largest(optax.tree_utils.tree_get(state, "grad")), moved

    start = power(start, 0.5)
    value, gradient = value_and_gradient(start)
    state = optax.tree_utils.tree_set(solver.init(start), value=value, grad=gradient)
    weights, _, step, gradient, _ = jax.lax.while_loop(
        unfinished, advance, (start, state, 1, largest(gradient), jnp.bool_(True))
    )
    return power(weights, -0.5), step, gradient
