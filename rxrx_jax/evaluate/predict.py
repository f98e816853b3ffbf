"""What every evaluator works with: predictions of a state for rows of the dataset, each row exactly once."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from rxrx_jax import adapt, data
from rxrx_jax.adapt.method import Group, Method, Network
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import replicated, to_device
from rxrx_jax.data.augment import Augment
from rxrx_jax.data.roles import Roles, show_controls


class Evaluated:
    """What every evaluator works with and the loop relies on: the state that is evaluated, as `network`; rows that are
    scored; and what the parameters have seen of the dataset, as `ledger` knows it
    (`training.provenance.marks.Ledger`)."""

    ledger = network = None
    left_out = frozenset()  # rows whose records could not be read

    @property
    def roles(self) -> Roles:
        """Of the dataset; nothing is scored without one."""
        return self.dataset.roles if hasattr(self, "dataset") else Roles()

    def use(self, state, between: Callable = lambda: None):
        """The context of another state; `between` is called between minibatches."""
        self.network, self.between = Network(*state.network()), between
        return self

    def marks(self, where, extra: str = "", trained: bool = True) -> str:
        """The marks (T, C, X, ?) of metrics of `where`, "cross_batch" or rows [n]. An evaluator with something to add
        yields them as `marks/PREFIX`; all other prefixes get theirs automatically. Args: extra, "T" for what uses
        unlabelled test images; trained, False for what does not use this state's parameters."""
        return self.ledger.marks(where, extra, trained) if self.ledger else extra


@dataclasses.dataclass
class Context(Evaluated):
    """Of images: task, dataset, augment (with its statistics) and mesh of a run, and the size of evaluation
    minibatches. Rows whose records cannot be read are left out of every prediction, and `left_out` holds
    those of this state; more than `unreadable` of them raise UserError, on all hosts alike."""

    task: object
    readings: dict[str, Method]  # by the prefix of their metrics: "" for the run's own method, then those post hoc
    dataset: data.Dataset
    augment: Augment
    statistics: dict[str, np.ndarray]
    mesh: jax.sharding.Mesh
    minibatch: int
    workdir: epath.Path
    seed: int
    network: Network | None = None
    between: Callable = lambda: None  # called between minibatches
    unreadable: int = 0
    ledger: object = None

    def __post_init__(self):
        self._cache, self.left_out = {}, set()

    def use(self, state, between: Callable = lambda: None) -> "Context":
        """The context of another state; predictions of the former one are discarded."""
        self.__post_init__()
        return super().use(state, between)

    def predict(self, role: str, reading: str = "") -> dict[str, np.ndarray]:
        """Outputs of the task (`row` [n] and what it predicts) for the rows that the protocol scores as `role`, or for
        all that it does not score where this is "", cached for this state, as one of the `readings` has it."""
        if (role, reading) not in self._cache:
            scored = self.dataset.roles.scored
            every = np.arange(len(self.dataset.sites))
            rows = scored[role] if role else every[~np.isin(every, np.concatenate([every[:0], *scored.values()]))]
            self._cache[role, reading] = self._read(self.readings[reading], rows)
        return self._cache[role, reading]

    def embeddings(self, reading: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Rows [n], sorted, and embeddings [n, D] of every site of the dataset, for this state."""
        parts = [self.predict(role, reading) for role in ("", *self.dataset.roles.scored)]
        parts = [part for part in parts if len(part["row"])]
        rows, embedding = (np.concatenate([part[key] for part in parts]) for key in ("row", "embedding"))
        order = np.argsort(rows)
        return rows[order], embedding[order]

    def _read(self, method: Method, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of a method's `at_test` for rows [n], in order."""
        sites = self.dataset.sites
        of = getattr(sites, method.read_by) if method.read_by else np.zeros(len(sites), np.int64)
        controls, groups = data.untreated(sites), []
        table = show_controls(sites, told=method.needs.controls), self.dataset.roles
        for g in np.unique(of[rows]):
            of_group = np.flatnonzero(of == g), self.minibatch, np.flatnonzero((of == g) & controls), *table
            groups.append(Group(rows[of[rows] == g], *of_group))
        groups = groups or [Group(rows, rows, self.minibatch, rows, *table)]
        found = [method.at_test(self, self.network, group) for group in groups]
        order = np.argsort(np.concatenate([f["row"] for f in found]), kind="stable")
        return {key: np.concatenate([f[key] for f in found])[order] for key in found[0]}

    def __call__(self, network: Network, rows: np.ndarray, tokens: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Outputs of the task by any network: each of `rows` [n] that can be read once, in order, and `row`. Args:
        tokens [M, D], which every image gets beside its patches."""
        given = {} if tokens is None else {"tokens": tokens}
        found, readable = self._collect(self._predict, rows, network.params, network.batch_stats, given)
        if readable.all():
            return found | {"row": rows}
        return {key: values[readable] for key, values in found.items()} | {"row": rows[readable]}

    def batch_statistics(self, network: Network, rows: np.ndarray) -> dict:
        """BatchNorm statistics of exactly the images of rows [n], as if they were one minibatch; the network's own
        where none of them can be read."""
        parts = []
        minibatches = data.evaluation_minibatches(
            self.dataset, rows, self.minibatch, self.augment.evaluation_crop, True
        )
        for number, minibatch in enumerate(minibatches):
            self.between()
            found, valid = self._statistics(*network, to_device(minibatch, self.mesh), self.statistics)
            here = rows[number * self.minibatch :][: self.minibatch]  # images of all hosts
            readable = np.asarray(valid)[: len(here)]
            self.leave_out(here[~readable])
            if readable.any():
                parts.append((int(readable.sum()), found))
        return average_statistics(parts) if parts else network.batch_stats

    def patches(self, network: Network, rows: np.ndarray) -> np.ndarray:
        """The mean of the patch tokens, before any block, of the images of rows [n]: [D]."""
        found, readable = self._collect(self._patches, rows, network.params)
        return found["patches"][readable].sum(0) / max(readable.sum(), 1)

    def logits(self, network: Network, features: np.ndarray) -> np.ndarray:
        """What the classifier's head gives for features [n, D] as `embedding` is: float32 [n, K]."""
        features = np.asarray(features, np.float32)
        return np.asarray(self._logits(network.params, network.batch_stats, features), np.float32)

    def of_images(self, function, rows: np.ndarray, *arguments) -> dict[str, np.ndarray]:
        """What function(images [B, S, S, C], *arguments), compiled here, gives for each of `rows` [n] once, in order: a
        dict of arrays [B, ...] there, [n, ...] here, held on the host alone; {} without rows. Images are normalised.
        The rows are those of a prediction: UserError if one cannot be read after all."""

        def run(*arguments_and_minibatch):
            *arguments, minibatch, statistics = arguments_and_minibatch
            return function(self.augment.evaluation(minibatch, statistics), *arguments), minibatch["valid"]

        found, readable = self._collect(jax.jit(run, out_shardings=replicated(self.mesh)), rows, *arguments)
        if not readable.all():
            raise UserError(f"{data.describe_record(self.dataset, rows[~readable][0])} can no longer be read")
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

        late = None  # copied one minibatch late, so that the device does not wait for the copy
        minibatches = data.evaluation_minibatches(
            self.dataset, rows, self.minibatch, self.augment.evaluation_crop, True
        )
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
        """Counts rows whose records could not be read. Raises UserError when there are too many."""
        self.left_out.update(rows.tolist())
        if len(self.left_out) > self.unreadable:
            raise UserError(
                f"{len(self.left_out)} records cannot be read and evaluated, among them "
                f"{data.describe_record(self.dataset, rows[0])}: rebuild the dataset, or allow more than "
                f"data.unreadable={self.unreadable}"
            )

    @functools.cached_property
    def _predict(self):
        def run(params, batch_stats, given, minibatch, statistics):
            images = self.augment.evaluation(minibatch, statistics)
            if getattr(self.task, "context", 0):
                given = given | {"context": minibatch["context"]}
            return self.task.predict(params, batch_stats, images, minibatch["valid"], **given), minibatch["valid"]

        return jax.jit(run, out_shardings=replicated(self.mesh))

    @functools.cached_property
    def _patches(self):
        def run(params, minibatch, statistics):
            images = self.augment.evaluation(minibatch, statistics)
            return {"patches": self.task.patches(params, images)}, minibatch["valid"]

        return jax.jit(run, out_shardings=replicated(self.mesh))

    @functools.cached_property
    def _logits(self):
        return jax.jit(self.task.logits, out_shardings=replicated(self.mesh))

    @functools.cached_property
    def _statistics(self):
        def run(params, batch_stats, minibatch, statistics):
            images = self.augment.evaluation(minibatch, statistics)
            valid = minibatch["valid"]
            return self.task.minibatch_statistics(params, batch_stats, images, valid), valid

        return jax.jit(run, out_shardings=replicated(self.mesh))


def make_context(config: Config, source, step, shared: dict) -> Context:
    """Args: source, with a dataset; step, of which `task` and `has_batch_norm` are asked; shared, mesh, minibatch,
    workdir, seed and ledger. Raises UserError for what the config reads the images by and cannot."""
    readings = make_readings(config, step.task.method, source.shares, step.has_batch_norm)
    for name, method in readings.items():
        key = f"post_hoc.{name}" if name else "adapt.name"
        adapt.check_controls(key, method, source.dataset, classifies=hasattr(step.task, "logits"))
    return Context(
        task=step.task,
        readings=readings,
        dataset=source.dataset,
        augment=source.augment,
        statistics=source.constants,
        unreadable=config.data.unreadable,
        **shared,
    )


def make_readings(config: Config, method: Method, shares: dict, has_batch_norm: bool) -> dict[str, Method]:
    """How the network predicts, by the prefix of the metrics: "" by the run's own method, NAME by each of
    `config.post_hoc`. Raises UserError where one of these cannot be applied to this model."""
    readings = {"": method}
    for name in config.post_hoc if "post_hoc" in config else ():
        settings = getattr(config.post_hoc, name).as_kwargs()
        readings[name] = adapt.make_method(settings, shares, key=f"post_hoc.{name}")
        adapt.check_post_hoc(name, readings[name], has_batch_norm)
    return readings


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
