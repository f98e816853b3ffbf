"""What evaluators of molecules work with, and the evaluators: masked environments, and properties."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from rxrx_jax.adapt.method import Network
from rxrx_jax.base.sharding import replicated, to_device
from rxrx_jax.data.molecules import evaluation_minibatches
from rxrx_jax.data.molecules.library import Library
from rxrx_jax.evaluate.predict import Evaluated

COUNTED = 20_000  # training molecules, at most, of which labels are counted


@dataclasses.dataclass
class MoleculeContext(Evaluated):
    """Of a library."""

    task: object
    dataset: Library
    mesh: jax.sharding.Mesh
    minibatch: int
    workdir: epath.Path
    seed: int
    ledger: object = None
    network: Network | None = None
    between: Callable = lambda: None  # called between minibatches

    def scored(self, rows: np.ndarray, *more) -> dict[str, np.ndarray]:
        """What the task's `scored(params, columns, keys, *more)` gives for each of rows [n], in order, [n, ...] each.
        A molecule's key is of its row, so that it is the same at every evaluation and in any minibatch."""
        found = {}
        for places, columns in evaluation_minibatches(self.dataset, rows, self.minibatch):
            self.between()
            index = np.zeros(self.minibatch, np.uint32)
            index[: len(places)] = rows[places]
            part = self._scored(self.network.params, to_device(columns, self.mesh), index, *more)
            for name, values in part.items():
                values = np.asarray(values)
                whole = found.setdefault(name, np.zeros((len(rows), *values.shape[1:]), values.dtype))
                whole[places] = values[: len(places)]
        return found

    @functools.cached_property
    def _scored(self):
        def run(params, columns, index, *more):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.seed), index)
            return self.task.scored(params, columns, keys, *more)

        return jax.jit(run, out_shardings=replicated(self.mesh))

    def seen(self, rows: np.ndarray) -> int:
        """How many of rows [n] an earlier stage had among its training molecules."""
        return len(self.ledger.hits("images", rows)) if self.ledger else 0


def make_context(config, source, step, shared: dict) -> MoleculeContext:
    """As `predict.make_context`."""
    del config
    return MoleculeContext(step.task, source.dataset, **shared)


def environments(context) -> Iterator[tuple[str, float]]:
    """Of hidden atoms of each scored split, `masked_accuracy` of those with a known label, that of the most frequent
    label of the atom's token in training molecules, and the share whose label is not known."""
    usual = jnp.asarray(most_frequent(context.dataset, context.seed))
    for split, rows in context.dataset.roles.scored.items():
        if len(rows):
            total = {name: int(x.sum()) for name, x in context.scored(rows, usual).items()}
            known = max(total["known"], 1)
            yield f"{split}/masked_accuracy", total["right"] / known
            yield f"{split}/most_frequent_label_accuracy", total["usual"] / known
            yield f"{split}/unknown_labels", 1 - total["known"] / max(total["chosen"], 1)
            yield f"{split}/seen_before", context.seen(rows)


def most_frequent(library: Library, seed: int) -> np.ndarray:
    """The most frequent known label of each token in up to COUNTED training molecules, 0 for a token without any: int32
    [tokens]."""
    rows = np.random.default_rng(seed).permutation(library.roles.fit)[:COUNTED]
    pairs = np.zeros(0, np.int64)
    for start in range(0, len(rows), 1000):
        records = library.read(rows[start : start + 1000])
        tokens, labels = (np.concatenate([getattr(r, name) for r in records]).astype(np.int64)
                          for name in ("tokens", "labels"))  # fmt: skip
        pairs = np.concatenate([pairs, (tokens * library.labels + labels)[labels > 0]])
    kinds, counts = np.unique(pairs, return_counts=True)
    found = np.zeros(library.tokens, np.int32)
    order = np.argsort(counts, kind="stable")  # the most frequent last
    found[kinds[order] // library.labels] = kinds[order] % library.labels
    return found


def properties(context, metrics=()) -> Iterator[tuple[str, float]]:
    """Of each scored split the metrics of every target and their mean over targets, as `molecules.metrics` has them:
    those named, by default mae, rmse and spearman of numbers and auroc and auprc of classes; null where undefined.
    `loss` is that of training, and `score`, exp(-loss), what a best evaluation is chosen by."""
    from rxrx_jax.molecules.metrics import CLASSIFICATION, METRICS, scores

    library = context.dataset
    for split, rows in library.roles.scored.items():
        if not len(rows):
            continue
        found, targets = context.scored(rows), library.targets_of(rows)
        loss = float(found["losses"].sum(dtype=np.float64) / max((~np.isnan(targets)).sum(), 1))
        yield f"{split}/loss", loss
        yield f"{split}/score", float(np.exp(-loss))
        yield f"{split}/seen_before", context.seen(rows)
        for metric in metrics or METRICS:
            kind = "classification" if metric in CLASSIFICATION else "regression"
            which = [i for i, k in enumerate(library.kinds) if k == kind]
            if not which and not metrics:
                continue
            names = [library.targets[i] for i in which]
            values = scores(metric, targets[:, which], found["predicted"][:, which], names)
            yield f"{split}/{metric}", values.mean
            for name in names if len(names) > 1 else ():
                yield f"{split}/{metric}/{name}", values.values.get(name, float("nan"))
