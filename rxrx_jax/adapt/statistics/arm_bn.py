"""ARM-BN: meta-learning to adapt by BatchNorm statistics (Zhang et al. 2021, arXiv 2007.02931, section 4.2).

Every domain of a training minibatch is normalised by the statistics of its own images there, and the loss is that of
the network thus adapted; at test each minibatch of a domain's unlabelled images is normalised by its own
(transductive).
"""

import dataclasses

from rxrx_jax.adapt.statistics.batch_statistics import BatchStatistics, Read, Train


@dataclasses.dataclass(frozen=True)
class ArmBN(BatchStatistics):
    train: Train = "experiment"
    read: Read = "minibatch"

    _groups = (2, 10**6)
