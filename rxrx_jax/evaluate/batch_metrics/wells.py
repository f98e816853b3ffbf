"""What batch metrics compare: wells, each with the mean embedding of its sites. Two sites of a well are alike for no
reason that a metric asks for."""

import dataclasses

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import NEGATIVE_CONTROL
from rxrx_jax.evaluate.probes import check_finite


@dataclasses.dataclass(frozen=True)
class Wells:
    """x float64 [n, d]; name [n]; cell_type, perturbation, experiment and plate, numbers [n]; untreated bool [n]. plate
    and untreated are None where the table does not say."""

    x: np.ndarray
    name: np.ndarray
    cell_type: np.ndarray
    perturbation: np.ndarray
    experiment: np.ndarray
    plate: np.ndarray | None
    untreated: np.ndarray | None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> "Wells":
        """These, by number or bool [n]."""
        columns = {key: None if values is None else values[rows] for key, values in vars(self).items()}
        return Wells(**columns)


def of_sites(features: np.ndarray, rows: np.ndarray, dataset) -> Wells:
    """The wells of the dataset's `rows` [n], whose features are [n, d], in the order of their names; without those of
    which the perturbation is not known.

    Raises UserError for features that are not finite, and, naming the well, for a site that is there twice and for
    sites of one well that differ in what they are of.
    """
    check_finite(features)
    sites, known = dataset.sites, dataset.sites.label[rows] >= 0
    rows, features = rows[known], features[known]
    name, first, number, count = np.unique(
        sites.well_id[rows], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((sites.site[rows], number))
    twice = (np.diff(number[order]) == 0) & (np.diff(sites.site[rows][order]) == 0)
    if twice.any():
        one = rows[order[np.flatnonzero(twice)[0]]]
        raise UserError(f"well {sites.well_id[one]} has site {sites.site[one]} twice, as {int(twice.sum()):,} rows in "
                        "all: keep one embedding of each site")  # fmt: skip
    columns = {"perturbation": sites.label, "experiment": sites.experiment, "plate": sites.plate,
               "cell_type": sites.cell_type, "well_type": sites.well_type}  # fmt: skip
    of_well: dict[str, np.ndarray | None] = {}
    for key, values in columns.items():
        of_well[key] = None if values is None else values[rows][first]
        if values is not None and (other := values[rows] != of_well[key][number]).any():
            one = name[number[np.flatnonzero(other)[0]]]
            raise UserError(f"well {one} is of more than one {key.replace('_', ' ')}: name wells apart")
    x = np.zeros((len(name), features.shape[1]))
    np.add.at(x, number, features)
    well_type = of_well.pop("well_type")
    untreated = None if well_type is None else well_type == NEGATIVE_CONTROL
    return Wells(x / count[:, None], name, untreated=untreated, **of_well)
