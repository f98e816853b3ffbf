"""Protocols: which records are trained on, which are scored and how, and how many there must be. The role of a record
is the protocol's, not that of the shard that holds it, so that another protocol needs no other records.

A protocol is a file with `protocol(dataset) -> Protocol`, a function of the dataset's table alone: a file of this
folder by its name, or any other by its path, in `config.protocol.name`. Its keyword arguments are settings, given after
a colon as those of a config are: `k_shot:cell_type=RPE,k=2`. Each takes `partial`, under which counts may differ, and
what is scored is named partial.
"""

import dataclasses
import functools
import hashlib
import inspect
import itertools
import pathlib
from collections.abc import Callable

import numpy as np

from rxrx_jax.base import files, plugins
from rxrx_jax.base.config import parse_arguments
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import Roles
from rxrx_jax.evaluate import protocols

DEFAULT = "held_out_experiments"
PARTIAL = "partial"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """roles: the fitted and scored rows. counts: by role, and of "fit" and "support", the (images, experiments) that
    there must be, every image with a label; classes: of the dataset; {} and None accept any number. withheld: scored
    images may lack a label, as those of a competition. published: by metric, such as "cross_batch/site_accuracy",
    (value, standard deviation over seeds, source) of empirical risk minimisation."""

    roles: Roles
    counts: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    classes: int | None = None
    published: dict[str, tuple[float, float, str]] = dataclasses.field(default_factory=dict)
    withheld: bool = False


def find(name: str) -> Callable[..., Protocol]:
    """The function `protocol` of a file of this folder by its name, or of a .py file by its path, with the settings
    that stand after a colon.

    Raises UserError if it does not exist, or takes no such setting."""
    return _parsed(name)[0]


def _parsed(name: str) -> tuple[Callable[..., Protocol], bool]:
    """What `find` gives, and whether the name allows other counts."""
    file, _, settings = name.partition(":")
    module = plugins.load(file, protocols, "protocol.name")
    if not hasattr(module, "protocol"):
        raise UserError(f"protocol.name={file!r}: the file has no function protocol(dataset)")
    keys = list(inspect.signature(module.protocol).parameters.values())[1:]
    defaults = {key.name: key.default for key in keys} | {PARTIAL: False}
    given = parse_arguments(settings, "protocol", **defaults).to_dict()
    partial = given.pop(PARTIAL)
    return functools.partial(module.protocol, **given), partial


def draw(seed: int, names: list[str]) -> np.ndarray:
    """A number for each name, uint64 [n], that depends on it and the seed alone: a random order of them."""
    digests = [hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), "<u8")


def of_run(folder: pathlib.Path) -> str:
    """The name of the protocol of the run whose workdir this is; the default where it names none or is not a run's."""
    path = folder / "config.json"
    found = files.read_json(path, "put back a copy of it").get("protocol") if path.exists() else None
    return found.get("name", DEFAULT) if isinstance(found, dict) else DEFAULT


def as_partial(name: str) -> str:
    """The name of the protocol with other counts allowed."""
    return f"{name}{',' if ':' in name else ':'}{PARTIAL}"


def roles(dataset, name: str) -> Roles:
    """The roles of the dataset's rows under the protocol of this name, its counts checked.

    Args: dataset, a `data.Dataset`, or anything with its sites, experiments and classes.
    Raises UserError, one line, where the dataset is not the one that the protocol is defined for."""
    made, partial = _parsed(name)
    found = made(dataset)
    if differing := check(dataset, name, found, partial):
        return dataclasses.replace(found.roles, scoring=dataclasses.replace(found.roles.scoring, partial=differing))
    return found.roles


def check(dataset, name: str, found: Protocol, partial: bool = False) -> str:
    """Raises UserError where rows have two roles, or counts or classes differ from what the protocol asserts. With
    partial it returns in what these differ, "" where they hold."""
    sites, rows = dataset.sites, {"fit": found.roles.fit} | found.roles.scored | {"support": found.roles.support}
    for role, values in rows.items():
        if values.dtype != np.int64 or (np.diff(values) <= 0).any():
            raise UserError(f"protocol {name}: the rows of {role} are not sorted int64, each once")
    for one, other in itertools.combinations(rows, 2):
        if both := len(np.intersect1d(rows[one], rows[other])):
            raise UserError(f"protocol {name}: {both:,} images are both {one} and {other}; a record has one role")
    differing = []
    for role, expected in found.counts.items():
        count = len(rows[role]), len(np.unique(sites.experiment[rows[role]]))
        if count != expected:
            differing.append(
                f"{role} is {expected[0]:,} images of {expected[1]} experiments and this dataset has "
                f"{count[0]:,} of {count[1]}"
            )
        unknown = (sites.label[rows[role]] < 0).sum()
        if unknown and not (found.withheld and role in found.roles.scored):
            differing.append(f"{unknown:,} of the {count[0]:,} images of {role} have no label")
    if found.classes not in (None, len(dataset.classes)):
        differing.append(f"it is for {found.classes:,} classes and the dataset has {len(dataset.classes):,}")
    if differing and not partial:
        raise UserError(
            f"protocol {name}: {differing[0]}; prepare the whole dataset that it is meant for, from a source that has "
            f"its labels, name another protocol, or score this part as {as_partial(name)}"
        )
    return "; ".join(differing)
