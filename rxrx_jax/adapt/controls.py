"""What the methods of `anchors/` share: a trained classifier read with the help of the labelled controls that every
held-out plate carries. They see labels of controls alone; those of treatments are hidden from them.

`shuffled=True` is the control of each of them: on experiments (plates) that no fitted image is of, the labels of
controls are permuted among these, once and for all, so that the same images take part and only what they are said to
be is false.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from rxrx_jax.adapt.method import Group, Method, Needs, Network
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import untreated

PENALTIES = (1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3)  # the first of equal ones is chosen
FOLDS = 5


class Controls(NamedTuple):
    """Images of control wells: features [m, D] and logits [m, K] float64; label, which they are said to have;
    domain; cell_type; fit and validation, whether the protocol fits or selects on them: [m] each."""

    features: np.ndarray
    logits: np.ndarray
    label: np.ndarray
    domain: np.ndarray
    cell_type: np.ndarray
    fit: np.ndarray
    validation: np.ndarray

    def of(self, domain: int) -> np.ndarray:
        """Which are of a domain, bool [m]."""
        return self.domain == domain

    def reference(self, domain: int) -> np.ndarray:
        """Which are fitted: of the same cell type as this domain, where any are."""
        same = self.fit & np.isin(self.cell_type, self.cell_type[self.of(domain)])
        return same if same.any() else self.fit


@dataclasses.dataclass(frozen=True)
class Anchored(Method):
    """shuffled: with the labels of controls permuted."""

    shuffled: bool = False

    @property
    def needs(self):
        return Needs(controls=True, head=True)

    def read(
        self, predict, network: Network, group: Group, only_untreated: bool = False
    ) -> tuple[dict[str, np.ndarray], Controls, np.ndarray]:
        """(outputs of the group's rows; controls of their domains, of the fit rows and, if needed, of validation; the
        domain of each row [n]). Raises UserError for a domain of which no control can be read."""
        sites, roles = group.sites, group.roles
        domain, known = getattr(sites, self.domain), np.flatnonzero(sites.label >= 0)
        label, bare = sites.label.copy(), untreated(sites)
        if self.shuffled:
            for number in np.setdiff1d(domain[known], domain[roles.fit]):
                rows = known[domain[known] == number]
                drawn = np.random.default_rng(int(number)).permutation(rows)
                label[rows], bare[rows] = label[drawn], bare[drawn]
        known = known[bare[known]] if only_untreated else known
        validation = np.isin(known, roles.scored["validation"] if self.needs.validation else ())
        fit = np.isin(known, roles.fit)
        wanted = known[fit | validation | np.isin(domain[known], domain[group.rows])]
        found = predict(network, np.union1d(group.rows, wanted))
        at = np.flatnonzero(np.isin(found["row"], known))
        rows = found["row"][at]
        place = np.searchsorted(known, rows)
        columns = label[rows], domain[rows], sites.cell_type[rows], fit[place], validation[place]
        mine = np.isin(found["row"], group.rows)
        outputs = {key: values[mine] for key, values in found.items()}
        controls = Controls(*(found[key][at].astype(np.float64) for key in ("embedding", "logits")), *columns)
        for one in np.setdiff1d(domain[outputs["row"]], domain[rows]):
            row = outputs["row"][domain[outputs["row"]] == one][0]
            raise UserError(f"no image of a control can be read on the {self.domain} of {sites.site_id[row]}")
        return outputs, controls, domain[outputs["row"]]


@dataclasses.dataclass(frozen=True)
class Penalised(Anchored):
    """penalty: above 0; 0 to choose it on validation experiments."""

    penalty: float = 0.0

    @property
    def needs(self):
        return dataclasses.replace(super().needs, validation=not self.penalty)


def left_out(controls: Controls) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(domain, which controls are kept, which are left out), bool [m] each: every control class of every validation
    domain is left out once, in `FOLDS` parts."""
    for domain in np.unique(controls.domain[controls.validation]):
        here = controls.of(domain)
        classes = np.unique(controls.label[here])
        for part in range(min(FOLDS, len(classes)) if len(classes) > 1 else 0):
            out = here & np.isin(controls.label, classes[part::FOLDS])
            yield domain, here & ~out, out


def choose(controls: Controls, move: Callable, logits: Callable) -> float:
    """The penalty under which control classes of validation experiments, each left out in turn, are likeliest.

    Args: move(domain, kept, left_out, penalty), what becomes of those left out when fitted on those kept, [l, ...];
    logits(moved), [L, K] of all of these.
    """
    parts = list(left_out(controls))
    if not parts:
        return PENALTIES[0]
    label = np.concatenate([controls.label[out] for *_, out in parts])
    found = []
    for penalty in PENALTIES:
        z = np.asarray(logits(np.concatenate([move(*part, penalty) for part in parts])), np.float64)
        found.append((z[np.arange(len(z)), label] - log_sum_exp(z)).mean())
    return PENALTIES[int(np.argmax(found))]


def log_sum_exp(z: np.ndarray) -> np.ndarray:
    """Of each row of z [n, K]."""
    top = z.max(1)
    return top + np.log(np.exp(z - top[:, None]).sum(1))
