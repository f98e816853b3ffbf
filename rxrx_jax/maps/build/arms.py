"""Arm centring of a map's genes, and what is said of it."""

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark import proximity
from rxrx_jax.maps.benchmark.genome import ARMS, Genome

UNEXPRESSED = -3.0  # zFPKM below this


def arm_numbers(gene: np.ndarray, genome: Genome) -> np.ndarray:
    """The arm of each of `gene` [n], a number in ARMS, -1 for genes that have none and for ""."""
    number = {name: i for i, name in enumerate(ARMS)}
    arm = np.array([number[name] for name in genome.arm.tolist()] + [-1])
    return arm[genome.places(gene)]


def centred(x: np.ndarray, about: dict[str, np.ndarray], genome: Genome, expression: dict | None, how: str):
    """(x [n, d] of a map with the arms of its genes centred, facts: by arm what was subtracted and from how many genes,
    which arms were left alone, and the proximity statistic before and after).

    Args: about, the columns of map.parquet; expression, gene -> zFPKM; genes below UNEXPRESSED, or all without it, are
    those that means are of; how, of `proximity.centre_arms`.
    Raises UserError where no gene of the map has an arm.
    """
    is_gene = about["kind"] == "gene"
    arm = np.where(is_gene, arm_numbers(about["gene"], genome), -1)
    if not (arm >= 0).any():
        raise UserError("no gene of the map is in the table of --genome, so that no arm can be centred")
    level = np.array(
        [np.nan if expression is None else expression.get(name, np.nan) for name in about["gene"].tolist()]
    )
    unexpressed = is_gene & (np.ones(len(x), bool) if expression is None else level < UNEXPRESSED)
    after, factor, genes = proximity.centre_arms(x, arm, len(ARMS), unexpressed, how)
    placed = np.flatnonzero(arm >= 0)
    before_all, before = proximity.per_arm(relate.unit(x[placed]), arm[placed], len(ARMS))
    after_all, later = proximity.per_arm(relate.unit(after[placed]), arm[placed], len(ARMS))
    there = np.flatnonzero(np.bincount(arm[placed], minlength=len(ARMS)))
    share = lambda one: None if one is None else one.probability  # noqa: E731
    return after, {
        "how": how,
        "genes_without_an_arm": int((is_gene & (arm < 0)).sum()),
        "unexpressed": int(unexpressed.sum()),
        "probability_before": before_all.probability,
        "probability_after": after_all.probability,
        "left_alone": [ARMS[a] for a in there if not factor[a]],
        "by_arm": {
            ARMS[a]: {
                "c": float(factor[a]),
                "genes": int(genes[a]),
                "before": share(before[a]),
                "after": share(later[a]),
            }
            for a in there
        },
    }
