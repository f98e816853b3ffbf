"""RxRx1's published design: what deviates from it, and layouts that give labels away."""

import numpy as np
import pytest

from tfds_builders.rxrx.rxrx1 import design

WELLS = sorted(design.INNER_WELLS)


def experiment(seed=0, groups=range(4)):
    """Rows of an experiment as designed: group g on plate 1 + position, 277 + 30 + 1 wells in random order."""
    rows = []
    for plate, group in enumerate(groups, start=1):
        wells = np.random.default_rng((seed, group)).permutation(WELLS)
        labels = [("treatment", 277 * group + i) for i in range(277)]
        labels += [("positive_control", 1108 + i) for i in range(30)] + [("negative_control", 1138)]
        rows += [dict(experiment=f"E-{seed:02d}", plate=plate, well=str(well), well_type=kind, perturbation_id=label)
                 for well, (kind, label) in zip(wells, labels)]  # fmt: skip
    return rows


def deviations(rows):
    return design.deviations("E-00", layouts(rows)["E-00"])


def layouts(*experiments):
    found = {}
    for rows in experiments:
        for row in rows:
            design.add(found, row)
    return found


def test_the_design_has_no_deviation():
    rows = experiment()
    assert deviations(rows) == deviations(rows + rows[::7]) == []  # the two sites of a well are one well


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda rows: [row for row in rows if row["plate"] != 3], "3 of 4 plates"),
        (lambda rows: [row for row in rows if row["perturbation_id"] != 5], "plate 1 has 276 of 277 treatments"),
        (lambda rows: [row for row in rows if row["plate"] == 1 or row["perturbation_id"] != 1110],
         "plate 2 has 29 of 30 positive controls; plate 3 has 29 of 30 positive controls; plate 4"),
        (lambda rows: [row for row in rows if row["plate"] != 4 or row["well_type"] != "negative_control"],
         "plate 4 has no untreated well"),
        (lambda rows: [{**row, "well": "A01"} if row["perturbation_id"] == 7 else row for row in rows],
         "plate 1 has wells outside B02..O23 (1, such as A01)"),
        (lambda rows: [{**row, "perturbation_id": 1107} if row["perturbation_id"] == 7 else row for row in rows],
         "treatments on both plates 1 and 4 (1, such as 1107)"),
        (lambda rows: [{**row, "perturbation_id": 8} if row["perturbation_id"] == 7 else row for row in rows],
         "plate 1 has 276 of 277 treatments"),
        (lambda rows: [{**row, "perturbation_id": 1139} if row["plate"] == 1 and row["perturbation_id"] == 1110 else row
                       for row in rows], "design: 31 positive controls that are not the same on every plate."),
        (lambda rows: rows + [{**rows[0], "well": "P24", "perturbation_id": 300}],
         "plate 1 has wells outside B02..O23 (1, such as P24), 278 treatments for 277"),
    ],
)  # fmt: skip
def test_deviations_are_named(change, words):
    (sentence,) = deviations(change(experiment()))
    assert sentence.startswith("E-00 deviates from the published design: ") and words in sentence, sentence


def test_withheld_labels_are_treatments_all_the_same():
    rows = [{**row, "perturbation_id": -1} if row["well_type"] == "treatment" else row for row in experiment()]
    assert deviations(rows) == []
    (sentence,) = deviations(rows[1:] if rows[0]["well_type"] == "treatment" else rows[:-1])
    assert "plate 1 has 276 of 277 treatments" in sentence


def test_the_plate_leak_is_noted():
    same = layouts(experiment(1), experiment(2, (3, 1, 0, 2)))
    assert sorted(map(len, design.plate_groups(same))) == [277] * 4
    assert "same 4 groups of 277 treatments share a plate" in design.leaks(same, set())[0]
    mixed = [{**row, "plate": 1 + row["perturbation_id"] % 4} if row["well_type"] == "treatment" else row
             for row in experiment(3)]  # fmt: skip
    assert design.plate_groups(layouts(experiment(1), mixed)) == []
    moved = [{**row, "plate": 2, "well": "A01"} if row["perturbation_id"] == 0 else row for row in experiment(2)]
    assert design.plate_groups(layouts(experiment(1), moved)) == []
    assert design.plate_groups(layouts(experiment(1))) == []  # one experiment cannot tell


def renamed(rows, name, plates):
    """The rows of another experiment with the same layout, its plates in another order."""
    return [{**row, "experiment": name, "plate": plates[row["plate"]]} for row in rows]


def test_a_layout_that_is_another_ones_is_found_whatever_the_order_of_plates():
    rows = experiment(1)
    copy = renamed(rows, "F-01", {1: 3, 2: 1, 3: 4, 4: 2})
    others = [experiment(seed) for seed in (2, 3)]
    assert design.same_layouts(layouts(rows, copy, *others)) == [("E-01", "F-01", {1: 3, 2: 1, 3: 4, 4: 2})]
    assert design.same_layouts(layouts(rows, *others)) == []
    damaged = copy[10:] + [{**copy[0], "perturbation_id": 3}]  # some wells missing, one wrong
    assert len(design.same_layouts(layouts(rows, damaged))) == 1
    one_changed = [row for row in copy if row["plate"] != 2] + renamed(others[0], "F-01", {1: 2, 2: 9, 3: 9, 4: 9})[
        :308
    ]
    assert design.same_layouts(layouts(rows, one_changed)) == []


def test_what_is_said_of_equal_layouts():
    rows = experiment(1)
    both = layouts(rows, renamed(rows, "F-01", {1: 2, 2: 1, 3: 4, 4: 3}))
    assert "E-01 (train) has the layout of F-01 (train), its plates 1, 2, 3, 4 are plates 2, 1, 4, 3 there." in (
        design.leaks(both, set())
    )
    (sentence,) = [s for s in design.leaks(both, {"F-01"}) if "layout" in s]
    assert sentence.startswith("F-01 (held out) has the layout of E-01 (train), its plates 1, 2, 3, 4 are plates 2, 1,")
    assert sentence.endswith("so whatever knows a site's well has seen its label.")
    assert "has seen" not in design.leaks(both, {"E-01", "F-01"})[-1]


def test_controls_alone_tell_the_layout_but_not_the_order_of_plates():
    # as in RxRx1, the controls of an experiment are in the same wells of all its plates
    rows = experiment(1)
    wells = {row["perturbation_id"]: row["well"] for row in rows if row["plate"] == 1 and row["perturbation_id"] > 1107}
    rows = [row for row in rows if row["well"] not in wells.values() or row["perturbation_id"] > 1107]
    rows = [{**row, "well": wells.get(row["perturbation_id"], row["well"])} for row in rows]
    withheld = [{**row, "perturbation_id": -1} if row["well_type"] == "treatment" else row for row in rows]
    both = layouts(rows, renamed(withheld, "F-01", {1: 2, 2: 3, 3: 4, 4: 1}))
    assert design.same_layouts(both) == [("E-01", "F-01", {})]
    assert "order that withheld labels leave open, so whatever" in design.leaks(both, {"F-01"})[-1]


def test_a_few_wells_prove_nothing():
    rows = [row for row in experiment(1) if row["well"] in WELLS[:19]]
    assert design.same_layouts(layouts(rows, renamed(rows, "F-01", {1: 1, 2: 2, 3: 3, 4: 4}))) == []
    assert design.same_layouts({}) == []
