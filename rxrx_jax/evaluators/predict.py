"""What every evaluator works with: predictions of a state for rows of the dataset, each row exactly once."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from rxrx_jax import data
from rxrx_jax.adapt.adabn import average_statistics
from rxrx_jax.augment import Augment
from rxrx_jax.sharding import replicated, to_device

# Where a split's experiments stand in relation to training, as metrics are named.
SPLIT_NAMES = {"id_test": "in_batch", "val": "validation", "test": "cross_batch"}


@dataclasses.dataclass
class Context:
    """task, dataset, augment (with its statistics) and mesh of a run, the state that is evaluated, and the size of
    evaluation minibatches."""

    task: object
    dataset: data.Dataset
    augment: Augment
    statistics: dict[str, np.ndarray]
    mesh: jax.sharding.Mesh
    minibatch: int
    workdir: pathlib.Path
    seed: int
    params: object = None
    batch_stats: object = None

    def __post_init__(self):
        self._cache = {}

    def use(self, state) -> "Context":
        """The context of another state; predictions of the former one are forgotten."""
        self.params, self.batch_stats, self._cache = state.params, state.batch_stats, {}
        return self

    def predict(self, split: str, statistics: str = "running") -> dict[str, np.ndarray]:
        """Outputs of the task for a split's rows (`row` [n] and what the task predicts), remembered for this state.

        statistics: "running", or "experiment" or "plate" for BatchNorm statistics re-estimated on all images of each
        (AdaBN, transductive).
        """
        if (split, statistics) not in self._cache:
            rows = data.select(self.dataset, splits=split)
            run = functools.partial(self.outputs, self.params, self.batch_stats)
            self._cache[split, statistics] = run(rows) if statistics == "running" else self._by_group(rows, statistics)
        return self._cache[split, statistics]

    def embeddings(self, statistics: str = "running") -> tuple[np.ndarray, np.ndarray]:
        """Rows [n] and embeddings [n, D] of every site of the dataset, for this state."""
        parts = [self.predict(split, statistics) for split in data.SPLITS]
        parts = [part for part in parts if len(part["row"])]
        return np.concatenate([p["row"] for p in parts]), np.concatenate([p["embedding"] for p in parts])

    def outputs(self, params, batch_stats, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the task under any parameters: each of `rows` [n] once, in order."""
        return self._collect(self._predict, rows, params, batch_stats) | {"row": rows}

    def of_images(self, function, rows: np.ndarray, *arguments) -> dict[str, np.ndarray]:
        """What function(images [B, S, S, C], *arguments), compiled here, gives for each of `rows` [n] once, in order: a
        dict of arrays [B, ...] there, [n, ...] here, held on the host alone; {} without rows. Images are normalised."""

        def run(*arguments_and_minibatch):
            *arguments, minibatch, statistics = arguments_and_minibatch
            return function(self.augment.evaluation(minibatch, statistics), *arguments)

        return self._collect(jax.jit(run, out_shardings=replicated(self.mesh)), rows, *arguments)

    def _collect(self, run, rows, *arguments):
        out = {}

        def keep(start, part):
            for key, value in part.items():
                value = np.asarray(value)[: len(rows) - start]
                whole = out.setdefault(key, np.empty((len(rows), *value.shape[1:]), value.dtype))
                whole[start : start + len(value)] = value

        late = None  # copied one minibatch late, so that the device does not wait for it
        minibatches = data.evaluation_minibatches(self.dataset, rows, self.minibatch, self.augment.crop)
        for number, minibatch in enumerate(minibatches):
            part = run(*arguments, to_device(minibatch, self.mesh), self.statistics)
            if late:
                keep(*late)
            late = number * self.minibatch, part
        if late:
            keep(*late)
        return out

    def _by_group(self, rows, group):
        groups = getattr(self.dataset.sites, group)
        found = []
        for g in np.unique(groups[rows]):
            parts = []
            members = np.flatnonzero(groups == g)
            for minibatch in data.evaluation_minibatches(self.dataset, members, self.minibatch, self.augment.crop):
                count, found_here = self._batch_statistics(
                    self.params, self.batch_stats, to_device(minibatch, self.mesh), self.statistics
                )
                parts.append((int(count), found_here))  # images of all hosts
            found.append(self.outputs(self.params, average_statistics(parts), rows[groups[rows] == g]))
        order = np.argsort(np.concatenate([f["row"] for f in found]), kind="stable")
        return {key: np.concatenate([f[key] for f in found])[order] for key in found[0]}

    @functools.cached_property
    def _predict(self):
        def run(params, batch_stats, minibatch, statistics):
            images = self.augment.evaluation(minibatch, statistics)
            return self.task.predict(params, batch_stats, images, minibatch["valid"])

        return jax.jit(run, out_shardings=replicated(self.mesh))

    @functools.cached_property
    def _batch_statistics(self):
        def run(params, batch_stats, minibatch, statistics):
            images = self.augment.evaluation(minibatch, statistics)
            valid = minibatch["valid"]
            return valid.sum(), self.task.minibatch_statistics(params, batch_stats, images, valid)

        return jax.jit(run, out_shardings=replicated(self.mesh))
