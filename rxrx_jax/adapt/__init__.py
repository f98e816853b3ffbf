"""Domain adaptation and generalisation, one file per method, in folders by family. `method.py` says what a method may
change; `adapt.name` names the file, in one of these folders or, as a path, anywhere. `correct/` has no methods but
corrections of embeddings, numpy in, numpy out."""

import dataclasses
import math
import typing

import numpy as np

from rxrx_jax import adapt
from rxrx_jax.adapt.method import Method, Needs
from rxrx_jax.base import plugins
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.batch import CONTROLS, HELD_OUT, TRAIN
from rxrx_jax.data.images import LENGTHS
from rxrx_jax.data.roles import untreated

FACTS = ("classes", "cell_types")  # fields set by the run where a method has them
OURS = ("shares", "groups", *FACTS)  # fields set by the run, not by a config


def method_class(name: str, key: str = "adapt.name") -> type[Method]:
    """The method of this name or file. Raises UserError for an unknown one, and for hooks that do not exist."""
    if name == "erm":
        return Method
    found = plugins.only_class(plugins.load(name, adapt, key, "*/[a-z]*.py", but="correct"), Method, key)
    hooks = [hook for hook in vars(Method) if not hook.startswith("_")]
    for hook in vars(found):
        if not hook.startswith("_") and hook not in hooks and hook not in found.__dataclass_fields__:
            known = ", ".join(h for h in hooks if h not in Method.__dataclass_fields__)
            raise UserError(f"{key}={name}: {found.__name__}.{hook} is not a hook; the hooks are {known}")
    return found


def keys_of(kind: type[Method]) -> dict[str, dataclasses.Field]:
    """The fields of a method that are keys of a config, by name."""
    return {f.name: f for f in dataclasses.fields(kind) if f.init and f.name not in OURS}


def make_method(
    settings: dict, shares: dict[str, tuple[float, ...]], groups: int = 0, key: str = "adapt", **facts
) -> Method:
    """The method of a config's section.

    Args:
      settings: `name` and the method's own fields.
      shares: by kind of domain, the share of each domain in the training images.
      groups: domains that a minibatch is drawn from, 0 = all.
      facts: of FACTS, for a method that has fields of these names; cell_types is by kind of domain.
    Raises UserError naming the key.
    """
    settings = dict(settings)
    kind = method_class(settings.pop("name"), f"{key}.name")
    fields = keys_of(kind)
    for name, value in settings.items():
        if name not in fields:
            raise UserError(f"{key}.{name}: {kind.__name__} takes {', '.join(fields)}")
        if wanted := _wanted(fields[name], value):
            raise UserError(f"{key}.{name}={value!r}: expected {wanted}")
    own = {name: facts[name] for name in facts if name in kind.__dataclass_fields__}
    method = kind(**settings, groups=groups, **own)
    if method.domain not in shares:
        raise UserError(f"{key}.domain={method.domain!r}: expected {' or '.join(shares)}")
    if "cell_types" in own:
        method = dataclasses.replace(method, cell_types=own["cell_types"][method.domain])
    return dataclasses.replace(method, shares=shares[method.domain])


def _wanted(field: dataclasses.Field, value) -> str:
    """What a method's key must be, "" where this value will do."""
    if typing.get_origin(field.type) is typing.Literal:
        allowed = typing.get_args(field.type)
        words = [word or "nothing" for word in allowed]
        return "" if value in allowed else f"{', '.join(words[:-1])} or {words[-1]}"
    if isinstance(field.default, bool):
        return "" if isinstance(value, bool) else "True or False"
    if not isinstance(field.default, (int, float)):
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "a number"
    least, most = field.metadata.get("range", (0, math.inf))
    if not (least <= value <= most and math.isfinite(value)):
        return f"a number from {least:g}" + ("" if most == math.inf else f" to {most:g}")
    return "a whole number" if field.type is int and not isinstance(value, int) else ""


def check(
    method: Method,
    config: Config,
    has_batch_norm: bool,
    streams: tuple[str, ...],
    *,
    has_stem: bool = False,
    has_tokens: bool = False,
    steps: int = 10**9,
) -> None:
    """Raises UserError where a run, of this many steps, does not provide what its method needs. The only place that
    checks this."""
    needs, name = method.needs, config.adapt.name
    if needs.batch_norm and not has_batch_norm:
        raise UserError(f"adapt.name={name} needs a model with BatchNorm, and model.name={config.model.name} has none")
    if needs.stem and not has_stem:
        raise UserError(
            f"adapt.name={name} changes the feature map after a convolutional stem, and model.name={config.model.name} "
            "has none: use a convolutional network"
        )
    if needs.tokens and not has_tokens:
        raise UserError(
            f"adapt.name={name} adds a token to patches, and model.name={config.model.name} has none: use vit"
        )
    groups = config.data.groups_per_minibatch
    if needs.groups and not needs.groups[0] <= groups <= needs.groups[1]:
        low, high = needs.groups
        wanted = f"{low}" if low == high else f"{low} or more"
        raise UserError(f"adapt.name={name} needs data.groups_per_minibatch={wanted}, not {groups}")
    if needs.groups and config.data.group != method.domain:
        raise UserError(f"adapt.name={name} needs data.group={method.domain}, its domain, not {config.data.group}")
    if needs.per_domain > 1 and (each := config.data.minibatch // groups) < needs.per_domain:
        raise UserError(
            f"adapt.name={name} needs {needs.per_domain} or more images of each {method.domain} in a minibatch: "
            f"data.minibatch={config.data.minibatch} from data.groups_per_minibatch={groups} has {each}"
        )
    trained = sum(share > 0 for share in method.shares)
    if HELD_OUT not in streams and 0 < trained < needs.domains:
        raise UserError(
            f"adapt.name={name} compares {method.domain}s and all training images are of one: loosen data.select, or "
            "use adapt.name=erm"
        )
    if needs.cell_types and (-1 in method.cell_types or not method.cell_types):
        raise UserError(f"adapt.name={name} needs one cell type in each {method.domain}: set adapt.within to nothing")
    if steps < needs.steps:
        raise UserError(f"adapt.name={name} needs {needs.steps} or more steps to begin, and the run has {steps}")
    pairs = config.data.get("pairs", "")
    if needs.pairs and pairs != needs.pairs:
        raise UserError(f"adapt.name={name} needs data.pairs={needs.pairs}, not {pairs!r}")
    if missing := [stream for stream in needs.streams if stream not in streams]:
        key = LENGTHS.get(missing[0], LENGTHS[HELD_OUT])
        raise UserError(f"adapt.name={name} needs the stream {missing[0]}: set {key} above 0")
    for stream in streams:
        if stream not in (TRAIN, *needs.streams, *needs.uses) and (needs.groups or stream == CONTROLS):
            raise UserError(f"adapt.name={name} has no use for the stream {stream}: set {LENGTHS.get(stream)} to 0")
    if needs.averages and not config.optim.get("ema_decay", 0.0):
        raise UserError(f"adapt.name={name} needs optim.ema_decay above 0, the average that it teaches with")
    if averages(method) and config.optim.get("ema_decay", 0.0):
        raise UserError(f"adapt.name={name} has an average of its own; set optim.ema_decay to 0")
    if needs.whole_minibatch and config.get("accumulate", 1) > 1:
        raise UserError(f"adapt.name={name}: its loss is not a mean over images, so accumulate must be 1")


def averages(method: Method) -> bool:
    """Whether a method averages the parameters (`Method.averaged`)."""
    return type(method).averaged is not Method.averaged


def check_post_hoc(name: str, method: Method, has_batch_norm: bool) -> None:
    """Raises UserError where this method cannot be applied to a trained network, or would change nothing."""
    if type(method).at_test is Method.at_test:
        raise UserError(f"post_hoc.{name}: {type(method).__name__} only trains, it reads as without it; remove it")
    if method.needs.tokens:
        raise UserError(f"post_hoc.{name}: {type(method).__name__} has parameters of its own, which a run trains")
    if method.needs.batch_norm and not has_batch_norm:
        raise UserError(f"post_hoc.{name}: this model has no BatchNorm to re-estimate")


def check_controls(key: str, method: Method, dataset, classifies: bool = True) -> None:
    """Raises UserError where a method reads with untreated wells and an experiment or plate has none, or with a head,
    or chooses on validation experiments, that a run has not."""
    if method.needs.head and not classifies:
        raise UserError(f"{key}: {type(method).__name__} moves what a classifier's head is given; this task has none")
    if method.needs.head and dataset.roles.context is not None:
        raise UserError(f"{key}: {type(method).__name__} moves what a classifier's head is given, and this protocol "
                        "gives it a context besides; use another protocol")  # fmt: skip
    if method.needs.validation and not len(dataset.roles.scored.get("validation", ())):
        raise UserError(f"{key}: {type(method).__name__} chooses its penalty on validation experiments, and the "
                        "protocol scores none; set penalty above 0")  # fmt: skip
    if not method.needs.controls:
        return
    by = method.read_by or method.domain
    of, names = getattr(dataset.sites, by), getattr(dataset, f"{by}s")
    bare = untreated(dataset.sites)
    if len(without := np.setdiff1d(of, of[bare])):
        raise UserError(
            f"{key}: {type(method).__name__} needs untreated wells on every {by}, and {names[without[0]]} has none"
        )
    if method.needs.head and not (bare & (dataset.sites.label >= 0))[dataset.roles.fit].any():
        raise UserError(f"{key}: {type(method).__name__} moves controls to those of the training rows, which have none")


__all__ = [
    "Method",
    "Needs",
    "averages",
    "check",
    "check_controls",
    "check_post_hoc",
    "keys_of",
    "make_method",
    "method_class",
]
