"""CS-BN: BatchNorm statistics stabilised by controls ("Closing the Domain Gap in Biomedical Imaging by In-Context
Control Samples", arXiv 2604.20824, there CS-ARM-BN).

A training minibatch is of one plate, and untreated images of that plate lie beside it: they take part in the
statistics, and the loss is that of the others. A plate is read with the statistics of its images and its untreated
wells, weighed as in minibatches of `support` images with all of the plate's untreated ones, pooled over the plate;
`context="controls"` has the untreated ones alone, in training and at test. That a well of a held-out plate is
untreated is used: mark C. Defaults are those of the authors' code, 64 images and 128 untreated ones
(`data.control_minibatch`); it reads minibatch by minibatch (`read="minibatch"`).
"""

import dataclasses

from rxrx_jax.adapt.statistics.batch_statistics import BatchStatistics, Context, Read, Train


@dataclasses.dataclass(frozen=True)
class CSBN(BatchStatistics):
    train: Train = "plate"
    read: Read = "plate"
    context: Context = "both"
    support: int = 64
