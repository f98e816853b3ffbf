"""Evaluators: a function `evaluate(context, **settings)` that yields (name, value) pairs and may write files into
`context.workdir`, on the first host alone (`hosts.on_first_host`). To add one, write its file and name it in
`EVALUATORS`; its settings are in `config.evaluators`.
"""

import inspect

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.source import evaluated_as
from rxrx_jax.evaluate import accuracy, cellsignal, embeddings, molecules, pareto, predict, predictions, reconstruction
from rxrx_jax.evaluate.batch_metrics import leakage, score
from rxrx_jax.evaluate.probes import encoders, neighbours

EVALUATORS = {
    "accuracy": accuracy.evaluate,
    "batch_metrics": score.evaluate,
    "cellsignal": cellsignal.evaluate,
    "embeddings": embeddings.evaluate,
    "environments": molecules.environments,
    "leakage": leakage.evaluate,
    "neighbours": neighbours.evaluate,
    "pareto": pareto.evaluate,
    "predictions": predictions.evaluate,
    "probe": encoders.evaluate,
    "properties": molecules.properties,
    "retrieval": molecules.retrieval,
    "reconstruction": reconstruction.evaluate,
}

# What evaluators work with, by `evaluated_as` of the source (`data.source`): make_context(config, source, step, shared)
# returns a `predict.Evaluated`; `step` has `task` and `has_batch_norm`, and `shared` is described in `predict`.
CONTEXTS = {"images": predict.make_context, "molecules": molecules.make_context, "samples": pareto.make_context}
OWN = {"environments": "molecules", "properties": "molecules", "retrieval": "molecules", "pareto": "samples"}


def make_evaluators(config: Config, source=None) -> list:
    """[(name, function, settings)] for every key of `config`, and for those that the protocol of a source's dataset has
    (`data.roles.Scoring`), whose settings come first; none where `config` is empty.
    Raises UserError for an unknown name or setting."""
    given = {name: getattr(config, name).as_kwargs() for name in config}
    if given and hasattr(source, "dataset"):
        of_protocol = source.dataset.roles.scoring.evaluators
        given |= {name: given.get(name, {}) | settings for name, settings in of_protocol.items()}
    chosen = []
    for name, settings in given.items():
        if name not in EVALUATORS:
            raise UserError(f"evaluators.{name}: expected one of {', '.join(EVALUATORS)}")
        of, given_of = OWN.get(name, "images"), evaluated_as(source) if source else ""
        if given_of in ("images", *OWN.values()) and of != given_of:
            raise UserError(f"evaluators.{name} is of {of}, and this source of {given_of}; remove it")
        known = list(inspect.signature(EVALUATORS[name]).parameters)[1:]
        if unknown := [key for key in settings if key not in known]:
            raise UserError(f"evaluators.{name}.{unknown[0]}: {name} takes {', '.join(known) or 'no settings'}")
        chosen.append((name, EVALUATORS[name], settings))
    return chosen
