"""The plan of a source: what is chosen, how names are numbered, what becomes of rows that occur twice."""

import pytest

from rxrx_jax.base.errors import UserError
from tfds_builders.common.rows import plan
from tfds_builders.common.types import SetAside, Table

COMPOUND, POSITIVE, NEGATIVE = "treatment", "positive_control", "negative_control"


def row(experiment="HUVEC-01", plate=1, well="B02", site=1, line=2, **more):
    """A row as a metadata reader yields it, of the perturbation `a` unless `more` has another."""
    return {
        "site_id": f"{experiment}_{plate}_{well}_{site}", "well_id": f"{experiment}_{plate}_{well}",
        "cell_type": experiment.split("-")[0], "experiment": experiment, "plate": plate, "well": well, "site": site,
        "well_type": COMPOUND, "perturbation": "a", "perturbation_id": None, "split": "train",
        "original": {"line": str(line)}, "where": f"metadata.csv line {line}", **more,
    }  # fmt: skip


def made(tmp_path, rows, classes=None, **choice):
    plan.write(tmp_path / "plan.sqlite", Table(iter(rows), {"kind": "x"}, ["a note"], classes), **choice)
    return plan.Plan(tmp_path / "plan.sqlite")


def named(name, well_type=COMPOUND, label=None, **more):
    return row(perturbation=name, well_type=well_type, perturbation_id=label, **more)


def test_names_are_numbered_treatments_first_each_sorted(tmp_path):
    names = [("d", NEGATIVE), ("c", POSITIVE), ("z", COMPOUND), ("b", COMPOUND), ("a", NEGATIVE)]
    found = made(tmp_path, [named(*name, well=f"B0{i}") for i, name in enumerate(names, 2)])
    order = [("b", COMPOUND), ("z", COMPOUND), ("c", POSITIVE), ("a", NEGATIVE), ("d", NEGATIVE)]
    assert found.classes() == [(i, *pair) for i, pair in enumerate(order)]
    assert [r["perturbation_id"] for r in found.rows("HUVEC-01", 1)[0]] == [4, 2, 1, 0, 3]
    assert found.about()["facts"]["classes"] == 5 and found.about()["facts"]["counts"]["perturbations"] == 3
    assert found.about()["facts"]["kind"] == "x" and found.about()["notes"] == ["a note"]


def test_numbers_do_not_depend_on_the_choice(tmp_path):
    rows = [named("a", experiment="HUVEC-01"), named("b", experiment="RPE-01")]
    found = made(tmp_path, rows, experiments=("RPE-01",))
    assert found.classes() == [(0, "a", COMPOUND), (1, "b", COMPOUND)]
    assert found.plates() == [("RPE-01", 1)] and found.rows("RPE-01", 1)[0][0]["perturbation_id"] == 1


def test_published_ids_stay_and_withheld_ones_are_no_class(tmp_path):
    rows = [
        named("", label=3, well="B02"), named("s3", label=3, well="B03"), named("other", label=3, well="B04"),
        named("", label=-1, well="B05"), named("s1", label=1, well="B06"), named("new", well="B07"),
        named("s3", label=3, well="B08"),
    ]  # fmt: skip
    found = made(tmp_path, rows, classes=1139)
    # a name replaces a blank one, another name of the same id is set aside; new names come after the published ids
    assert found.classes() == [(1, "s1", COMPOUND), (3, "s3", COMPOUND), (4, "new", COMPOUND)]
    assert [r["perturbation_id"] for r in found.rows("HUVEC-01", 1)[0]] == [3, 3, -1, 1, 4, 3]
    assert [item.site_id for item in found.rows("HUVEC-01", 1)[1]] == ["HUVEC-01_1_B04_1"]
    assert found.about()["facts"]["classes"] == 1139


def test_rows_come_by_well_and_site_whatever_their_order(tmp_path):
    places = [("C02", 1), ("B02", 2), ("B10", 1), ("B02", 1)]
    found = made(tmp_path, [row(well=well, site=site) for well, site in places])
    assert [(r["well"], r["site"]) for r in found.rows("HUVEC-01", 1)[0]] == sorted(places)


def test_plates_are_sorted_by_experiment_and_number(tmp_path):
    places = [("RPE-01", 1), ("HUVEC-01", 10), ("HUVEC-01", 2), ("HUVEC-02", 1)]
    found = made(tmp_path, [row(*place) for place in places], plates=(1, 2))
    assert found.plates(chosen=False) == sorted(places)
    assert found.plates() == [("HUVEC-01", 2), ("HUVEC-02", 1), ("RPE-01", 1)]


def test_counts_are_of_the_source_and_sites_of_the_choice(tmp_path):
    rows = [row("HUVEC-01", 1), row("HUVEC-01", 2), row("RPE-01", 1), SetAside("x", "bad", "RPE-01")]
    found = made(tmp_path, rows, plates=(1,))
    assert found.sites() == 2
    assert found.about()["facts"]["counts"] == {"sites": 4, "experiments": 2, "plates": 3, "perturbations": 1}


def test_equal_rows_are_one_site_and_the_first_is_kept(tmp_path):
    copies = [row(line=line, concentration_um=float("nan")) for line in (9, 4, 7)]  # in the order of the table
    rows, bad = made(tmp_path, [row(well="C02"), *copies]).rows("HUVEC-01", 1)
    assert [r["where"] for r in rows] == ["metadata.csv line 9", "metadata.csv line 2"]
    assert bad == [
        SetAside("HUVEC-01_1_B02_1", f"duplicate row (metadata.csv line {line})", "HUVEC-01", "train")
        for line in (4, 7)
    ]


@pytest.mark.parametrize("key, value", [("perturbation", "b"), ("split", "test"), ("concentration_um", 2.0)])
def test_rows_that_disagree_in_anything_set_the_site_aside(tmp_path, key, value):
    first = row(concentration_um=1.0)
    rows, bad = made(tmp_path, [first, row(site=2), {**first, key: value}]).rows("HUVEC-01", 1)
    assert [r["site"] for r in rows] == [2]
    splits = ["train", value if key == "split" else "train"]
    assert bad == [SetAside("HUVEC-01_1_B02_1", "2 rows that disagree", "HUVEC-01", split) for split in splits]


ASIDE = {
    "here": SetAside("HUVEC-01_1_B02_1", "bad", "HUVEC-01", "train"),
    "other plate": SetAside("HUVEC-01_2_B05_1", "bad", "HUVEC-01", "train"),
    "other experiment": SetAside("RPE-01_1_B02_1", "bad", "RPE-01", "train"),
    "plate unknown": SetAside("metadata.csv line 8", "bad", "HUVEC-01"),
    "nothing known": SetAside("metadata.csv line 9", "bad"),
}


@pytest.mark.parametrize(
    "choice, left_out",
    [
        ({}, set()),
        ({"experiments": ("HUVEC-01",)}, {"other experiment"}),
        ({"plates": (1,)}, {"other plate"}),
        ({"experiments": ("HUVEC-01",), "plates": (1,)}, {"other plate", "other experiment"}),
    ],
)
def test_rows_set_aside_are_kept_unless_they_are_surely_not_chosen(tmp_path, choice, left_out):
    found = made(tmp_path, [*ASIDE.values(), row("HUVEC-01", 1, "C02"), row("RPE-01", 2, "C02")], **choice)
    assert list(found.set_aside()) == [item for name, item in ASIDE.items() if name not in left_out]


def test_places_are_all_that_the_tables_name_chosen_or_not(tmp_path):
    rows = [*ASIDE.values(), row(well="C02"), row(well="D02", plate=2), row("RPE-01", well="E02")]
    found = made(tmp_path, rows, experiments=("HUVEC-01",), plates=(1,))
    assert found.places("HUVEC-01", 1) == {("B02", 1), ("C02", 1)}
    assert found.places("RPE-01", 1) == {("E02", 1)}  # not chosen, and its images are not without a row
    assert made(tmp_path, rows).places("HUVEC-01", 1) == {("B02", 1), ("C02", 1)}  # and no place of other plates


def test_each_choice_narrows_the_others(tmp_path):
    rows = [row("HUVEC-01", 1), row("HUVEC-01", 2), row("HUVEC-02", 1), row("RPE-01", 1)]
    found = made(tmp_path, rows, experiments=("HUVEC-01", "RPE-01"), plates=(1,), cell_types=("HUVEC",))
    assert found.plates() == [("HUVEC-01", 1)] and found.sites() == 1


@pytest.mark.parametrize(
    "choice, words",
    [
        ({"plates": (1, 9, 8)}, "plates=8: the source has no such plate; it has 1, 2$"),
        ({"cell_types": ("U2OS",)}, "cell_types=U2OS: the source has no such cell_type; it has HUVEC$"),
        ({"experiments": ("RPE-01",)}, "experiments=RPE-01: .* it has HUVEC-01, HUVEC-02$"),
    ],
)
def test_a_choice_that_the_source_does_not_have_is_an_error(tmp_path, choice, words):
    rows = [row("HUVEC-01", 1), row("HUVEC-02", 2)]
    with pytest.raises(UserError, match=words):
        made(tmp_path, rows, **choice)
    assert not (tmp_path / "plan.sqlite").exists()
    made(tmp_path, rows, plates=(2,))  # what the failed call left is not in the way


def test_an_error_shows_twenty_of_many_and_says_when_there_is_none(tmp_path):
    with pytest.raises(UserError, match=r"it has 1, 2, .*, 20$"):
        made(tmp_path, [row(plate=plate) for plate in range(1, 21)], plates=(99,))
    with pytest.raises(UserError, match=r"it has 1, 2, .*, 20, \.\.\.$"):
        made(tmp_path, [row(plate=plate) for plate in range(1, 22)], plates=(99,))
    with pytest.raises(UserError, match="it has no usable row$"):
        made(tmp_path, [SetAside("x", "bad")], plates=(99,))


def test_a_site_with_an_unusable_row_is_not_taken_from_another(tmp_path):
    """Rows of one site contradict each other also when one of them cannot be used."""
    rows = [row(well="B02"), row(well="B03"), SetAside("HUVEC-01_1_B02_1", "odd", "HUVEC-01", "train")]
    found, set_aside = made(tmp_path, rows).rows("HUVEC-01", 1)
    assert [item["well"] for item in found] == ["B03"]
    assert [item.site_id for item in set_aside] == ["HUVEC-01_1_B02_1"] and "another row" in set_aside[0].reason


def test_a_label_that_contradicts_most_rows_is_set_aside(tmp_path):
    """One id has one name, and one name one id."""
    rows = [row(well=well, perturbation="a", perturbation_id=0) for well in ("B02", "B03", "B04")]
    rows += [row(well=well, perturbation="b", perturbation_id=1) for well in ("C02", "C03", "C04")]
    rows += [row(well="D02", perturbation="b", perturbation_id=0), row(well="D03", perturbation="", perturbation_id=1)]
    plan = made(tmp_path, rows)
    assert [(label, name) for label, name, _ in plan.classes()] == [(0, "a"), (1, "b")]
    found, set_aside = plan.rows("HUVEC-01", 1)
    assert [(item.site_id, item.reason) for item in set_aside] == [
        ("HUVEC-01_1_D02_1", "label 0 is a in most rows, and b here")
    ]
    assert len(found) == 7


@pytest.mark.parametrize("label", [700, 1])  # of no other row; of another name
@pytest.mark.parametrize("at", [0, 7])
def test_a_damaged_label_costs_its_own_row(tmp_path, label, at):
    rows = [named("a", label=0, well=f"B0{i}") for i in range(1, 9)]
    rows += [named("b", label=1, well=f"C0{i}") for i in range(1, 3)]
    rows[at]["perturbation_id"] = label
    plan = made(tmp_path, rows)
    assert plan.classes() == [(0, "a", COMPOUND), (1, "b", COMPOUND)]
    found, set_aside = plan.rows("HUVEC-01", 1)
    assert [(r["well"], r["perturbation_id"]) for r in found] == [
        (r["well"], "ab".index(r["perturbation"])) for i, r in enumerate(rows) if i != at
    ]
    reason = "a has label 0 in most rows, and 700 here" if label == 700 else "label 1 is b in most rows, and a here"
    assert set_aside == [SetAside(rows[at]["site_id"], reason, "HUVEC-01", "train")]


def test_a_duplicate_row_with_a_bad_label_costs_its_site(tmp_path):
    rows = [named("a", label=0, well=f"B0{i}") for i in range(1, 9)]
    found, set_aside = made(tmp_path, [*rows, named("a", label=700, well="B03")]).rows("HUVEC-01", 1)
    assert [r["perturbation_id"] for r in found] == [0] * 7
    assert [tuple(item[:2]) for item in set_aside] == [("HUVEC-01_1_B03_1", "2 rows that disagree")] * 2


@pytest.mark.parametrize("names, labels, reason", [
    ("aaaa", (0, 0, 700, 700), "a has label 0 in as many rows as 700"),
    ("aabb", (0, 0, 0, 0), "label 0 is a in as many rows as b"),
])  # fmt: skip
def test_in_a_tie_every_row_is_set_aside(tmp_path, names, labels, reason):
    rows = [named(*pair, well=f"B0{i}") for i, pair in enumerate(zip(names, [COMPOUND] * 4, labels), 2)]
    plan = made(tmp_path, [*rows, named("c", label=5, well="C02")])
    assert plan.classes() == [(5, "c", COMPOUND)]
    found, set_aside = plan.rows("HUVEC-01", 1)
    assert [r["perturbation"] for r in found] == ["c"] and [item.reason for item in set_aside] == [reason] * 4


def test_the_well_type_of_a_name_is_that_of_most_rows(tmp_path):
    rows = [named("a", well="B02"), *(named("z", NEGATIVE, well=f"C0{i}") for i in (1, 2)), named("z", well="D02")]
    assert made(tmp_path, rows).classes() == [(0, "a", COMPOUND), (1, "z", NEGATIVE)]


def test_rows_that_disagree_on_what_is_chosen_are_not_chosen(tmp_path):
    """A part refuses what the whole refuses."""
    rows = [row(well="B02", cell_type="RPE"), row(well="B02", cell_type="U2OS"), row(well="B03", cell_type="RPE")]
    for choice in ({}, {"cell_types": ("RPE",)}, {"cell_types": ("U2OS",)}):
        (tmp_path / "plan.sqlite").unlink(missing_ok=True)
        found, set_aside = made(tmp_path, rows, **choice).rows("HUVEC-01", 1)
        assert all(item["well"] == "B03" for item in found)
        assert [item.reason for item in set_aside] == ["2 rows that disagree"] * 2
