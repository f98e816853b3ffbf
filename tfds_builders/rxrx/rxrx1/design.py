"""RxRx1's published design, and where a table deviates from it or its layout gives labels away.

Every experiment has 4 plates. A plate holds 277 treatments, each in one well, the same 30 positive controls and
at least one untreated well, on at most 308 wells: the outer rows and columns of its 384 stay empty.
"""

import itertools
from typing import Any

import numpy as np

from rxrx_jax.base.spellings import NEGATIVE_CONTROL, POSITIVE_CONTROL, TREATMENT

PLATES = 4
TREATMENTS = 277  # on a plate
POSITIVE_CONTROLS = 30
INNER_WELLS = frozenset(f"{row}{column:02d}" for row in "BCDEFGHIJKLMNO" for column in range(2, 24))  # 308
# Two plates have one layout if they agree on 9 of 10 wells: repeats differ by an odd well, others agree on 1 of 4.
AGREEMENT = 0.9
LEAST_WELLS = 20  # labelled wells that two plates must share to be compared

Layout = dict[int, dict[str, tuple[str, int]]]  # plate -> well -> (well_type, perturbation_id, -1 if withheld)
Layouts = dict[str, Layout]  # by experiment


def add(layouts: Layouts, row: dict[str, Any]) -> None:
    """Adds a site row to the layout of its experiment; where rows of a well disagree, its label is not known."""
    plate = layouts.setdefault(row["experiment"], {}).setdefault(row["plate"], {})
    entry = row["well_type"], row["perturbation_id"]
    if plate.setdefault(row["well"], entry) != entry:
        plate[row["well"]] = row["well_type"], -1


def deviations(experiment: str, plates: Layout) -> list[str]:
    """Returns how an experiment deviates from the design: one sentence, or none."""
    reasons = [] if len(plates) == PLATES else [f"{len(plates)} of {PLATES} plates"]
    ids = {plate: _ids(wells, POSITIVE_CONTROL) for plate, wells in plates.items()}
    controls = set().union(*ids.values())
    if len(controls) > POSITIVE_CONTROLS:
        reasons.append(f"{len(controls)} positive controls that are not the same on every plate")
    for plate, wells in sorted(plates.items()):
        found = _plate_deviations(wells)
        if found:
            reasons.append(f"plate {plate} has {', '.join(found)}")
    for a, b in itertools.combinations(sorted(plates), 2):
        both = sorted(_ids(plates[a], TREATMENT) & _ids(plates[b], TREATMENT))
        if both:
            reasons.append(f"treatments on both plates {a} and {b} ({len(both)}, such as {both[0]})")
    return [f"{experiment} deviates from the published design: {'; '.join(reasons)}."] if reasons else []


def _plate_deviations(wells: dict[str, tuple[str, int]]) -> list[str]:
    found = []
    outside = sorted(set(wells) - INNER_WELLS)
    if outside:
        found.append(f"wells outside B02..O23 ({len(outside)}, such as {outside[0]})")
    withheld = sum(entry == (TREATMENT, -1) for entry in wells.values())
    for name, count, expected in (
        ("treatments", len(_ids(wells, TREATMENT)) + withheld, TREATMENTS),
        ("positive controls", len(_ids(wells, POSITIVE_CONTROL)), POSITIVE_CONTROLS),
    ):
        if count != expected:
            found.append(f"{count} of {expected} {name}" if count < expected else f"{count} {name} for {expected}")
    if not any(kind == NEGATIVE_CONTROL for kind, _ in wells.values()):
        found.append("no untreated well")
    return found


def _ids(wells: dict[str, tuple[str, int]], well_type: str) -> set[int]:
    return {label for kind, label in wells.values() if kind == well_type and label >= 0}


def leaks(layouts: Layouts, held_out: set[str]) -> list[str]:
    """Returns a sentence for each way in which the plate or the well of a site gives labels away.

    Args:
      layouts: of all experiments.
      held_out: the experiments of validation and test.
    """
    sentences = []
    groups = plate_groups(layouts)
    if groups:
        sentences.append(
            f"The same {len(groups)} groups of {max(map(len, groups))} treatments share a plate in every experiment "
            "(the plate leak): a method that knows which sites share a plate has one group left to choose from."
        )
    for a, b, plates in same_layouts(layouts):
        if b in held_out and a not in held_out:
            a, b, plates = b, a, dict(sorted((theirs, ours) for ours, theirs in plates.items()))
        kinds = ["held out" if name in held_out else "train" for name in (a, b)]
        order = f"its plates {', '.join(map(str, plates))} are plates {', '.join(map(str, plates.values()))} there"
        advice = "" if kinds[0] == kinds[1] else ", so whatever knows a site's well has seen its label"
        sentences.append(
            f"{a} ({kinds[0]}) has the layout of {b} ({kinds[1]}), "
            f"{order if plates else 'with its plates in an order that withheld labels leave open'}{advice}."
        )
    return sentences


def plate_groups(layouts: Layouts) -> list[set[int]]:
    """Returns the groups of treatments that share a plate in every experiment; [] if plates mix them."""
    groups: list[set[int]] = []
    plates = [_ids(wells, TREATMENT) for plates in layouts.values() for wells in plates.values()]
    for treatments in plates:
        if len(treatments) < LEAST_WELLS:
            continue  # withheld
        own = [group for group in groups if len(group & treatments) > len(treatments) / 2]
        if own:
            own[0] |= treatments
        else:
            groups.append(set(treatments))
    disjoint = sum(map(len, groups)) == len(set().union(*groups))
    return groups if disjoint and len(groups) <= PLATES < len(plates) else []


def same_layouts(layouts: Layouts) -> list[tuple[str, str, dict[int, int]]]:
    """Returns every two experiments whose layouts are equal up to an order of plates, as far as labels are known.

    Each is (a, b, plate of a -> plate of b), the plates of a in order; a has no more plates than b. The plates are
    {} if the controls, which are in the same wells of all plates, are all that is known of one.
    """
    from scipy import optimize

    wells = sorted({well for plates in layouts.values() for places in plates.values() for well in places})
    column = {well: i for i, well in enumerate(wells)}
    plates = [(name, plate) for name in sorted(layouts) for plate in sorted(layouts[name])]
    labels = np.full((len(plates), len(wells)), -1)  # [P, W]
    for i, (name, plate) in enumerate(plates):
        for well, (_, label) in layouts[name][plate].items():
            labels[i, column[well]] = label
    share = np.zeros((len(plates), len(plates)))  # [P, P]: of the wells whose label both have, those that agree
    for i, row in enumerate(labels):
        both = (labels >= 0) & (row >= 0)
        known = both.sum(1)
        share[i] = np.where(known >= LEAST_WELLS, (both & (labels == row)).sum(1) / np.maximum(known, 1), 0)
    at = {name: [i for i, place in enumerate(plates) if place[0] == name] for name in layouts}
    found = []
    for a, b in itertools.combinations(sorted(layouts, key=lambda name: (len(layouts[name]), name)), 2):
        block = share[np.ix_(at[a], at[b])]
        ours, theirs = optimize.linear_sum_assignment(block, maximize=True)
        if (block[ours, theirs] >= AGREEMENT).all():
            order = {plates[at[a][i]][1]: plates[at[b][j]][1] for i, j in zip(ours, theirs)}
            found.append((a, b, order if ((block >= AGREEMENT).sum(1) == 1).all() else {}))
    return sorted(found, key=lambda item: item[:2])
