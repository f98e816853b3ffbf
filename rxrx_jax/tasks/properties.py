"""Properties of molecules, many at a time and most of them missing: the second step of MolE's pretraining, and its
fine-tuning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.molecule import MoleculeEncoder, MoleculeHead, make_molecule_encoder
from rxrx_jax.tasks.environments import init, library_of, whole_minibatch

CLASSIFICATION = "classification"


@dataclasses.dataclass(frozen=True)
class Properties:
    """The loss is the mean, over targets that are not missing, of the binary cross-entropy of a class and of the
    squared error of a number in units of its standard deviation in the training molecules.

    classes [t]: which targets are classes; mean, std [t]: of the training molecules, 0 and 1 for classes."""

    encoder: MoleculeEncoder
    head: MoleculeHead
    classes: tuple[bool, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    vocabulary: str
    frozen = None
    inherits = "encoder"
    method = Method()
    chosen_by = ("properties", "validation/score")

    @classmethod
    def from_config(cls, config: Config, source, method: Method) -> "Properties":
        del method
        whole_minibatch(config)
        library = library_of(config, source)
        if not library.targets:
            raise UserError("task.name=properties: these molecules have no targets; prepare them with --target")
        classes = tuple(kind == CLASSIFICATION for kind in library.kinds)
        mean, std = _statistics(library, classes)
        encoder = make_molecule_encoder(config.model, library.tokens)
        head = MoleculeHead(len(classes), config.task.dropout)
        return cls(encoder, head, classes, mean, std, library.vocabulary)

    def init(self, key, view):
        return init(self.encoder, self.head, key, view)

    def loss(self, params, collections, batch, key, progress):
        del progress
        outputs = self._outputs(params, batch.views[0], batch.keys[0])
        losses, known = self.losses(outputs, batch.columns["targets"])
        return losses.sum() / jnp.maximum(known.sum(), 1), (collections, {})

    def losses(self, outputs, targets):
        """(the loss of every target, 0 where it is missing, and which are not: [B, t] each)."""
        known = ~jnp.isnan(targets)
        targets = (jnp.where(known, targets, 0) - np.array(self.mean)) / np.array(self.std)
        of_classes = optax.sigmoid_binary_cross_entropy(outputs, targets)
        losses = jnp.where(np.array(self.classes), of_classes, jnp.square(outputs - targets))
        return jnp.where(known, losses, 0), known

    def predict(self, params, batch_stats, views, mask):
        del batch_stats, mask
        return {"embedding": self.encoder.apply({"params": params["encoder"]}, **views)[1]["embedding"]}

    def scored(self, params, columns, keys):
        """Of each molecule: `predicted` [B, t], probabilities of classes and numbers in their own units, and the
        `losses` [B, t] of targets that are not missing."""
        outputs = self._outputs(params, {name: columns[name] for name in ("tokens", "distances")})
        numbers = outputs * np.array(self.std) + np.array(self.mean)
        predicted = jnp.where(np.array(self.classes), jax.nn.sigmoid(outputs), numbers)
        return {"predicted": predicted, "losses": self.losses(outputs, columns["targets"])[0]}

    def _outputs(self, params, views, dropout=None):
        options = dict(train=dropout is not None, rngs=None if dropout is None else {"dropout": dropout})
        _, found = self.encoder.apply({"params": params["encoder"]}, **views, **options)
        return self.head.apply({"params": params["head"]}, found["embedding"], **options)


def _statistics(library, classes: tuple[bool, ...]) -> tuple[tuple, tuple]:
    """(mean [t], std [t]) of the training molecules; 0 and 1 for classes and what is missing there, std 1 where it is
    constant."""
    if all(classes):
        return (0.0,) * len(classes), (1.0,) * len(classes)
    mean, std = [], []
    for values, is_class in zip(library.targets_of(library.roles.fit).T.astype(np.float64), classes):
        values = values[~np.isnan(values)]
        number = len(values) and not is_class
        mean.append(float(values.mean()) if number else 0.0)
        std.append(float(values.std()) or 1.0 if number else 1.0)
    return tuple(mean), tuple(std)
