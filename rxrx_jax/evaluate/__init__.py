"""Evaluators: a function `evaluate(context, **settings)` that yields (name, value) pairs and may write files into
`context.workdir`, on the first host alone (`hosts.on_first_host`). To add one, write its file and name it in
`EVALUATORS`; its settings stand in `config.evaluators`.
"""

import inspect

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import accuracy, embeddings, leakage, probe, reconstruction

EVALUATORS = {
    "accuracy": accuracy.evaluate,
    "embeddings": embeddings.evaluate,
    "leakage": leakage.evaluate,
    "probe": probe.evaluate,
    "reconstruction": reconstruction.evaluate,
}


def make_evaluators(config: Config, has_statistics: bool = True) -> list:
    """[(name, function, settings)] for every key of `config`.

    Raises UserError for an unknown name or setting, and when a model without BatchNorm (`has_statistics` False) is to
    be read with re-estimated statistics."""
    chosen = []
    for name in config:
        if name not in EVALUATORS:
            raise UserError(f"evaluators.{name}: expected one of {', '.join(EVALUATORS)}")
        settings = getattr(config, name).as_kwargs()
        known = list(inspect.signature(EVALUATORS[name]).parameters)[1:]
        if unknown := [key for key in settings if key not in known]:
            raise UserError(f"evaluators.{name}.{unknown[0]}: {name} takes {', '.join(known) or 'no settings'}")
        kinds = settings.get("statistics", "running")
        if not has_statistics and set((kinds,) if isinstance(kinds, str) else kinds) != {"running"}:
            raise UserError(f"evaluators.{name}.statistics={kinds}: this model has no BatchNorm to re-estimate")
        chosen.append((name, EVALUATORS[name], settings))
    return chosen
