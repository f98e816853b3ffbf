"""Evaluators: a function `evaluate(context, **settings)` that yields (name, value) pairs and may write files into
`context.workdir`, on the first host alone (`hosts.on_first_host`). To add one, write its file and name it in
`EVALUATORS`; its settings are in `config.evaluators`.
"""

import inspect

from rxrx_jax import adapt
from rxrx_jax.adapt import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import accuracy, cellsignal, embeddings, molecules, pareto, predictions, reconstruction
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
    "reconstruction": reconstruction.evaluate,
}

# What evaluators work with, by `evaluated_as` of a source; `predict.Context` for those of images. Each is made with
# (task, dataset of the source or None, mesh, evaluation_minibatch, workdir, seed, ledger or None).
CONTEXTS = {"molecules": molecules.MoleculeContext, "samples": pareto.SampleContext}
OWN = {"environments": "molecules", "properties": "molecules", "pareto": "samples"}  # evaluators of these, not images


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
        of, given_of = OWN.get(name, "images"), getattr(source, "evaluated_as", "images")
        if source is not None and of != given_of:
            raise UserError(f"evaluators.{name} is of {of}, and this source of {given_of}; remove it")
        known = list(inspect.signature(EVALUATORS[name]).parameters)[1:]
        if unknown := [key for key in settings if key not in known]:
            raise UserError(f"evaluators.{name}.{unknown[0]}: {name} takes {', '.join(known) or 'no settings'}")
        chosen.append((name, EVALUATORS[name], settings))
    return chosen


def make_readings(config: Config, method: Method, shares: dict, has_batch_norm: bool) -> dict[str, Method]:
    """How the network predicts, by the prefix of the metrics: "" by the run's own method, NAME by each of
    `config.post_hoc`. Raises UserError where one of these cannot be applied to this model."""
    readings = {"": method}
    for name in config.post_hoc if "post_hoc" in config else ():
        settings = getattr(config.post_hoc, name).as_kwargs()
        readings[name] = adapt.make_method(settings, shares, key=f"post_hoc.{name}")
        adapt.check_post_hoc(name, readings[name], has_batch_norm)
    return readings
