"""The linear-probe table: the pretrained encoder beside the baselines that it must beat."""

from collections.abc import Iterator

import jax
import numpy as np

from rxrx_jax import data
from rxrx_jax.evaluators.accuracy import summarise
from rxrx_jax.evaluators.linear import fit_linear, log_probabilities, standardise_by_group
from rxrx_jax.evaluators.predict import SPLIT_NAMES
from rxrx_jax.models.statistics import Statistics
from rxrx_jax.sharding import replicated, to_device


def evaluate(context) -> Iterator[tuple[str, float]]:
    """`probe/ENCODER/CORRECTION/in_batch/site_accuracy` and so on: a logistic regression on embeddings of unaugmented
    train images, for ENCODER in pretrained (this run's), untrained (the same architecture, fresh parameters) and
    statistics (hand-made, on the same normalised images), and CORRECTION in none and experiment (embeddings
    standardised within each experiment; transductive).
    """
    dataset = context.dataset
    rows, pretrained = context.embeddings()
    labels = data.hide_labels(dataset.sites).label
    train = labels[rows] >= 0
    for encoder, features in [("pretrained", pretrained), *_baselines(context, rows)]:
        for correction in ("none", "experiment"):
            if correction == "experiment":
                features = standardise_by_group(features, dataset.sites.experiment[rows])
            model = fit_linear(features[train], labels[rows[train]])
            for split, name in SPLIT_NAMES.items():
                chosen = dataset.sites.split[rows] == split
                if chosen.any():
                    logits = log_probabilities(model, features[chosen], len(dataset.classes))
                    yield from summarise(f"probe/{encoder}/{correction}/{name}", logits, rows[chosen], dataset)


def _baselines(context, rows):
    """Yields (encoder name, embeddings [n, D])."""
    shape = (1, context.augment.crop, context.augment.crop, context.dataset.image_shape[2])
    fresh = jax.jit(context.task.init)(jax.random.key(context.seed + 1), np.zeros(shape, np.float32))
    yield "untrained", context.outputs(fresh["params"], fresh["batch_stats"], rows)["embedding"]

    def hand_made(minibatch, statistics):
        return Statistics().apply({}, context.augment.evaluation(minibatch, statistics))[0]

    hand_made = jax.jit(hand_made, out_shardings=replicated(context.mesh))
    parts = [
        np.asarray(hand_made(to_device(minibatch, context.mesh), context.statistics))
        for minibatch in data.evaluation_minibatches(context.dataset, rows, context.minibatch)
    ]
    yield "statistics", np.concatenate(parts)[: len(rows)]
