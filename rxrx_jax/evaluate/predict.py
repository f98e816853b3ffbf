"""What every evaluator works with: predictions of a state for rows of the dataset, each row exactly once."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from rxrx_jax import data
from rxrx_jax.adapt.adabn import average_statistics
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import replicated, to_device
from rxrx_jax.data.augment import Augment


def prefix(evaluator: str, statistics: str) -> str:
    """What the names of metrics begin with that an evaluator reads with these statistics. Raises UserError."""
    if statistics not in ("running", "experiment", "plate"):
        raise UserError(f"evaluators.{evaluator}.statistics={statistics!r}: expected running, experiment or plate")
    return "" if statistics == "running" else f"adabn_{statistics}/"


@dataclasses.dataclass
class Context:
    """task, dataset, augment (with its statistics) and mesh of a run, the state that is evaluated, and the size of
    evaluation minibatches. Rows whose records cannot be read are left out of every prediction, and `left_out` holds
    those of this state; more than `unreadable` of them raise UserError, on all hosts alike."""

    task: object
    dataset: data.Dataset
    augment: Augment
    statistics: dict[str, np.ndarray]
    mesh: jax.sharding.Mesh
    minibatch: int
    workdir: epath.Path
    seed: int
    params: object = None
    batch_stats: object = None
    between: Callable = lambda: None  # called between minibatches
    unreadable: int = 0

    def __post_init__(self):
        self._cache, self.left_out = {}, set()

    def use(self, state, between: Callable = lambda: None) -> "Context":
        """The context of another state; predictions of the former one are forgotten."""
        self.params, self.batch_stats, self.between = state.params, state.batch_stats, between
        self.__post_init__()
        return self

    def predict(self, role: str, statistics: str = "running") -> dict[str, np.ndarray]:
        """Outputs of the task (`row` [n] and what it predicts) for the rows that the protocol scores as `role`, or for
        all that it does not score where this is "", remembered for this state.

        statistics: "running", or "experiment" or "plate" for BatchNorm statistics re-estimated on all images of each
        (AdaBN, transductive).
        """
        if (role, statistics) not in self._cache:
            scored = self.dataset.roles.scored
            every = np.arange(len(self.dataset.sites))
            rows = scored[role] if role else every[~np.isin(every, np.concatenate([every[:0], *scored.values()]))]
            run = functools.partial(self.outputs, self.params, self.batch_stats)
            self._cache[role, statistics] = run(rows) if statistics == "running" else self._by_group(rows, statistics)
        return self._cache[role, statistics]

    def embeddings(self, statistics: str = "running") -> tuple[np.ndarray, np.ndarray]:
        """Rows [n], sorted, and embeddings [n, D] of every site of the dataset, for this state."""
        parts = [self.predict(role, statistics) for role in ("", *self.dataset.roles.scored)]
        parts = [part for part in parts if len(part["row"])]
        rows, embedding = (np.concatenate([part[key] for part in parts]) for key in ("row", "embedding"))
        order = np.argsort(rows)
        return rows[order], embedding[order]

    def outputs(self, params, batch_stats, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the task under any parameters: each of `rows` [n] that can be read once, in order."""
        found, readable = self._collect(self._predict, rows, params, batch_stats)
        if readable.all():
            return found | {"row": rows}
        return {key: values[readable] for key, values in found.items()} | {"row": rows[readable]}

    def of_images(self, function, rows: np.ndarray, *arguments) -> dict[str, np.ndarray]:
        """What function(images [B, S, S, C], *arguments), compiled here, gives for each of `rows` [n] once, in order: a
        dict of arrays [B, ...] there, [n, ...] here, held on the host alone; {} without rows. Images are normalised.
        The rows are those of a prediction: UserError if one cannot be read after all."""

        def run(*arguments_and_minibatch):
            *arguments, minibatch, statistics = arguments_and_minibatch
            return function(self.augment.evaluation(minibatch, statistics), *arguments), minibatch["valid"]

        found, readable = self._collect(jax.jit(run, out_shardings=replicated(self.mesh)), rows, *arguments)
        if not readable.all():
            raise UserError(f"{data.describe_record(self.dataset, rows[~readable][0])} cannot be read any more")
        return found

    def _collect(self, run, rows, *arguments):
        """What run(*arguments, minibatch, statistics) -> (dict of arrays [B, ...], valid [B]) gives for each of `rows`:
        a dict of arrays [n, ...], and which of the rows could be read, bool [n]."""
        out, readable = {}, np.ones(len(rows), bool)

        def keep(start, part, valid):
            readable[start : start + self.minibatch] = np.asarray(valid)[: len(rows) - start]
            for key, value in part.items():
                value = np.asarray(value)[: len(rows) - start]
                whole = out.setdefault(key, np.empty((len(rows), *value.shape[1:]), value.dtype))
                whole[start : start + len(value)] = value

        late = None  # copied one minibatch late, so that the device does not wait for it
        minibatches = data.evaluation_minibatches(self.dataset, rows, self.minibatch, self.augment.crop, True)
        for number, minibatch in enumerate(minibatches):
            self.between()
            part = run(*arguments, to_device(minibatch, self.mesh), self.statistics)
            if late:
                keep(*late)
            late = number * self.minibatch, *part
        if late:
            keep(*late)
        self.leave_out(rows[~readable])
        return out, readable

    def leave_out(self, rows: np.ndarray) -> None:
        """Counts rows whose records could not be read. Raises UserError when that makes too many."""
        self.left_out.update(rows.tolist())
        if len(self.left_out) > self.unreadable:
            raise UserError(
                f"{len(self.left_out)} records cannot be read and evaluated, among them "
                f"{data.describe_record(self.dataset, rows[0])}: prepare the dataset again, or allow more than "
                f"data.unreadable={self.unreadable}"
            )

    def _by_group(self, rows, group):
        groups = getattr(self.dataset.sites, group)
        found = []
        for g in np.unique(groups[rows]):
            parts = []
            members = np.flatnonzero(groups == g)
            minibatches = data.evaluation_minibatches(self.dataset, members, self.minibatch, self.augment.crop, True)
            for number, minibatch in enumerate(minibatches):
                self.between()
                found_here, valid = self._batch_statistics(
                    self.params, self.batch_stats, to_device(minibatch, self.mesh), self.statistics
                )
                here = members[number * self.minibatch :][: self.minibatch]  # images of all hosts
                readable = np.asarray(valid)[: len(here)]
                self.leave_out(here[~readable])
                if readable.any():  # without an image there are no statistics
                    parts.append((int(readable.sum()), found_here))
            if parts:
                found.append(self.outputs(self.params, average_statistics(parts), rows[groups[rows] == g]))
        if not found:
            return {"row": rows[:0]}
        order = np.argsort(np.concatenate([f["row"] for f in found]), kind="stable")
        return {key: np.concatenate([f[key] for f in found])[order] for key in found[0]}

    @functools.cached_property
    def _predict(self):
        def run(params, batch_stats, minibatch, statistics):
            images = self.augment.evaluation(minibatch, statistics)
            return self.task.predict(params, batch_stats, images, minibatch["valid"]), minibatch["valid"]

        return jax.jit(run, out_shardings=replicated(self.mesh))

    @functools.cached_property
    def _batch_statistics(self):
        def run(params, batch_stats, minibatch, statistics):
            images = self.augment.evaluation(minibatch, statistics)
            valid = minibatch["valid"]
            return self.task.minibatch_statistics(params, batch_stats, images, valid), valid

        return jax.jit(run, out_shardings=replicated(self.mesh))
