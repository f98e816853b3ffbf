"""A minibatch on the devices, as tasks and methods see it: all of its streams, one after the other."""

import dataclasses

import jax
import jax.numpy as jnp

# The labelled stream, unlabelled images of held-out experiments, and untreated ones beside the labelled.
TRAIN, HELD_OUT, CONTROLS = "train", "held_out", "controls"


@dataclasses.dataclass(frozen=True)
class Batch:
    """B examples.

    views: what the source makes of them, [B, ...] each (images: [B, S, S, C] float32): as many random views of the same
    examples as the method needs. columns: what else is known of each, [B]. keys: one random key each, [B]. streams:
    where each stream lies among the B. labelled: what sums over labelled examples are divided by, so that the parts of
    an accumulated minibatch weigh as much as they hold labels.
    """

    views: tuple[jax.Array, ...]
    columns: dict[str, jax.Array]
    keys: jax.Array
    streams: dict[str, slice]
    labelled: jax.Array

    @property
    def images(self) -> jax.Array:
        return self.views[0]

    @property
    def key(self) -> jax.Array:
        """One for what a method draws in the forward pass: no example's, and not those of its other hooks."""
        return jax.random.fold_in(self.keys[0], 2)

    def of(self, stream: str, values: jax.Array) -> jax.Array:
        """The part of `values` [B, ...] that belongs to a stream."""
        return values[self.streams[stream]]


def join(minibatch: dict[str, dict[str, jax.Array]]) -> tuple[dict[str, jax.Array], dict[str, slice]]:
    """{stream: {name: [n, ...]}} -> ({name: [B, ...]}, {stream: where it lies}); the streams have the same names."""
    streams, first, parts = {}, 0, []
    for name in in_order(minibatch):
        parts.append(minibatch[name])
        size = len(next(iter(parts[-1].values())))
        streams[name], first = slice(first, first + size), first + size
    if len(parts) == 1:
        return dict(parts[0]), streams
    # As if they had come in one piece: the computation compiles as it does for one stream.
    columns = {key: jnp.concatenate([part[key] for part in parts]) for key in parts[0]}
    return jax.lax.optimization_barrier(columns), streams


def in_order(streams) -> list[str]:
    """The names of streams, the labelled one first: jax sorts the keys of a dict."""
    return sorted(streams, key=lambda name: (name != TRAIN, name))


def label_count(minibatch: dict[str, dict[str, jax.Array]]) -> jax.Array:
    """The number of labelled examples (label 0 or above), at least 1; of examples without labels, all count."""
    columns, _ = join(minibatch)
    if "label" not in columns:
        return jnp.int32(len(next(iter(columns.values()))))
    return jnp.maximum((columns["label"] >= 0).sum(), 1)
