"""The linear probe of the masked autoencoders' papers: BatchNorm and a linear layer, trained by LARS."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.base.sharding import on_one_device
from rxrx_jax.evaluate.probes import among, check_finite
from rxrx_jax.models.heads import Head

MINIBATCH = 16_384
LEARNING_RATE = 0.1 * MINIBATCH / 256
EPOCHS, WARMUP = 90, 10 / 90  # the share of the steps over which the learning rate rises
LEAST_STEPS = 500  # where 90 epochs of few rows are fewer; the papers' 90 epochs of ImageNet are 7,000


@on_one_device()
def fit(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> Callable[[np.ndarray, int], np.ndarray]:
    """The recipe of He et al. 2022 (arXiv 2111.06377, appendix A.1 and main_linprobe.py of facebookresearch/mae) on
    features [n, D] and labels int [n]: BatchNorm without scale and bias, then a linear layer; LARS (You et al. 2017,
    arXiv 1708.03888, optax's) with momentum 0.9 and no weight decay, its trust ratio for the kernel alone; a learning
    rate of 0.1 for every 256 of 16,384 rows (all, where there are fewer), linear warm-up, half a cosine to zero.

    The rows are embeddings, so nothing is augmented; the BatchNorm's epsilon is 1e-5, where theirs is 1e-6.

    Args: seed, of the initial weights and the order of the rows.
    Returns: a function (features [m, D], classes) -> logits float32 [m, classes], -inf for a class without rows in the
    fit. Raises UserError for features that are not finite.
    """
    check_finite(features)
    features = np.asarray(features, np.float32)
    there, label = np.unique(labels, return_inverse=True)
    rows = min(MINIBATCH, len(features))
    epochs = max(EPOCHS, -(-LEAST_STEPS * rows // len(features)))
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(len(features)) for _ in range(epochs)]).astype(np.int32)
    order = order[: len(order) // rows * rows].reshape(-1, rows)
    head = Head(len(there), normalise=True)
    variables = head.init(jax.random.key(seed), features[:1], True)
    trained = jax.tree.map(np.asarray, _train(head, variables, features, label.astype(np.int32), order))

    @on_one_device()
    def logits(features: np.ndarray, classes: int) -> np.ndarray:
        check_finite(features)
        return among(np.asarray(head.apply(trained, jnp.asarray(features, jnp.float32), False)), there, classes)

    return logits


@functools.partial(jax.jit, static_argnums=0)
def _train(head, variables, features, label, order):
    """The variables of the head after a step on each of the rows `order` [steps, rows]."""
    steps = len(order)
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, int(WARMUP * steps), steps)
    kernels = {"linear": {"kernel": True, "bias": False}}
    solver = optax.lars(rate, trust_ratio_mask=kernels, momentum=0.9)

    def advance(now, rows):
        params, statistics, state = now

        def loss(params):
            given = {"params": params, "batch_stats": statistics}
            logits, found = head.apply(given, features[rows], True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label[rows])
            return losses.mean(), found["batch_stats"]

        gradient, statistics = jax.grad(loss, has_aux=True)(params)
        update, state = solver.update(gradient, state, params)
        return (optax.apply_updates(params, update), statistics, state), None

    params = variables["params"]
    (params, statistics, _), _ = jax.lax.scan(advance, (params, variables["batch_stats"], solver.init(params)), order)
    return {"params": params, "batch_stats": statistics}
