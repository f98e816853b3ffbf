"""Protocols: which records are trained on, which are scored, and how many there must be. The role of a record is the
protocol's, not that of the shard that holds it, so that another protocol needs no other records.

A protocol is a file with `protocol(dataset) -> Protocol`, a function of the dataset's table alone: a file of this
folder by its name, or any other by its path, in `config.protocol.name`.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable

import numpy as np

from rxrx_jax.base import files, plugins
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import Roles
from rxrx_jax.evaluate import protocols

DEFAULT = "held_out_experiments"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """roles: the fitted and scored rows. counts: by role, and of "fit", the (images, experiments) that there must be,
    every image with a label; classes: of the dataset; {} and None accept any number. published: by metric, such
    as "cross_batch/site_accuracy", (value, standard deviation over seeds, source) of empirical risk minimisation."""

    roles: Roles
    counts: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    classes: int | None = None
    published: dict[str, tuple[float, float, str]] = dataclasses.field(default_factory=dict)


def find(name: str) -> Callable[..., Protocol]:
    """The function `protocol` of a file of this folder by its name, or of a .py file by its path.

    Raises UserError if it does not exist."""
    module = plugins.load(name, protocols, "protocol.name")
    if not hasattr(module, "protocol"):
        raise UserError(f"protocol.name={name!r}: the file has no function protocol(dataset)")
    return module.protocol


def of_run(folder: pathlib.Path) -> str:
    """The name of the protocol of the run whose workdir this is; the default where it names none or is not a run's."""
    path = folder / "config.json"
    found = files.read_json(path, "put back a copy of it").get("protocol") if path.exists() else None
    return found.get("name", DEFAULT) if isinstance(found, dict) else DEFAULT


def roles(dataset, name: str) -> Roles:
    """The roles of the dataset's rows under the protocol of this name, its counts checked.

    Args: dataset, a `data.Dataset`, or anything with its sites, experiments and classes.
    Raises UserError, one line, where the dataset is not the one that the protocol is defined for."""
    found = find(name)(dataset)
    check(dataset, name, found)
    return found.roles


def check(dataset, name: str, found: Protocol) -> None:
    """Raises UserError where rows have two roles, or counts or classes differ from what the protocol asserts."""
    sites, rows = dataset.sites, {"fit": found.roles.fit} | found.roles.scored
    for role, values in rows.items():
        if values.dtype != np.int64 or (np.diff(values) <= 0).any():
            raise UserError(f"protocol {name}: the rows of {role} are not sorted int64, each once")
    for one, other in itertools.combinations(rows, 2):
        if both := len(np.intersect1d(rows[one], rows[other])):
            raise UserError(f"protocol {name}: {both:,} images are both {one} and {other}; a record has one role")
    for role, expected in found.counts.items():
        count = len(rows[role]), len(np.unique(sites.experiment[rows[role]]))
        if count != expected:
            raise UserError(
                f"protocol {name}: {role} is {expected[0]:,} images of {expected[1]} experiments and this dataset has "
                f"{count[0]:,} of {count[1]}; prepare the whole dataset that it is meant for, or name another protocol"
            )
        if unknown := (sites.label[rows[role]] < 0).sum():
            raise UserError(
                f"protocol {name}: {unknown:,} of the {count[0]:,} images of {role} have no label; prepare the dataset "
                "from a source that has them"
            )
    if found.classes not in (None, len(dataset.classes)):
        raise UserError(
            f"protocol {name} is for {found.classes:,} classes and the dataset has {len(dataset.classes):,}"
        )
