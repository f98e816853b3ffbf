"""Domain adaptation and generalisation, one file per method, in folders by family. `method.py` says what a method may
change; `adapt.name` names the file, in one of these folders or, as a path, anywhere."""

import dataclasses
import math

from rxrx_jax import adapt
from rxrx_jax.adapt.method import Method, Needs
from rxrx_jax.base import plugins
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError

FACTS = ("classes",)  # fields set by the run where a method has them
OURS = ("shares", "groups", *FACTS)  # fields set by the run, not by a config


def method_class(name: str, key: str = "adapt.name") -> type[Method]:
    """The method of this name or file. Raises UserError for an unknown one, and for hooks that do not exist."""
    if name == "erm":
        return Method
    found = plugins.only_class(plugins.load(name, adapt, key, "*/[a-z]*.py"), Method, key)
    hooks = [hook for hook in vars(Method) if not hook.startswith("_")]
    for hook in vars(found):
        if not hook.startswith("_") and hook not in hooks and hook not in found.__dataclass_fields__:
            known = ", ".join(h for h in hooks if h not in Method.__dataclass_fields__)
            raise UserError(f"{key}={name}: {found.__name__}.{hook} is not a hook; the hooks are {known}")
    return found


def make_method(
    settings: dict, shares: dict[str, tuple[float, ...]], groups: int = 0, key: str = "adapt", **facts
) -> Method:
    """The method of a config's section.

    Args:
      settings: `name` and the method's own fields.
      shares: by kind of domain, the share of each domain in the training images.
      groups: domains that a minibatch is drawn from, 0 = all.
      facts: of FACTS, for a method that has fields of these names.
    Raises UserError naming the key.
    """
    settings = dict(settings)
    kind = method_class(settings.pop("name"), f"{key}.name")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in OURS}
    for name, value in settings.items():
        if name not in fields:
            raise UserError(f"{key}.{name}: {kind.__name__} takes {', '.join(fields)}")
        default = fields[name].default
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UserError(f"{key}.{name}={value!r}: expected a number")
            least, most = fields[name].metadata.get("range", (0, math.inf))
            if not least <= value <= most:  # NaN too
                upto = "" if most == math.inf else f" to {most:g}"
                raise UserError(f"{key}.{name}={value}: expected a number from {least:g}{upto}")
    domain = settings.get("domain", fields["domain"].default)
    if domain not in shares:
        raise UserError(f"{key}.domain={domain!r}: expected {' or '.join(shares)}")
    own = {name: facts[name] for name in facts if name in kind.__dataclass_fields__}
    return kind(**settings, shares=shares[domain], groups=groups, **own)


def check(
    method: Method, config: Config, has_batch_norm: bool, streams: tuple[str, ...], has_stem: bool = False
) -> None:
    """Raises UserError where a run does not provide what its method needs. The only place that checks this."""
    needs, name = method.needs, config.adapt.name
    if needs.batch_norm and not has_batch_norm:
        raise UserError(f"adapt.name={name} needs a model with BatchNorm, and model.name={config.model.name} has none")
    if needs.stem and not has_stem:
        raise UserError(
            f"adapt.name={name} changes the feature map after a convolutional stem, and model.name={config.model.name} "
            "has none; use convnet, resnet50 or densenet161"
        )
    groups = config.data.groups_per_minibatch
    if needs.groups and not needs.groups[0] <= groups <= needs.groups[1]:
        low, high = needs.groups
        wanted = f"{low}" if low == high else f"{low} or more"
        raise UserError(f"adapt.name={name} needs data.groups_per_minibatch={wanted}, not {groups}")
    if needs.groups and config.data.group != method.domain:
        raise UserError(f"adapt.name={name} needs data.group={method.domain}, its domain, not {config.data.group}")
    pairs = config.data.get("pairs", "")
    if needs.pairs and pairs != needs.pairs:
        raise UserError(f"adapt.name={name} needs data.pairs={needs.pairs}, not {pairs!r}")
    if missing := [stream for stream in needs.streams if stream not in streams]:
        raise UserError(f"adapt.name={name} needs the stream {missing[0]}: set data.unlabelled_minibatch above 0")
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
    if method.needs.batch_norm and not has_batch_norm:
        raise UserError(f"post_hoc.{name}: this model has no BatchNorm to re-estimate")


__all__ = ["Method", "Needs", "averages", "check", "check_post_hoc", "make_method", "method_class"]
