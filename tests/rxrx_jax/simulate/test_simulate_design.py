"""The design of the simulated screen: plates, wells, layouts, splits, and settings that make no sense."""

import collections
import subprocess
import sys

import pytest

from rxrx_jax.simulate.screen import COLUMNS, Screen, groups, parse, sites


def treatments_by_plate(rows):
    members = collections.defaultdict(set)
    for row in rows:
        if row["well_type"] == "treatment":
            members[row["experiment"], row["plate"]].add(row["perturbation_id"])
    return members


def test_default_counts():
    screen = Screen()
    rows = sites(screen)
    assert screen.wells_per_plate == 58
    assert len(rows) == 13 * 4 * 58 * 2
    counts = collections.Counter(row["split"] for row in rows)
    assert counts == {"train": 7 * 232, "id_test": 7 * 232, "val": 3 * 464, "test": 3 * 464}
    assert len({row["site_id"] for row in rows}) == len(rows)
    assert {row["cell_type"] for row in rows} == {"SIMA", "SIMB", "SIMC"}
    assert all(tuple(row) == COLUMNS for row in rows)


def test_rows_are_ordered_and_named_as_published():
    rows = sites(Screen())
    assert [tuple(row[k] for k in ("experiment", "plate", "well", "site")) for row in rows] == sorted(
        tuple(row[k] for k in ("experiment", "plate", "well", "site")) for row in rows
    )
    row = rows[0]
    assert row["well_id"] == f"{row['experiment']}_{row['plate']}_{row['well']}"
    assert row["site_id"] == f"{row['well_id']}_{row['site']}"


def test_outer_wells_are_empty_and_no_well_is_used_twice():
    rows = sites(Screen(sites_per_well=1))
    assert {row["well"][0] for row in rows} <= set("BCDEFGHIJKLMNO")
    assert {int(row["well"][1:]) for row in rows} <= set(range(2, 24))
    assert len({row["well_id"] for row in rows}) == len(rows)
    layouts = collections.defaultdict(set)
    for row in rows:
        layouts[row["experiment"], row["plate"]].add((row["well"], row["perturbation_id"]))
    assert len(set(map(frozenset, layouts.values()))) == len(layouts), "wells are drawn per plate"


def test_ids_and_names():
    screen = Screen(treatments=8, positive_controls=2)
    names = {row["perturbation_id"]: (row["perturbation"], row["well_type"]) for row in sites(screen)}
    assert sorted(names) == list(range(screen.classes)) == list(range(11))
    assert names[0] == ("sim0001", "treatment")
    assert names[8] == ("sim0009", "positive_control")
    assert names[10] == ("EMPTY", "negative_control")


@pytest.mark.parametrize("layout", ["fixed", "reshuffled"])
def test_a_treatment_sits_on_one_plate_and_controls_on_all(layout):
    screen = Screen(layout=layout, sites_per_well=1)
    wells = collections.Counter(
        (row["experiment"], row["plate"], row["perturbation_id"], row["well_type"]) for row in sites(screen)
    )
    for experiment in screen.experiments:
        for i in range(screen.classes):
            found = {key[1]: (key[3], n) for key, n in wells.items() if key[0] == experiment and key[2] == i}
            if i < screen.treatments:
                assert list(found.values()) == [("treatment", screen.replicates)]
            elif i < screen.classes - 1:
                assert found == {p: ("positive_control", screen.positive_wells) for p in (1, 2, 3, 4)}
            else:
                assert found == {p: ("negative_control", screen.untreated_wells) for p in (1, 2, 3, 4)}


def test_fixed_groups_stay_together_and_reshuffled_ones_do_not():
    fixed = treatments_by_plate(sites(Screen(layout="fixed")))
    assert len(set(map(frozenset, fixed.values()))) == 4
    reshuffled = treatments_by_plate(sites(Screen(layout="reshuffled")))
    assert len(set(map(frozenset, reshuffled.values()))) > 40
    # a fixed group moves as a whole: it has not the same plate number in every experiment
    group = fixed["SIMA-01", 1]
    assert len({plate for (_, plate), members in fixed.items() if members == group}) > 1


def test_groups_agree_with_sites():
    screen = Screen(layout="reshuffled")
    members = treatments_by_plate(sites(screen))
    assert all(set(g) == members["SIMB-01", p] for p, g in enumerate(groups(screen, "SIMB-01"), start=1))


def test_experiments_of_each_split_are_the_designs_or_those_named():
    screen = Screen(val=(), test=("SIMA-05",))
    assert screen.splits == {"train": Screen().splits["train"], "val": (), "test": ("SIMA-05",)}
    assert {row["split"] for row in sites(screen)} == {"train", "id_test", "test"}


def test_imbalance_shares_the_wells_of_held_out_plates_unevenly():
    balanced, uneven = (sites(Screen(sites_per_well=1, imbalance=a)) for a in (0.0, 0.3))
    assert len(balanced) == len(uneven)
    trained = [[r for r in rows if r["split"] in ("train", "id_test")] for rows in (balanced, uneven)]
    assert trained[0] == trained[1]
    counts = collections.Counter(
        (r["experiment"], r["perturbation_id"])
        for r in uneven
        if r["split"] == "test" and r["well_type"] == "treatment"
    )
    assert max(counts.values()) > 20 and len(counts) < 3 * 24 and sum(counts.values()) == 3 * 24 * 8
    controls = [sum(r["well_type"] != "treatment" for r in rows) for rows in (balanced, uneven)]
    assert controls[0] == controls[1]


def test_seed_changes_groups_and_wells():
    assert sites(Screen(seed=1)) != sites(Screen(seed=2))
    assert sites(Screen(seed=1)) == sites(Screen(seed=1))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"layout": "fixd"}, "layout='fixd'"),
        ({"replicates": 60}, "replicates=60: a plate would need"),
        ({"treatments": 10}, "treatments=10: use a multiple of plates=4"),
        ({"treatments": 24.0}, "treatments=24.0"),
        ({"seed": -1}, "seed=-1"),
        ({"image_size": 8}, "image_size=8"),
        ({"sites_per_well": 0}, "sites_per_well=0"),
        ({"nuisance_strength": -1}, "nuisance_strength=-1"),
        ({"imbalance": -0.3}, "imbalance=-0.3: use 0 for none"),
        ({"cell_types": ("HUVEC",)}, "cell_types: 'HUVEC'"),
        ({"train": ("SIMD-01",)}, "train: experiment 'SIMD-01'"),
        ({"train": ["SIMA-01"]}, "train="),
        ({"train": ()}, "train=(): name at least one experiment"),
        ({"val": ("SIMA-01",)}, "'SIMA-01' is named twice"),
        ({"version": "v1"}, "version='v1' size='small': use one of version=v2 size=small, version=v3 size=large"),
        ({"version": "v2", "size": "large"}, "version='v2' size='large'"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        Screen(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_parse_settings():
    assert parse(["seed=3", "layout=reshuffled", "val=", "nuisance_strength=0.5"]) == Screen(
        seed=3, layout="reshuffled", val=(), nuisance_strength=0.5
    )
    for bad in ("sed=1", "seed", "seed=x"):
        with pytest.raises(ValueError, match=bad.split("=")[0]):
            parse([bad])


def test_import_brings_neither_jax_nor_tensorflow():
    code = "import sys, rxrx_jax.simulate.screen; print({'jax', 'tensorflow', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
