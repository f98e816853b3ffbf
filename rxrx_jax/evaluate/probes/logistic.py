"""Multinomial logistic regression by L-BFGS on the device, which says whether it converged."""

import dataclasses
import functools
from collections.abc import Callable

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
CHUNK = 2048  # rows at a time
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
    largest entry of the gradient of the mean loss is below `tolerance`, or for STEPS steps; `converged` says which. It
    searches along the principal axes of the features, each scaled by the loss's curvature where all classes are equally
    probable: the minimum is the same, and an ill-conditioned covariance does not slow it down.

    Args: features [n, D]; labels int [n], at least 0; strength, C.
    Raises UserError when there are fewer than two classes to tell apart, and for features that are not finite.
    """
    check_finite(features)
    classes, label = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise UserError("a linear probe needs training sites of two classes; evaluators.probe cannot run here")
    n, k, d = len(features), len(classes), features.shape[1]
    features = np.pad(features, ((0, 0), (0, -(d + 1) % FEATURES)))
    centre, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    deviation = np.where(deviation > 1e-6 * np.abs(centre), deviation, 1)  # of a constant feature it is rounding
    x = _standardised(features, centre, deviation)
    variances, axes = np.linalg.eigh(np.asarray(_gram(x), np.float64) / n)
    penalty = np.append(np.full(len(axes), 1 / (strength * n)), 0)
    scale = 1 / np.sqrt(np.append(np.maximum(variances, 0), 1) / k + penalty)
    z = np.append(x @ axes.astype(np.float32), np.ones((n, 1), np.float32), 1) * scale.astype(np.float32)
    del x
    absent = np.where(np.arange(k + -k % CLASSES) < k, 0, -1e30).astype(np.float32)
    weights, steps, gradient = _minimise(
        *_chunks(z, label.astype(np.int32)), *map(jnp.float32, (absent, axes, scale, penalty, n, tolerance)), STEPS
    )
    weights = np.asarray(weights, np.float64)[:, :k] * scale[:, None]
    weights = np.append((axes @ weights[:-1])[:d], weights[-1:], 0).astype(np.float32)
    ends = float(strength), int(steps), float(gradient), bool(gradient < tolerance)
    return Logistic(centre[:d], deviation[:d], weights, classes, *ends)


def choose(
    features: np.ndarray, labels: np.ndarray, validate: Callable[[Logistic], float] | None
) -> tuple[Logistic, Logistic]:
    """The fit whose C, of STRENGTHS, is best on validation (the strongest penalty of ties), and that of C = 1; twice
    the latter where there is nothing to validate on. Args: as in `fit`; validate, the validation accuracy of a fit."""
    if not validate:
        plain = fit(features, labels)
        return plain, plain
    fits = {strength: fit(features, labels, strength) for strength in STRENGTHS}
    return max(fits.values(), key=validate), fits[1.0]


def _standardised(features: np.ndarray, centre: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return ((features - centre) / deviation).astype(np.float32)


def _chunks(z: np.ndarray, label: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows [n, D] as [chunks, rows, D], their labels, and 1, or 0 for padding: at least a chunk, or a power of two."""
    n = len(z)
    rows = min(CHUNK, 1 << (n - 1).bit_length())
    pad = -n % rows
    parts = np.pad(z, ((0, pad), (0, 0))), np.pad(label, (0, pad)), np.pad(np.ones(n, np.float32), (0, pad))
    return tuple(jnp.asarray(part.reshape(-1, rows, *part.shape[1:])) for part in parts)


_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _gram(x: jax.Array) -> jax.Array:
    return _product(x.T, x)


@jax.jit
def _minimise(z, label, there, absent, axes, scale, penalty, n, tolerance, most):
    """The weights [D + 1, K] of rows z [chunks, rows, D + 1], how many steps it took, and the largest entry of the
    gradient in terms of the standardised features. Args: there, 1 or 0 for a row that is padding; absent [K], 0 or very
    negative for a class that is padding; most, how many steps there may be; others as in `fit`."""

    @jax.custom_vjp
    def loss(weights):
        return value_and_gradient(weights)[0]

    def value_and_gradient(weights):
        def add(total, chunk):
            z, label, there = chunk
            logits = _product(z, weights) + absent
            log_p = jax.nn.log_softmax(logits)
            truth = jax.nn.one_hot(label, len(absent))
            error = (jnp.exp(log_p) - truth) * there[:, None]
            return (total[0] - ((log_p * truth).sum(1) * there).sum(), total[1] + _product(z.T, error)), None

        (value, gradient), _ = jax.lax.scan(add, (0.0, jnp.zeros_like(weights)), (z, label, there))
        shrinking = (penalty * scale**2)[:, None] * weights
        return value / n + (weights * shrinking).sum() / 2, gradient / n + shrinking

    loss.defvjp(value_and_gradient, lambda gradient, by: (by * gradient,))
    solver = optax.lbfgs()
    again = optax.value_and_grad_from_state(loss)

    def largest(gradient):
        by_axis = gradient / scale[:, None]
        return jnp.maximum(jnp.abs(_product(axes, by_axis[:-1])).max(), jnp.abs(by_axis[-1]).max())

    def unfinished(now):
        _, _, step, gradient, moved = now
        return (step < most) & (gradient >= tolerance) & moved

    def advance(now):
        weights, state, step, _, _ = now
        value, gradient = again(weights, state=state)
        update, state = solver.update(gradient, state, weights, value=value, grad=gradient, value_fn=loss)
        moved = jnp.abs(update).max() > 0  # float32 may have nothing left to find
        return weights + update, state, step + 1, largest(optax.tree_utils.tree_get(state, "grad")), moved

    weights = jnp.zeros((z.shape[2], len(absent)))
    start = weights, solver.init(weights), 0, jnp.float32(jnp.inf), jnp.bool_(True)
    weights, _, step, gradient, _ = jax.lax.while_loop(unfinished, advance, start)
    return weights, step, gradient
