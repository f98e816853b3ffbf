"""Every kind of probe by its name, fitted to a protocol's rows and scored on all its roles."""

import dataclasses
import re
from collections.abc import Callable, Iterator

import numpy as np

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.accuracy import of_protocol
from rxrx_jax.evaluate.probes import absent, check_finite, lars, logistic, neighbours
from rxrx_jax.evaluate.probes.class_mean import nearest_mean

KINDS = ("logistic", "lars", "class_mean", "knn_1", "knn_10", "knn_20")  # knn_K for any K
PLAIN = "C_1"


@dataclasses.dataclass(frozen=True)
class Probe:
    """A fitted probe. logits: of features [n, D], float32 [n, classes]; about: what is recorded of the fit; beside:
    other probes of the same rows, by the name of their metrics."""

    logits: Callable[[np.ndarray], np.ndarray]
    about: dict[str, float | str] = dataclasses.field(default_factory=dict)
    beside: dict[str, "Probe"] = dataclasses.field(default_factory=dict)


def check(kind: str, key: str) -> str:
    """`kind`, if it is the name of one. Raises UserError, which names the setting `key`."""
    if kind in KINDS or re.fullmatch("knn_[1-9][0-9]{0,5}", str(kind)):
        return kind
    raise UserError(f"{key}={kind!r}: expected {', '.join(KINDS)} or another number of neighbours")


def fit(kind: str, features: np.ndarray, rows: np.ndarray, dataset) -> Probe:
    """A probe of features [n, D] of the dataset's `rows` [n], fitted to the labelled ones that the protocol fits on.

    The C of a logistic regression is the best on the rows whose role is validation, by the metric that the protocol
    chooses by; without labelled ones it is 1. No other held-out row takes part. It records C, C_chosen_on ("validation"
    or ""), converged (1 or 0), steps, and gradient, the largest entry of the mean loss's; and the same of C = 1, C_1.

    Raises UserError for features that are not finite, and where there is nothing to tell apart.
    """
    check_finite(features)
    label, classes = data.hide_labels(dataset.sites, dataset.roles.fit).label[rows], len(dataset.classes)
    given, labels = features[label >= 0], label[label >= 0]
    if not len(given):
        raise UserError("a probe needs training sites with labels, and there are none")
    if kind == "logistic":
        validate = _validation(features, rows, dataset)
        chosen, plain = logistic.choose(given, labels, validate)
        plain = _of(plain, classes)
        on = {"C_chosen_on": "validation" if validate else ""}
        return dataclasses.replace(_of(chosen, classes, on), beside={PLAIN: plain})
    if kind == "lars":
        logits = lars.fit(given, labels)
        right = logits(given, classes).argmax(1) == labels
        return Probe(lambda x: logits(x, classes), {"training_accuracy": float(right.mean())})
    if kind == "class_mean":
        return Probe(lambda x: nearest_mean(given, labels, x, classes))
    k = int(kind.removeprefix("knn_"))
    return Probe(lambda x: neighbours.votes(neighbours.nearest(given, x, k), labels, classes, k))


def in_words(probe: Probe) -> str:
    """What is recorded of a fit, in a line."""
    about = probe.about
    if "C" not in about:
        return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in about.items())
    chosen = {"validation": " chosen on validation", "": " as nothing is there to choose it on"}
    how = f"C = {about['C']:g}{chosen.get(about.get('C_chosen_on'), '')}"
    ends = f"{about['steps']} steps of L-BFGS, the gradient's largest entry {about['gradient']:.1e} per row"
    return f"{how}, {'converged' if about['converged'] else 'NOT CONVERGED'} after {ends}"


def score(
    name: str, features: np.ndarray, rows: np.ndarray, dataset, treatments: bool = False, kind: str = KINDS[0]
) -> Iterator[tuple[str, float | str]]:
    """What `fit` records, as `NAME/C` and so on, and `NAME/in_batch/...`, `NAME/validation/...`,
    `NAME/cross_batch/...`, for every scored role; and the same of what stands beside it, as `NAME/C_1/...`. Also
    NAME/ROLE/absent_classes and absent_sites, where some of the role are of classes without a fitted row."""
    probe = fit(kind, features, rows, dataset)
    labels, roles = dataset.sites.label, dataset.roles
    fitted = labels[np.intersect1d(rows, roles.fit)]
    for prefix, one in {name: probe, **{f"{name}/{of}": other for of, other in probe.beside.items()}}.items():
        yield from ((f"{prefix}/{key}", value) for key, value in one.about.items())
        for role, members in roles.scored.items():
            chosen = np.isin(rows, members)
            if chosen.any():
                missing = absent(fitted, labels[rows[chosen]])
                yield from ((f"{prefix}/{role}/{key}", value) for key, value in missing.items())
                yield from of_protocol(
                    f"{prefix}/{role}", one.logits(features[chosen]), rows[chosen], dataset, treatments
                )


def _of(model: logistic.Logistic, classes: int, more: dict[str, str] | None = None) -> Probe:
    about = {"C": model.strength, "converged": float(model.converged), "steps": model.steps, "gradient": model.gradient}
    return Probe(lambda x: model.log_probabilities(x, classes), about | (more or {}))


def _validation(features: np.ndarray, rows: np.ndarray, dataset) -> Callable[[logistic.Logistic], float] | None:
    """The validation accuracy of a logistic regression; None where no row of that role has a label."""
    members = dataset.roles.scored.get("validation", rows[:0])
    held = np.isin(rows, members) & (dataset.sites.label[rows] >= 0)
    if not held.any():
        return None
    metric = dataset.roles.scoring.chosen_by

    def validate(model):
        logits = model.log_probabilities(features[held], len(dataset.classes))
        return dict(of_protocol("of", logits, rows[held], dataset))[f"of/{metric}"]

    return validate
