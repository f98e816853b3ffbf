"""TTBNA: test-time BatchNorm adaptation (Nado et al. 2020, arXiv 2006.10963; Schneider et al. 2020, arXiv 2006.16971,
without their source statistics). Training is empirical risk minimisation; at test BatchNorm has the statistics of the
minibatch that is being predicted (transductive), here one experiment's images in the order of the table. As `post_hoc`
it is the same for a network that is trained already."""

import dataclasses

from rxrx_jax.adapt.statistics.batch_statistics import BatchStatistics, Read, Train


@dataclasses.dataclass(frozen=True)
class TTBNA(BatchStatistics):
    train: Train = "mixed"
    read: Read = "minibatch"
