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

A source may have `keeps`, small files {name: bytes} that a run's workdir keeps, for whoever reads its checkpoint.

One whose minibatches come in up to four shapes has `shapes`, [(share of the steps, spec)] of each, of which `spec` is
the first and largest: the step is compiled for each of them when training starts.

Tasks may require more of it: those of images need `classes` and `shares`, methods with `within=cell_type` need
`cell_types`. Evaluators need `evaluated_as`, which names one of `evaluate.CONTEXTS`; a source that has a `dataset` and
does not say is of images. A dataset has `roles`, `sites`, `digests` of its rows, a `folder` and its `manifest`. A
source that says `only_measures = True`, as noise, is trained on for its speed: nothing is evaluated or kept.
"""

import sys
from collections.abc import Callable

from rxrx_jax.base import plugins
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError


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
    if name.endswith(".py"):
        return plugins.load(name, sys.modules[__package__], "data.source").make(config, roles)
    if name != "images":
        raise UserError(f"data.source={name!r}: expected images or molecules, or the path of a .py file")
    if measure == "synthetic":
        from rxrx_jax.data import noise

        return noise.make(config)
    from rxrx_jax.data import images

    return images.make(config, roles, dataset)


def only_measures(source) -> bool:
    """Whether training on the source leads to no parameters that are worth anything."""
    return getattr(source, "only_measures", False)


def evaluated_as(source) -> str:
    """What evaluators know the source's examples as; "" where there is nothing to evaluate."""
    return getattr(source, "evaluated_as", "images" if hasattr(source, "dataset") else "")


def minibatch_size(source) -> int:
    """Examples of all streams per minibatch."""
    return sum(next(iter(columns.values())).shape[0] for columns in source.spec.values())
