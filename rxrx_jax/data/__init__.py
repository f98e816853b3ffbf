"""Prepared datasets, or described ones, and minibatches of them. Only this folder knows of Grain and TFDS."""

from rxrx_jax.base.spellings import SPLITS
from rxrx_jax.data.dataset import (
    ARRAYS,
    Dataset,
    channels_for,
    fingerprint,
    open_dataset,
    pixel_digests,
    read_dataset,
    select,
    select_fitted,
    with_channels,
)
from rxrx_jax.data.minibatches import describe_record, evaluation_minibatches, read_minibatch, training_minibatches
from rxrx_jax.data.noise import Description, describe
from rxrx_jax.data.roles import ROLES, Roles, Scoring, hide_labels, untreated
from rxrx_jax.data.sampler import make_sampler
from rxrx_jax.data.sites import Sites

__all__ = ["ARRAYS", "ROLES", "SPLITS", "Dataset", "Description", "Roles", "Scoring", "Sites", "channels_for",
           "describe", "describe_record", "evaluation_minibatches", "fingerprint", "hide_labels", "make_sampler",
           "open_dataset", "pixel_digests", "read_dataset", "read_minibatch", "select", "select_fitted",
           "training_minibatches", "untreated", "with_channels"]  # fmt: skip
