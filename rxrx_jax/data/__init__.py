"""Prepared datasets, or described ones, and minibatches of them. Only this folder knows of Grain and TFDS."""

from rxrx_jax.data.dataset import (
    HELD_OUT,
    SPLITS,
    Dataset,
    fingerprint,
    make_sampler,
    open_dataset,
    read_dataset,
    select,
)
from rxrx_jax.data.identity import pixel_digests
from rxrx_jax.data.minibatches import describe_record, evaluation_minibatches, read_minibatch, training_minibatches
from rxrx_jax.data.noise import Description, describe
from rxrx_jax.data.sites import Sites, hide_labels

__all__ = ["HELD_OUT", "SPLITS", "Dataset", "Description", "Sites", "describe", "describe_record",
           "evaluation_minibatches", "fingerprint", "hide_labels", "make_sampler", "open_dataset", "pixel_digests",
           "read_dataset", "read_minibatch", "select", "training_minibatches"]  # fmt: skip
