"""Whose images give BatchNorm its mean and variance, in training and at test: one mechanism with three keys, of which
`adabn`, `arm_bn`, `ben`, `ttbna` and `cs_bn` are settings."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.adapt.method import Encoded, Method, Needs
from rxrx_jax.data.batch import CONTROLS, TRAIN

Train = Literal["mixed", "experiment", "plate"]
Read = Literal["minibatch", "experiment", "plate"]
Context = Literal["all", "controls", "both"]


@dataclasses.dataclass(frozen=True)
class BatchStatistics(Method):
    """BatchNorm normalises images by the statistics of their own group, and the loss is that of the network thus
    adapted. Running statistics are averages over groups, for evaluators that predict without adaptation.

    train: whose images share statistics in training: those of the whole minibatch (mixed), or of each experiment or
      plate in it.
    read: whose share them at test: an experiment, a plate, or a minibatch of one: of the training group, or where that
      is mixed of an experiment, in the order of the table.
    context: the images that the statistics are of: all of these; the group's untreated wells alone (controls); each
      minibatch of these together with the untreated wells (both). In training the untreated wells are a stream of
      their own, `data.control_minibatch`.
    support: images per minibatch at test, 0 and at most `evaluation_minibatch`.
    """

    domain: str = dataclasses.field(init=False, default="experiment")
    train: Train = "mixed"
    read: Read = "experiment"
    context: Context = "all"
    support: int = 0

    _groups = (1, 1)  # (fewest, most) in a training minibatch, unless it is mixed

    def __post_init__(self):
        groups = [group for group in (self.train, self.read) if group not in ("mixed", "minibatch")]
        object.__setattr__(self, "domain", (groups or ["experiment"])[0])

    @property
    def needs(self):
        pure, controls = self.train != "mixed", self.context != "all"
        return Needs(
            groups=self._groups if pure else None,
            streams=(CONTROLS,) if pure and controls else (),
            batch_norm=True,
            transductive=self.context != "controls",
            controls=controls,
            whole_minibatch=pure and self.groups > 1,
        )

    @property
    def read_by(self):
        return self.domain if self.read == "minibatch" else self.read

    def forward(self, encode, images, batch):
        if self.train == "mixed" or (self.groups, self.context) == (1, "all"):
            return encode(images), {}
        streams = [images] if self.context == "all" else [batch.of(name, images) for name in (TRAIN, CONTROLS)]
        parts = [x.reshape(self.groups, -1, *x.shape[1:]) for x in streams]  # [groups, n, S, S, C] each
        size = parts[0].shape[1]
        whole = jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]
        given = {"statistics": jnp.arange(whole.shape[1]) >= size} if self.context == "controls" else {}
        features, logits, stats = jax.vmap(lambda x: encode(x, **given))(whole)

        def flat(x):  # [groups, n + m, D] -> [B, D], stream by stream
            return jnp.concatenate([part.reshape(-1, x.shape[-1]) for part in jnp.split(x, [size], 1)])

        return Encoded(flat(features), flat(logits), jax.tree.map(lambda x: x.mean(0), stats)), {}

    def at_test(self, predict, network, group):
        size, found = min(self.support or group.size, group.size), []
        parts = minibatches(group.rows, size) if self.read == "minibatch" else [(group.rows, group.members)]
        for rows, seen in parts:
            if self.context == "controls":
                seen = group.controls
            elif self.context == "both":
                seen = np.concatenate([np.union1d(part, group.controls) for _, part in minibatches(seen, size)])
            found.append(predict(network._replace(batch_stats=predict.batch_statistics(network, seen)), rows))
        return {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def minibatches(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, those that give their statistics: the last rows are read with as many as the others)."""
    for start in range(0, max(len(rows), 1), size):
        part = rows[start : start + size]
        yield part, rows[max(start + len(part) - size, 0) : start + len(part)]
