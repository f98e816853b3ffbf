"""Datasets from Python: images in memory."""

from rxrx_jax.data.arrays import from_arrays

__all__ = ["from_arrays"]
