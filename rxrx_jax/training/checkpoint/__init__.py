"""Checkpoints with Orbax: save, restore, and load a part for the next stage. One format for all stages."""

from rxrx_jax.training.checkpoint.former import (
    LAYOUT,
    PARTS,
    check_layout,
    find_checkpoint,
    is_run,
    load_parameters,
    load_statistics,
    published_part,
    read_config,
    stored_network,
    stored_parameters,
    stored_shapes,
)
from rxrx_jax.training.checkpoint.run import Checkpoints, steps

__all__ = [
    "LAYOUT",
    "PARTS",
    "Checkpoints",
    "check_layout",
    "find_checkpoint",
    "is_run",
    "load_parameters",
    "load_statistics",
    "published_part",
    "read_config",
    "steps",
    "stored_network",
    "stored_parameters",
    "stored_shapes",
]
