"""What evaluators of molecules work with, and the evaluators: masked environments, and properties."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from rxrx_jax.adapt.method import Network
from rxrx_jax.base import hosts
from rxrx_jax.base.sharding import replicated, to_device
from rxrx_jax.data.molecules import evaluation_minibatches
from rxrx_jax.data.molecules.library import Library
from rxrx_jax.evaluate.predict import Evaluated

COUNTED = 20_000  # training molecules, at most, of which labels are counted
CONSISTENT = 0.3  # mean cosine of two replicates of a compound at a dose, from which it is a query
TOP = (1, 5)  # percent
RIDGE = 10.0
SHOWN = 3  # targets whose metric is undefined and that are named


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
    kept: dict = dataclasses.field(default_factory=dict)  # of evaluators, what is the same for every network

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
    those named, by default mae, rmse and spearman of numbers and auroc and auprc of classes; null where undefined,
    which is said once with the reason. `loss` is that of training, and `score`, exp(-loss), what a best evaluation is
    chosen by."""
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
            say_undefined(context, f"{split}/{metric}", values.undefined)
            yield f"{split}/{metric}", values.mean
            for name in names if len(names) > 1 else ():
                yield f"{split}/{metric}/{name}", values.values.get(name, float("nan"))


def say_undefined(context, metric: str, undefined: dict[str, str]) -> None:
    """Names the targets of which a metric is undefined, and why: {target: reason}. The same is said once in a run."""
    if not undefined:
        return
    shown = "; ".join(f"{name}: {why}" for name, why in list(undefined.items())[:SHOWN])
    more = f"; and {len(undefined) - SHOWN} more" if len(undefined) > SHOWN else ""
    line = f"{metric} is undefined and left out of the mean for {len(undefined)} targets ({shown}{more})"
    if context.kept.get(("undefined", metric)) != line:
        context.kept["undefined", metric] = line
        hosts.say(line)


def retrieval(context, baselines=True) -> Iterator[tuple[str, float]]:
    """Zero-shot retrieval in each scored split: for a molecule at a dose the share of queries whose own wells are
    among the most alike 1 % and 5 % of all molecules and doses of the split, over the queries that are as sure as their
    replicates' mean cosine, CONSISTENT, says; `/inactive` is over the others, of which nothing is to be found.

    baselines: also of chance, of the dose alone, and of embeddings that Morgan fingerprints predict, by a ridge
    regression or as those of the nearest training molecule; and of a simulated screen's truth.
    """
    library = context.dataset
    for split, rows in library.roles.scored.items():
        if not len(rows):
            continue
        parts = [context.scored(rows, jnp.int32(dose)) for dose in range(len(library.doses))]
        ours, theirs, weight = (np.stack([part[name] for part in parts], 1) for name in ("molecule", "wells", "weight"))
        there = weight >= 0  # [rows, doses]
        sure = weight[there] >= CONSISTENT
        yield f"{split}/candidates", int(there.sum())
        yield f"{split}/queries", int(sure.sum())
        found = {"": (ours[there], theirs[there])}
        if baselines:
            measured = library.screened[rows][..., :-1]
            if split not in context.kept:
                context.kept[split] = predicted_wells(library, rows)
            predicted = context.kept[split]
            found |= {f"{name}/": (x[there], measured[there]) for name, x in predicted.items()}
            for top in TOP:
                yield f"{split}/chance/top_{top}_percent", -(-int(there.sum()) * top // 100) / max(int(there.sum()), 1)
        for name, (query, candidates) in found.items():
            rank = ranks(query, candidates)
            for top in TOP:
                inside = rank < -(-len(rank) * top // 100)
                yield f"{split}/{name}top_{top}_percent", _mean(inside[sure])
                if not name:
                    yield f"{split}/inactive/top_{top}_percent", _mean(inside[~sure])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def ranks(query: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """How many of the candidates [n, d] are more alike to each query [n, d], by the cosine, than its own, which has the
    same place; of equal ones half count: [n]."""
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (query, candidates)]
    out = np.zeros(len(query))
    for start in range(0, len(query), 1024):
        cosine = unit[0][start : start + 1024] @ unit[1].T
        own = np.diagonal(cosine[:, start:])[:, None]
        out[start : start + 1024] = (cosine > own).sum(1) + ((cosine == own).sum(1) - 1) / 2
    return out


def predicted_wells(library, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Embeddings [n, doses, d] of the wells of rows [n] as simple models predict them from the training molecules."""
    fit = library.roles.fit
    wells, weight = library.screened[..., :-1], np.nan_to_num(library.screened[..., -1])
    mean = np.nanmean(wells[fit], 0)
    found = {"dose": np.broadcast_to(mean, wells[rows].shape)}
    if library.truth is not None:
        found["oracle"] = library.truth[rows]
    if library.smiles is None:
        return found
    from sklearn.linear_model import Ridge

    from rxrx_jax.molecules import fingerprints

    x = fingerprints.morgan(library.smiles.tolist())
    screened = fit[np.isfinite(wells[fit]).all((1, 2))]
    ridge = np.zeros(wells[rows].shape)
    for dose in range(len(library.doses)):
        model = Ridge(RIDGE).fit(x[screened], wells[screened, dose], sample_weight=weight[screened, dose] + 1e-3)
        ridge[:, dose] = model.predict(x[rows])
    nearest = fingerprints.tanimoto(x[rows], x[screened]).argmax(1)
    return found | {"ridge": ridge, "nearest": wells[screened[nearest]]}
