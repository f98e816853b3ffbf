"""Metrics of predicted properties, as scikit-learn and SciPy define them; an undefined one is named, and is not 0."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rxrx_jax.base.errors import UserError

REGRESSION, CLASSIFICATION = ("mae", "rmse", "spearman"), ("auroc", "auprc")
METRICS = (*REGRESSION, *CLASSIFICATION)
HIGHER_IS_BETTER = {"mae": False, "rmse": False, "spearman": True, "auroc": True, "auprc": True}
# The ADMET group of TDC: name -> metric (Huang et al. 2021; mims-harvard/TDC, tdc/metadata.py).
ADMET = {
    **dict.fromkeys(("caco2_wang", "lipophilicity_astrazeneca", "solubility_aqsoldb", "ppbr_az", "ld50_zhu"), "mae"),
    **dict.fromkeys(
        ("hia_hou", "pgp_broccatelli", "bioavailability_ma", "bbb_martins", "cyp3a4_substrate_carbonmangels", "herg",
         "ames", "dili"),
        "auroc",
    ),
    **dict.fromkeys(
        ("cyp2c9_veith", "cyp2d6_veith", "cyp3a4_veith", "cyp2c9_substrate_carbonmangels",
         "cyp2d6_substrate_carbonmangels"),
        "auprc",
    ),
    **dict.fromkeys(("vdss_lombardo", "half_life_obach", "clearance_hepatocyte_az", "clearance_microsome_az"),
                    "spearman"),
}  # fmt: skip


class Undefined(ValueError):
    """A metric has no value for these numbers; the message says why."""


class Scores(NamedTuple):
    """A metric of several targets."""

    values: dict[str, float]  # of the targets for which it is defined
    undefined: dict[str, str]  # of the others: why not

    @property
    def mean(self) -> float:
        """Over the targets for which the metric is defined; NaN where it is for none."""
        return float(np.mean(list(self.values.values()))) if self.values else float("nan")


def score(metric: str, truth: np.ndarray, predicted: np.ndarray) -> float:
    """A metric of one target.

    Args:
      metric: one of METRICS.
      truth: [n], NaN where it is missing: these are left out. 0 or 1 for auroc and auprc.
      predicted: [n]; for auroc and auprc any number that is higher for 1.

    Raises Undefined: no value of `truth`, a prediction that is not finite, one class alone or other values than two
    for auroc and auprc, a constant for spearman. Raises UserError for another metric.
    """
    if metric not in METRICS:
        raise UserError(f"metric={metric!r}: expected {', '.join(METRICS)}")
    truth, predicted = np.asarray(truth, np.float64).ravel(), np.asarray(predicted, np.float64).ravel()
    if truth.shape != predicted.shape:
        raise ValueError(f"{len(predicted)} predictions of {len(truth)} values")
    known = ~np.isnan(truth)
    truth, predicted = truth[known], predicted[known]
    if not len(truth):
        raise Undefined("no value is known")
    if bad := int((~np.isfinite(predicted)).sum()):
        raise Undefined(f"{bad:,} of {len(predicted):,} predictions are NaN or infinite")
    if metric in CLASSIFICATION:
        return _of_classes(metric, truth, predicted)
    if metric == "spearman":
        for name, values in (("value", truth), ("prediction", predicted)):
            if np.ptp(values) == 0:
                raise Undefined(f"every {name} is the same" if len(values) > 1 else "one value alone is known")
        from scipy import stats

        return float(stats.spearmanr(truth, predicted).statistic)
    errors = predicted - truth
    return float(np.abs(errors).mean() if metric == "mae" else np.sqrt(np.square(errors).mean()))


def _of_classes(metric: str, truth: np.ndarray, predicted: np.ndarray) -> float:
    classes = np.unique(truth)
    if not np.isin(classes, (0, 1)).all():
        raise Undefined(f"a value of {classes[~np.isin(classes, (0, 1))][0]:g} is neither 0 nor 1")
    if len(classes) == 1:
        raise Undefined(f"every value is {classes[0]:g}")
    from sklearn import metrics

    function = metrics.roc_auc_score if metric == "auroc" else metrics.average_precision_score
    return float(function(truth, predicted))


def scores(metric: str, truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Scores:
    """A metric of every target, as `score` gives it. Args: truth, predicted, [n, t]; names, t of them."""
    found = Scores({}, {})
    for i, name in enumerate(names):
        try:
            found.values[name] = score(metric, truth[:, i], predicted[:, i])
        except Undefined as error:
            found.undefined[name] = str(error)
    return found
