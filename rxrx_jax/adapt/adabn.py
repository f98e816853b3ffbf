"""AdaBN: BatchNorm statistics of the domain that is being read (Li et al. 2016, arXiv 1603.04779).

Post hoc: any trained network, its statistics re-estimated on each experiment's unlabelled images before reading it.
Batch-pure: training minibatches come from one experiment (or plate) each as well, so that the network has only ever
seen statistics of one domain (Lin & Lu 2022, bioRxiv 2022.10.14.512286). Both are transductive.
"""

import jax

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError


def check(config: Config) -> None:
    """Batch-pure AdaBN needs minibatches of one group and evaluation by the same group."""
    if config.data.groups_per_minibatch != 1:
        raise UserError(f"adapt.name=adabn needs data.groups_per_minibatch=1, not {config.data.groups_per_minibatch}")
    if config.data.group not in config.evaluators.accuracy.statistics:
        raise UserError(f"adapt.name=adabn needs {config.data.group!r} in evaluators.accuracy.statistics")


def average_statistics(parts: list[tuple[float, dict]]) -> dict:
    """Pools BatchNorm statistics of minibatches: parts are (number of images, batch_stats tree with mean and var).

    The pooled variance is that of all images together: E[var + mean^2] - E[mean]^2.
    """
    total = sum(n for n, _ in parts)

    moments = [_each_norm(tree, lambda mean, var: (mean, var + mean**2)) for _, tree in parts]  # var: second moment
    pooled = jax.tree.map(lambda *xs: sum(n * x for (n, _), x in zip(parts, xs)) / total, *moments)
    return _each_norm(pooled, lambda mean, second: (mean, second - mean**2))


def _each_norm(tree: dict, function) -> dict:
    """The tree with function(mean, var) in place of every BatchNorm's mean and var."""
    if "mean" in tree and "var" in tree:
        return dict(zip(("mean", "var"), function(tree["mean"], tree["var"])))
    return {key: _each_norm(value, function) for key, value in tree.items()}
