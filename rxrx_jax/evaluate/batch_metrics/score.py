"""All batch metrics of an embedding, within each cell type, and the evaluator of that name."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import held_out_rows
from rxrx_jax.evaluate.batch_metrics import mixing, replicates, separation
from rxrx_jax.evaluate.batch_metrics.wells import Wells, of_sites
from rxrx_jax.maps import relate

KEY = "evaluators.batch_metrics.metrics"


def silhouette(wells: Wells) -> dict[str, float]:
    return {
        "silhouette_batch": separation.silhouette_batch(wells.x, wells.experiment, wells.perturbation),
        "silhouette_label": separation.silhouette_label(wells.x, wells.perturbation),
    }


def lisi(wells: Wells) -> dict[str, float]:
    near = mixing.nearest(wells.x)
    return {"ilisi": mixing.ilisi(near, wells.experiment), "clisi": mixing.clisi(near, wells.perturbation)}


def kbet(wells: Wells) -> dict[str, float]:
    return {"kbet": mixing.kbet(wells.x, wells.experiment, wells.perturbation)}


def pcr(wells: Wells) -> dict[str, float]:
    return {"pcr": separation.principal_component_regression(wells.x, wells.experiment)}


def consistency(wells: Wells) -> dict[str, float]:
    treated = wells.take(~wells.untreated)
    return replicates.consistency(unit(treated), treated.perturbation, treated.experiment, treated.plate)


def average_precision(wells: Wells) -> dict[str, float]:
    about = wells.perturbation, wells.experiment, wells.plate, wells.untreated
    return replicates.mean_average_precision(unit(wells), *about)


def unit(wells: Wells) -> np.ndarray:
    return relate.unit(wells.x, lambda i: f"the embedding of well {wells.name[i]}")


METRICS: dict[str, Callable[[Wells], dict[str, float]]] = {
    "silhouette": silhouette,
    "lisi": lisi,
    "kbet": kbet,
    "pcr": pcr,
    "consistency": consistency,
    "average_precision": average_precision,
}
OF_REPLICATES = ("consistency", "average_precision")  # they have nulls of their own, and need plates and types of wells


def evaluate(context, metrics=tuple(METRICS)) -> Iterator[tuple[str, float | str]]:
    """`batch_metrics/silhouette_batch` and so on, as `score` has them, of the wells of all experiments; as
    `NAME/batch_metrics/...` also with each method NAME of `config.post_hoc`. metrics: those of METRICS to compute."""
    for reading, method in context.readings.items():
        name = f"{reading}/batch_metrics" if reading else "batch_metrics"
        rows, features = context.embeddings(reading)
        yield from score(name, of_sites(features, rows, context.dataset), check(metrics, KEY), context.dataset)
        held_out = np.intersect1d(rows, held_out_rows(context.dataset))
        extra = method.needs.marks(data.untreated(context.dataset.sites)[held_out]) if reading else ""
        yield f"marks/{name}", context.marks(held_out, extra)


def check(metrics: Sequence[str], key: str) -> tuple[str, ...]:
    """The names as a tuple. Raises UserError, naming the key, for one that is not of METRICS."""
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if unknown := [name for name in names if name not in METRICS]:
        raise UserError(f"{key}={unknown[0]!r}: expected some of {', '.join(METRICS)}")
    return names


def score(name: str, wells: Wells, metrics: Sequence[str], dataset, seed: int = 0) -> Iterator[tuple[str, float]]:
    """NAME/KEY of each metric, the mean over cell types weighted by their wells, and NAME/KEY/CELL_TYPE; of those
    without a null of their own also KEY_shuffled, the same of embeddings shuffled among the wells of the cell type,
    which is what an embedding gives that tells nothing. NAME/wells: how many were compared.

    A cell type of one experiment has nothing to compare and is left out, as is a number that is not defined.
    Args: dataset, for the names of experiments and cell types.
    Raises UserError where no cell type has two experiments, and as `check_controls` does.
    """
    several = [c for c in np.unique(wells.cell_type) if len(np.unique(wells.experiment[wells.cell_type == c])) > 1]
    wells = wells.take(np.isin(wells.cell_type, several))
    if not several:
        raise UserError("batch_metrics compares experiments of one cell type, and no cell type has two with known "
                        "perturbations: leave it out")  # fmt: skip
    check_controls(wells, metrics, dataset)
    found: dict[str, dict[int, float]] = {}
    for cell_type in several:
        own = wells.take(wells.cell_type == cell_type)
        shuffled = dataclasses.replace(own, x=np.random.default_rng(seed).permutation(own.x))
        for metric in metrics:
            values = METRICS[metric](own)
            if metric not in OF_REPLICATES:
                values |= {f"{key}_shuffled": value for key, value in METRICS[metric](shuffled).items()}
            for key, value in values.items():
                if np.isfinite(value):
                    found.setdefault(key, {})[cell_type] = value
    yield f"{name}/wells", len(wells)
    size = np.bincount(wells.cell_type)
    for key, values in found.items():
        yield f"{name}/{key}", float(np.average(list(values.values()), weights=size[list(values)]))
        yield from ((f"{name}/{key}/{dataset.cell_types[c]}", value) for c, value in values.items())


def check_controls(wells: Wells, metrics: Sequence[str], dataset) -> None:
    """Raises UserError where one of the metrics needs plates or types of wells and the table has none, and for an
    experiment without untreated wells where they are what it is compared with."""
    for metric in (metric for metric in OF_REPLICATES if metric in metrics):
        for column, values in (("plate", wells.plate), ("well_type", wells.untreated)):
            if values is None:
                raise UserError(f"{metric} needs a column {column}, and the embeddings have none: choose other metrics")
    if "average_precision" not in metrics:
        return
    if len(lacking := np.setdiff1d(wells.experiment, wells.experiment[wells.untreated])):
        more = f" and {len(lacking) - 1} others" if len(lacking) > 1 else ""
        raise UserError(f"experiment {dataset.experiments[lacking[0]]}{more} has no untreated well (negative_control) "
                        "for average_precision to compare with: choose other metrics")  # fmt: skip
