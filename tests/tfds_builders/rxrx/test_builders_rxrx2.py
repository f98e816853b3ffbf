"""The tables of RxRx2, RxRx19a and RxRx19b: every form of a row, every kind of bad row, splits, what to download."""

import math

import pytest
import table_tools
from table_tools import exhaust, split_counts

from rxrx_jax.base.errors import UserError
from tfds_builders.common.rows import tables
from tfds_builders.rxrx.rxrx2 import metadata as rxrx2
from tfds_builders.rxrx.rxrx19a import metadata as rxrx19a
from tfds_builders.rxrx.rxrx19b import metadata as rxrx19b

NAMES = "site_id,well_id,cell_type,experiment,plate,well,site"
HEADERS = {
    rxrx2: f"{NAMES},treatment,treatment_conc",
    rxrx19a: f"{NAMES},disease_condition,treatment,treatment_conc,SMILES",
    rxrx19b: f"{NAMES},disease_condition,treatment,treatment_conc,SMILES",
}
SITE = {"site_id": "HUVEC-01_2_AF48_4", "well_id": "HUVEC-01_2_AF48", "experiment": "HUVEC-01", "plate": 2,
        "well": "AF48", "site": 4, "cell_type": "HUVEC", "split": "train"}  # fmt: skip
START = "HUVEC-1_2_AF48_4,HUVEC-1_2_AF48,HUVEC,HUVEC-1,2,AF48,4"
GOOD = {
    rxrx2: '"TGF beta, type 1",0.001',
    rxrx19a: "Mock,GS-441524,0.3,C1 |c:2|",
    rxrx19b: "storm-severe,GS-441524,0.3,C1 |c:2|",
}
both = pytest.mark.parametrize("module", [rxrx19a, rxrx19b])
every = pytest.mark.parametrize("module", [rxrx2, rxrx19a, rxrx19b])


def read(tmp_path, module, *ends, **tables):
    """Reads rows of one site that differ in what follows its names."""
    lines = [f"{START},{end}" for end in ends]
    return exhaust(module.read(table_tools.write(tmp_path, metadata=[HEADERS[module], *lines], **tables)))


def one(tmp_path, module, end):
    found = read(tmp_path, module, end)
    assert not found.set_aside
    return found.rows[0]


def test_soluble_factors_have_milligrams_per_millilitre(tmp_path):
    assert one(tmp_path, rxrx2, '"TGF beta, type 1",0.001') == {
        **SITE, "well_type": "treatment", "perturbation": "TGF beta, type 1", "perturbation_id": None,
        "concentration_mg_ml": 0.001,
    }  # fmt: skip


@both
def test_compounds_have_a_condition_and_a_formula(tmp_path, module):
    assert one(tmp_path, module, 'storm-severe,GS-441524,0.3,"CC(=O)N |c:1,2,t:3|"') == {
        **SITE, "well_type": "treatment", "perturbation": "GS-441524", "perturbation_id": None,
        "concentration_um": 0.3, "smiles": "CC(=O)N |c:1,2,t:3|", "condition": "storm-severe",
    }  # fmt: skip


@every
def test_a_blank_treatment_is_an_untreated_well(tmp_path, module):
    for treatment, dose in (("", ""), ("EMPTY", ""), ("", "0")):
        end = f"{treatment},{dose}" if module is rxrx2 else f"Mock,{treatment},{dose},"
        row = one(tmp_path, module, end)
        assert (row["perturbation"], row["well_type"], row["perturbation_id"]) == ("EMPTY", "negative_control", None)
        value = row["concentration_mg_ml" if module is rxrx2 else "concentration_um"]
        assert math.isnan(value) if not dose else value == 0


@both
def test_mock_irradiated_and_infected_wells_stay_apart(tmp_path, module):
    conditions = ["Mock", "UV Inactivated SARS-CoV-2", "Active SARS-CoV-2", "healthy", ""]
    rows = read(tmp_path, module, *(f"{condition},,," for condition in conditions)).rows
    assert [row["condition"] for row in rows] == conditions and {row["perturbation"] for row in rows} == {"EMPTY"}


@every
def test_two_doses_are_one_perturbation(tmp_path, module):
    end = GOOD[module]
    dose = "0.001" if module is rxrx2 else "0.3"
    rows = read(tmp_path, module, *(end.replace(dose, other) for other in ("0.1", "1e-3", ""))).rows
    assert len({row["perturbation"] for row in rows}) == 1
    values = [row.get("concentration_um", row.get("concentration_mg_ml")) for row in rows]
    assert values[:2] == [0.1, 0.001] and math.isnan(values[2])


@every
@pytest.mark.parametrize(
    "dose, treatment, reason",
    [
        ("-1", "X", "concentration '-1' is not a number of zero or more"),
        ("high", "X", "concentration 'high' is not a number"),
        ("inf", "X", "concentration 'inf' is not a number"),
        ("3", "", "concentration 3 of no treatment"),
    ],
)
def test_a_row_that_contradicts_itself_is_set_aside(tmp_path, module, dose, treatment, reason):
    bad = f"{treatment},{dose}" if module is rxrx2 else f"Mock,{treatment},{dose},"
    found = read(tmp_path, module, bad, GOOD[module])
    assert len(found.rows) == 1 and found.rows[0]["perturbation"] != "X"
    (item,) = found.set_aside
    assert (item.site_id, item.experiment, item.split) == ("HUVEC-01_2_AF48_4", "HUVEC-01", "train")
    assert item.reason.startswith(reason) and item.reason.endswith("(metadata.csv line 2)")


@both
def test_a_formula_without_a_treatment_is_set_aside(tmp_path, module):
    assert "SMILES of no treatment" in read(tmp_path, module, "Mock,,,CCO").set_aside[0].reason


@every
def test_bad_names_are_set_aside(tmp_path, module):
    good = f"{START},{GOOD[module]}"
    bad = [good.replace(",AF48,", ",AG48,"), good.replace(",2,AF48,", ",3,AF48,"), good.replace(",4,", ",,", 1),
           good.replace(",HUVEC,", ",,"), good[:-3] + ",,"]  # fmt: skip
    found = exhaust(module.read(table_tools.write(tmp_path, metadata=[HEADERS[module], *bad, good])))
    assert len(found.rows) == 1
    words = ["not a well of A01..AF48", "does not match", "blank site", "blank cell_type", "fields in place of"]
    assert [word in item.reason for word, item in zip(words, found.set_aside, strict=True)] == [True] * 5


@every
def test_where_a_row_is_and_what_it_was(tmp_path, module):
    found = read(tmp_path, module, GOOD[module])
    assert found.where == ["metadata.csv line 2"]
    assert list(found.originals[0]) == HEADERS[module].split(",") and found.originals[0]["experiment"] == "HUVEC-1"


@every
def test_experiments_are_held_out_by_splits_csv(tmp_path, module):
    found = read(tmp_path, module, GOOD[module])
    assert split_counts(found) == {"train": 1} and found.facts["split_by"] == "nothing: all train"
    assert "every site is in train" in found.notes[-1] and "splits.csv" in found.notes[-1]
    found = read(tmp_path, module, GOOD[module], splits=["experiment,split", "HUVEC-01,val"])
    assert split_counts(found) == {"val": 1} and found.facts["split_by"] == "splits.csv of the source"
    assert not any("splits.csv" in note for note in found.notes)
    with pytest.raises(UserError, match="experiment HUVEC-01 is not in splits.csv"):
        read(tmp_path, module, GOOD[module], splits=["experiment,split", "HUVEC-02,val"])


@every
def test_all_sites_of_a_training_experiment_are_train(tmp_path, module):
    lines = [f"{START},{GOOD[module]}".replace("AF48_4", f"AF48_{i}").replace(",4,", f",{i},") for i in (1, 2, 3, 4)]
    tables = {"metadata": [HEADERS[module], *lines], "splits": ["experiment,split", "HUVEC-1,train"]}
    found = exhaust(module.read(table_tools.write(tmp_path, **tables)))
    assert split_counts(found) == {"train": 4} and [row["site"] for row in found.rows] == [1, 2, 3, 4]


@every
def test_a_missing_source_says_what_to_download(tmp_path, module):
    name = module.__name__.split(".")[2]
    for source in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as error:
            module.read(source)
        text = str(error.value)
        words = [
            f"tfds_builders.download {name} --to=DIR",
            f"https://www.rxrx.ai/{name}#Download",
            "metadata.csv",
            "images/",
        ]
        words += [f"tfds_builders.prepare {name} --source=DIR"] + (["believed"] if module is rxrx19a else [])
        assert all(word in text for word in words) and "\n" not in text, text


@every
def test_a_table_of_something_else_is_an_error_at_once(tmp_path, module):
    header = HEADERS[module].replace("treatment_conc", "dose")
    with pytest.raises(UserError, match="no column treatment_conc"):
        module.read(table_tools.write(tmp_path, metadata=[header]))


def test_columns_are_the_published_ones():
    for module, header in HEADERS.items():
        assert list(module.COLUMNS) == header.split(",")
    assert set(tables.SITE_COLUMNS) <= set(rxrx2.COLUMNS)


@every
def test_a_spelling_of_missing_is_no_treatment(tmp_path, module):
    blank = {rxrx2: ",", rxrx19a: "Mock,,,", rxrx19b: "Mock,,,"}[module]
    spelled = {rxrx2: "NaN,nan", rxrx19a: "Mock,None,NA,-", rxrx19b: "Mock,N/A,null,-"}[module]
    found = read(tmp_path, module, spelled)
    assert [str(row) for row in found.rows] == [str(one(tmp_path, module, blank))]
    assert found.rows[0]["perturbation"] == "EMPTY" and "Read as blank, not as a name: " in found.notes[-1]
