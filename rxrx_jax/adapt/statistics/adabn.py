"""AdaBN: BatchNorm statistics of the domain that is being predicted (Li et al. 2016, arXiv 1603.04779).

Post hoc (`config.post_hoc`): any trained network, its statistics re-estimated on each domain's unlabelled images before
predicting them. As the method of a run, batch-pure: training minibatches come from one domain each as well, so that the
network has only ever seen statistics of one domain (Lin & Lu 2022, bioRxiv 2022.10.14.512286). Both are transductive.
"""

import dataclasses

from rxrx_jax.adapt.statistics.batch_statistics import BatchStatistics, Read, Train


@dataclasses.dataclass(frozen=True)
class AdaBN(BatchStatistics):
    train: Train = "experiment"
    read: Read = "experiment"
