"""Domain adaptation and generalisation, one file a method.

A domain objective has `init(key, features) -> params` and
`objective(params, features, logits, labels, domains, masks, progress) -> (loss, metrics)`:
features [B, D] float32, logits [B, classes], labels [B] (-1 = unlabelled), domains [B] int32, masks a dict of bool [B]
(`labelled`), progress in [0, 1], the finished part of the run. A method that needs a certain sampler or normalisation
says so in its `check(config)`, which the tasks call.
"""

from rxrx_jax.adapt import adabn
from rxrx_jax.adapt.dann import Dann
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError


def make_objective(config: Config, domains: dict[str, int]):
    """The domain objective of `config.adapt`, or None for plain empirical risk minimisation and for AdaBN, which
    changes the sampler and the evaluation instead of the loss. `domains` is the number of experiments and plates."""
    adapt = config.adapt
    if adapt.name == "none":
        return None
    if adapt.name == "adabn":
        return adabn.check(config)
    if adapt.name == "dann":
        if adapt.domain not in domains:
            raise UserError(f"adapt.domain={adapt.domain!r}: expected {' or '.join(domains)}")
        return Dann(adapt.domain, domains[adapt.domain], adapt.weight, adapt.hidden)
    raise UserError(f"adapt.name={adapt.name!r}: expected none, adabn or dann")
