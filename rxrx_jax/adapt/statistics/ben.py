"""BEN: batch effects normalisation (Lin & Lu 2022, bioRxiv 2022.10.14.512286). A training minibatch is of one plate,
and at test BatchNorm has the statistics of the whole plate (transductive), as in the authors' supervised code."""

import dataclasses

from rxrx_jax.adapt.statistics.batch_statistics import BatchStatistics, Read, Train


@dataclasses.dataclass(frozen=True)
class BEN(BatchStatistics):
    train: Train = "plate"
    read: Read = "plate"
