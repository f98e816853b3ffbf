"""ARM-BN: meta-learning to adapt by BatchNorm statistics (Zhang et al. 2021, arXiv 2007.02931, section 4.2).

Every domain of a training minibatch is normalised by the statistics of its own images there, and the loss is that of
the network thus adapted; at test each minibatch of a domain's unlabelled images is normalised by its own
(transductive). Running statistics are averages over the domains, for evaluators that predict without adaptation.
"""

import dataclasses

import jax
import numpy as np

from rxrx_jax.adapt.method import Encoded, Method, Needs


@dataclasses.dataclass(frozen=True)
class ArmBN(Method):
    """support: images used for the statistics at test; 0, as many as training takes from a domain, at most an
    evaluation minibatch."""

    support: int = 0

    @property
    def needs(self):
        return Needs(groups=(2, 10**6), batch_norm=True, transductive=True, whole_minibatch=True)

    @property
    def read_by(self):
        return self.domain

    def forward(self, encode, images, batch):
        parts = images.reshape(self.groups, -1, *images.shape[1:])  # [domains, B / domains, S, S, C]
        features, logits, stats = jax.vmap(encode)(parts)
        flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
        return Encoded(flat(features), flat(logits), jax.tree.map(lambda x: x.mean(0), stats)), {}

    def at_test(self, predict, network, group):
        size = min(self.support or group.size, group.size)
        found = []
        for start in range(0, len(group.rows), size):
            rows = group.rows[start : start + size]
            seen = group.rows[max(start + len(rows) - size, 0) : start + len(rows)]  # the last ones are not fewer
            found.append(predict(network._replace(batch_stats=predict.batch_statistics(network, seen)), rows))
        return {key: np.concatenate([part[key] for part in found]) for key in found[0]}
