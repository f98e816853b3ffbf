"""Perturbation classification: fine-tuning with a method of adaptation, or a linear probe of a frozen encoder."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rxrx_jax import models
from rxrx_jax.adapt.method import Encoded, Method, Outputs
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.heads import Head


@dataclasses.dataclass(frozen=True)
class Classify:
    """frozen: "encoder/" for a linear probe. context: length of what the head is given of each image beside it.

    Minibatches may hold images with label -1 (unlabelled images of held-out experiments): they take part in what the
    method does with them and in minibatch statistics, and in nothing else.
    """

    encoder: nn.Module
    head: nn.Module
    method: Method
    label_smoothing: float
    frozen: str | None = None
    context: int = 0
    inherits = "encoder"

    @classmethod
    def from_config(cls, config: Config, source, method: Method) -> "Classify":
        given = models.make_encoder(config.model), Head(source.classes), method, config.task.label_smoothing
        return cls(*given, context=_context(config, source, method))

    @classmethod
    def probe_from_config(cls, config: Config, source, method: Method) -> "Classify":
        """The linear probe: a frozen encoder, and BatchNorm without scale and bias before the linear layer."""
        encoder, head = models.make_encoder(config.model), Head(source.classes, normalise=True)
        given = encoder, head, method, config.task.label_smoothing
        return cls(*given, frozen="encoder/", context=_context(config, source, method))

    def init(self, key, images):
        keys = jax.random.split(key, 3)
        encoder = self.encoder.init(keys[0], images, train=False)
        _, found = self.encoder.apply(encoder, images, train=False)
        context = jnp.zeros((len(images), self.context)) if self.context else None
        head = self.head.init(keys[1], found["embedding"], train=False, context=context)
        params = {"encoder": encoder.get("params", {}), "head": head["params"]}
        of_method, carry = self.method.init(keys[2], found["embedding"])
        if of_method:
            params["domain"] = of_method
        stats = {"encoder": encoder.get("batch_stats", {}), "head": head.get("batch_stats", {})}
        return {"params": params, "batch_stats": stats, "carry": carry}

    def loss(self, params, collections, batch, key, progress):
        labels, domains = batch.columns["label"], batch.columns[self.method.domain]
        labelled = labels >= 0
        of_mix, of_loss = jax.random.split(batch.keys[0])
        targets = optax.smooth_labels(jax.nn.one_hot(labels, self.head.classes), self.label_smoothing)
        images, targets = self.method.mix(of_mix, batch.images, targets, domains)

        def encode(images, average=False, statistics=None, after_stem=None, tokens=None):
            network = collections["averages"] if average else {"params": params, **collections}
            options = dict(mask=statistics, train=True, key=batch.keys[0], after_stem=after_stem)
            options["context"] = batch.columns["context"] if self.context else None
            if tokens:
                options["tokens"] = functools.partial(tokens, network["params"].get("domain", {}))
            return self._apply(network["params"], network["batch_stats"], images, **options)

        encoded, extra = self.method.forward(encode, images, batch)
        errors = jnp.where(labelled, optax.softmax_cross_entropy(encoded.logits, targets), 0)
        out = Outputs(encoded.features, encoded.logits, errors, labels, labelled, domains, batch, extra, targets)
        loss, carry, found = self.method.loss(params.get("domain", {}), collections["carry"], out, progress, of_loss)
        right = jnp.where(labelled, encoded.logits.argmax(-1) == targets.argmax(-1), False)
        metrics = {"accuracy": right.sum() / batch.labelled, "class_loss": out.risk} | found
        return loss, (collections | {"batch_stats": encoded.batch_stats, "carry": carry}, metrics)

    def predict(self, params, batch_stats, images, mask, tokens=None, context=None):
        """Args: tokens [M, D], which every image gets beside its patches; context [B, d], which the head gets."""
        given = None if tokens is None else lambda x: jnp.broadcast_to(tokens, (len(x), *tokens.shape))
        found = self._apply(params, batch_stats, images, mask, train=False, tokens=given, context=context)
        return {"embedding": found.features, "logits": found.logits}

    def patches(self, params, images):
        """The mean of each image's patch tokens before any block: [B, D]."""
        return self.encoder.apply({"params": params["encoder"]}, images, train=False)[1]["patches"]

    def logits(self, params, batch_stats, features):
        """[n, K], of features [n, D] as `predict` gives them."""
        variables = {"params": params["head"], "batch_stats": batch_stats["head"]}
        return self.head.apply(variables, features, train=False)

    def minibatch_statistics(self, params, batch_stats, images, mask):
        """BatchNorm statistics of exactly these images (where mask [B] is true): a tree like batch_stats."""
        # With momentum 0 the running statistics become those of the minibatch.
        pure = dataclasses.replace(self, encoder=self.encoder.clone(momentum=0.0))
        return pure._apply(params, batch_stats, images, mask, train=True).batch_stats

    def _apply(
        self, params, batch_stats, images, mask, train, key=None, after_stem=None, tokens=None, context=None
    ) -> Encoded:
        variables = {"params": params["encoder"], "batch_stats": batch_stats["encoder"]}
        rngs = None if key is None else {"drop_path": key}
        options = dict(train=train and not self.frozen, mask=mask, mutable=["batch_stats"], rngs=rngs)
        given = {"after_stem": after_stem, "tokens": tokens}
        options |= {name: function for name, function in given.items() if function}  # not every encoder has both
        (_, found), new = self.encoder.apply(variables, images, **options)
        features = found["embedding"]
        if self.frozen:
            features = jax.lax.stop_gradient(features)
        variables = {"params": params["head"], "batch_stats": batch_stats["head"]}
        given = dict(train=train, mask=mask, context=context, mutable=["batch_stats"])
        logits, new_head = self.head.apply(variables, features, **given)
        stats = {"encoder": new.get("batch_stats", {}), "head": new_head.get("batch_stats", {})}
        return Encoded(features, logits, stats)


def _context(config: Config, source, method: Method) -> int:
    """The length of a source's context. Raises UserError for a method that gives the network other images, or an image
    at other times, than the minibatch's: of these no context is known."""
    length = getattr(source, "context", 0)
    if length and (type(method).forward is not Method.forward or type(method).mix is not Method.mix):
        raise UserError(f"adapt.name={config.adapt.name} has its own forward pass or mixes images, to which "
                        f"protocol.name={config.protocol.name} cannot give a context; use another method")  # fmt: skip
    return length
