"""Sources: what the trainer draws minibatches from. `data.source` names one of the files here or, as a path, any
file with a function `make(config, roles) -> source`; `roles(dataset)` are those of the config's protocol.

A source is an object with

spec {stream: {name: ShapeDtypeStruct [B, ...]}}   a global minibatch, "train" first
units {stream: int}          neighbours in a minibatch that accumulation and devices must not part
lengths {stream: key}        the config key of each stream's size, for messages
examples                     of the stream "train" in an epoch
constants                    a tree of arrays that every device holds
view                         ShapeDtypeStruct [1, ...], or a tree of them: what `views` makes of one example
views(columns, constants, keys, number) -> tuple of [B, ...]   on device: `number` random views, by one key each
minibatches(start, steps) -> iterator of {stream: {name: this host's part}}, of steps start .. steps-1
fingerprint                  a text that must be equal on all hosts
rows(step)                   JSON-able descriptions of what a minibatch was made of
without(step, instead)       the source with minibatch `instead` in the place of `step`

One whose minibatches come in up to four shapes has `shapes`, [(share of the steps, spec)] of each, of which `spec` is
the first and largest: the step is compiled for each of them when training starts.

Tasks may require more of it: those of images need `classes` and `shares`, methods with `within=cell_type` need
`cell_types`, evaluators `dataset`. One that says `only_measures = True`, as noise, is trained on for its speed:
nothing is evaluated or kept. One that says `on_policy = True` is for tasks that sample what they train on.
`evaluated_as` names what evaluators work with in `evaluate.CONTEXTS`; without it that is for images.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np

from rxrx_jax.base import plugins
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.batch import TRAIN


def make_source(config: Config, roles: Callable, dataset=None):
    """The source of a config: noise where only the compute is measured, else what `data.source` names.

    Args: roles, of a dataset's rows by the config's protocol: dataset -> Roles; dataset, a `data.Dataset` in place of
    the one that `data.name` names."""
    measure = config.get("measure", "")
    if measure not in ("", "synthetic", "loader"):
        raise UserError(f"measure={measure!r}: expected synthetic, loader or nothing")
    name = config.data.get("source", "images")
    if dataset is not None and (measure == "synthetic" or name != "images"):
        raise UserError("a dataset in memory is trained on with data.source=images, and without measure=synthetic")
    if name == "molecules":
        from rxrx_jax.data import molecules
        from rxrx_jax.data.molecules import noise as trees

        return trees.make(config) if measure == "synthetic" else molecules.make(config)
    if name == "nothing":
        return Nothing(config.data.name, config.data.minibatch, only_measures=measure == "synthetic")
    if name.endswith(".py"):
        return plugins.load(name, sys.modules[__package__], "data.source").make(config, roles)
    if name != "images":
        raise UserError(f"data.source={name!r}: expected images, molecules or nothing, or the path of a .py file")
    if measure == "synthetic":
        from rxrx_jax.data import noise

        return noise.make(config)
    from rxrx_jax.data import images

    return images.make(config, roles, dataset)


def only_measures(source) -> bool:
    """Whether training on the source leads to no parameters that are worth anything."""
    return getattr(source, "only_measures", False)


def minibatch_size(source) -> int:
    """Examples of all streams per minibatch."""
    return sum(next(iter(columns.values())).shape[0] for columns in source.spec.values())


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No data: of each example its number in the run, for a task that samples what it trains on. An epoch is one
    minibatch.

    name: of what is built, as in `data.name`; instead: (step, number of the minibatch in its place)."""

    name: str
    size: int
    only_measures: bool = False
    instead: tuple[tuple[int, int], ...] = ()
    on_policy = True
    evaluated_as = "samples"
    units = {TRAIN: 1}
    lengths = {TRAIN: "data.minibatch"}
    constants = {}
    shares = {}
    fingerprint = "nothing"
    view = jax.ShapeDtypeStruct((1,), np.int32)

    @property
    def examples(self) -> int:
        return self.size

    @property
    def spec(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        return {TRAIN: {"number": jax.ShapeDtypeStruct((self.size,), np.int32)}}

    def views(self, columns, constants, keys, number) -> tuple[jax.Array, ...]:
        return (columns["number"],) * number

    def minibatches(self, start: int, steps: int) -> Iterator[dict]:
        here = np.array_split(np.arange(self.size), jax.process_count())[jax.process_index()]
        for step in range(start, steps):
            yield {TRAIN: {"number": (self._first(step) + here).astype(np.int32)}}

    def _first(self, step: int) -> int:
        return dict(self.instead).get(step, step) * self.size

    def rows(self, step: int) -> list[dict]:
        return [{"number": self._first(step) + i} for i in range(self.size)]

    def without(self, step: int, instead: int) -> "Nothing":
        return dataclasses.replace(self, instead=(*self.instead, (step, instead)))
