"""Tasks: what a stage trains. A task is a dataclass with

init(key, images) -> {"params", "batch_stats"}    images [B, S, S, C] float32, used for shapes
loss(params, batch_stats, images, minibatch, key, progress) -> (loss, (batch_stats, metrics))
predict(params, batch_stats, images, mask) -> {"embedding": [B, D], ...}
frozen: a regular expression of parameter paths that are not trained, or None
inherits: the parameter subtree that comes from the stage before
It may also have
examples_per_unit: neighbours in a minibatch that gradient accumulation and devices must not part (1 if absent)
evaluated(params, batch_stats) -> the encoder's parameters that predict uses (params["encoder"] if absent)
published: the part of the state that holds them, and that others should use ("params" if absent)
inherit(batch_stats, part) -> batch_stats that hold the inherited parameters too
key is one key an image, [B]; progress the finished part of the run, 0 to 1.
"""

from rxrx_jax import adapt, models
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Dataset
from rxrx_jax.models.heads import Head
from rxrx_jax.tasks.classify import Classify
from rxrx_jax.tasks.distill import Distill
from rxrx_jax.tasks.mae import Mae

CLASSES = {"mae": Mae, "distill": Distill, "classify": Classify, "probe": Classify}


def make_task(config: Config, dataset: Dataset):
    """The task of `config.task` for a dataset's classes and domains."""
    name = config.task.name
    if name == "mae":
        return Mae.from_config(config)
    if name == "distill":
        return Distill.from_config(config, dataset)
    if name in ("classify", "probe"):
        domains = {"experiment": len(dataset.experiments), "plate": len(dataset.plates)}
        return Classify(
            encoder=models.make_encoder(config.model),
            head=Head(len(dataset.classes), normalise=name == "probe"),
            objective=adapt.make_objective(config, domains) if name == "classify" else None,
            label_smoothing=config.task.label_smoothing,
            frozen="encoder/" if name == "probe" else None,
        )
    raise UserError(f"task.name={name!r}: expected mae, distill, classify or probe")


def published(name: str) -> str:
    """The part of a state that the task of this name publishes."""
    return getattr(CLASSES.get(name), "published", "params")
