"""As `wilds_ood`, with what is known of an image beside its pixels given to the classifier's head: what is that worth?

given: cell_type, plate (its number in the experiment) or well (its row and column), or several with + between them.
The head is linear in the embedding and in these, one-hot each. Which treatment is in a well is a matter of the layout,
which repeats in part in RxRx1 (most untreated wells are B02, HUVEC-18 is RPE-03 with its plates shifted), so that
`well` is refused without allow_layout_leak.
"""

import dataclasses

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.protocols import Protocol, wilds_ood

KINDS = ("cell_type", "plate", "well")


def protocol(dataset, given: str = "cell_type", allow_layout_leak: bool = False) -> Protocol:
    names = given.split("+")
    if unknown := [name for name in names if name not in KINDS]:
        raise UserError(f"protocol context:given={unknown[0]}: expected {', '.join(KINDS)}, with + between several")
    if "well" in names and not allow_layout_leak:
        raise UserError(
            f"protocol context:given={given}: the well tells of the treatment by RxRx1's layout, not by the cells; "
            "leave it out, or add allow_layout_leak"
        )
    whole = wilds_ood.protocol(dataset)
    context = np.concatenate([one_hot(column) for name in KINDS if name in names for column in known(dataset, name)], 1)
    return dataclasses.replace(whole, roles=dataclasses.replace(whole.roles, context=context), published={})


def known(dataset, name: str) -> list[np.ndarray]:
    """What is known of every row as columns [n]."""
    sites = dataset.sites
    if name == "cell_type":
        return [sites.cell_type]
    if name == "plate":
        if sites.plate is None:
            raise UserError("protocol context:given=plate: the table has no column plate")
        return [np.array([plate.rpartition("/")[2] for plate in dataset.plates])[sites.plate]]
    wells = [name.rpartition("_")[2] for name in sites.well_id.tolist()]
    return [np.array([well.rstrip("0123456789") for well in wells]), np.array([well[-2:] for well in wells])]


def one_hot(column: np.ndarray) -> np.ndarray:
    """float32 [n, values] of a column [n], values in order."""
    values, number = np.unique(column, return_inverse=True)
    return np.eye(len(values), dtype=np.float32)[number]
