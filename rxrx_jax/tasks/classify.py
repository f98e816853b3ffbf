"""Perturbation classification: fine-tuning with a domain objective, or a linear probe of a frozen encoder."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Classify:
    """objective: a domain objective of `adapt` or None; frozen: "encoder/" for a linear probe.

    Minibatches may hold images with label -1 (unlabelled images of held-out experiments): they take part in the domain
    objective and in minibatch statistics, and in nothing else.
    """

    encoder: nn.Module
    head: nn.Module
    objective: object | None
    label_smoothing: float
    frozen: str | None = None
    inherits = "encoder"

    def init(self, key, images):
        keys = jax.random.split(key, 3)
        encoder = self.encoder.init(keys[0], images, train=False)
        _, found = self.encoder.apply(encoder, images, train=False)
        head = self.head.init(keys[1], found["embedding"], train=False)
        params = {"encoder": encoder.get("params", {}), "head": head["params"]}
        if self.objective:
            params["domain"] = self.objective.init(keys[2], found["embedding"])
        stats = {"encoder": encoder.get("batch_stats", {}), "head": head.get("batch_stats", {})}
        return {"params": params, "batch_stats": stats}

    def loss(self, params, batch_stats, images, minibatch, key, progress):
        labels = minibatch["label"]
        labelled = labels >= 0
        features, logits, stats = self._apply(params, batch_stats, images, None, train=True, key=key[0])
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), self.label_smoothing)
        count = jnp.maximum(labelled.sum(), 1)
        errors = optax.softmax_cross_entropy(logits, targets)
        loss = jnp.where(labelled, errors, 0).sum() / count
        metrics = {"accuracy": jnp.where(labelled, logits.argmax(-1) == labels, False).sum() / count}
        if self.objective:
            domains, masks = minibatch[self.objective.domain], {"labelled": labelled}
            extra, found = self.objective(params["domain"], features, logits, labels, domains, masks, progress)
            metrics |= found | {"class_loss": loss}
            loss = loss + extra
        return loss, (stats, metrics)

    def predict(self, params, batch_stats, images, mask):
        features, logits, _ = self._apply(params, batch_stats, images, mask, train=False)
        return {"embedding": features, "logits": logits}

    def minibatch_statistics(self, params, batch_stats, images, mask):
        """BatchNorm statistics of exactly these images (where mask [B] is true): a tree like batch_stats."""
        # With momentum 0 the running statistics become those of the minibatch.
        pure = dataclasses.replace(self, encoder=self.encoder.clone(momentum=0.0))
        _, _, stats = pure._apply(params, batch_stats, images, mask, train=True)
        return stats

    def _apply(self, params, batch_stats, images, mask, train, key=None):
        variables = {"params": params["encoder"], "batch_stats": batch_stats["encoder"]}
        rngs = None if key is None else {"drop_path": key}
        options = dict(train=train and not self.frozen, mask=mask, mutable=["batch_stats"], rngs=rngs)
        (_, found), new = self.encoder.apply(variables, images, **options)
        features = found["embedding"]
        if self.frozen:
            features = jax.lax.stop_gradient(features)
        variables = {"params": params["head"], "batch_stats": batch_stats["head"]}
        logits, new_head = self.head.apply(variables, features, train=train, mask=mask, mutable=["batch_stats"])
        return features, logits, {"encoder": new.get("batch_stats", {}), "head": new_head.get("batch_stats", {})}
