"""Published embeddings joined with the rows of their dataset, by site and by well."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders_embeddings_tools import DIM, ROWS, VALUES, WELLS, make, same, text

from rxrx_jax.base.errors import UserError
from tfds_builders.common.types import SITE_COLUMNS, SetAside
from tfds_builders.embeddings import join


def test_every_row_gets_its_embedding_in_order(tmp_path):
    order = list(np.random.default_rng(1).permutation(list(VALUES)))
    made = make(tmp_path, text(VALUES, order=order), rows=ROWS[::-1])
    same(made.by_id, VALUES)
    assert list(made.columns) == [*SITE_COLUMNS, "concentration_um", "smiles"]
    splits = ("train", "id_test", "val", "test")
    expected = sorted(ROWS, key=lambda r: (splits.index(r["split"]), r["experiment"], r["plate"], r["well"], r["site"]))
    for name, values in made.columns.items():
        wanted = [row[name] for row in expected]
        if name == "perturbation_id":
            wanted = [int(row["perturbation"][1]) for row in expected]  # names in order
        np.testing.assert_array_equal(values, wanted, err_msg=name)
    assert made.about["dim"] == DIM and made.about["embedding_of"] == "site" and made.about["source"] == "here"
    assert made.about["counts"] == {
        "published": 54, "rows": 54, "set_aside": 0, "without_row": 0, "duplicates": 0,
        "splits": {"train": 9, "id_test": 9, "val": 18, "test": 18},
    }  # fmt: skip
    assert made.about["license"] == "l" and made.about["citation"] == "c" and made.about["homepage"] == "h"
    assert made.set_aside == [] == made.unlisted


def test_a_row_group_is_a_plate_of_a_split(tmp_path):
    made = make(tmp_path, text(VALUES))
    with pq.ParquetFile(made.folder / "embeddings.parquet") as file:
        keys = []
        for i in range(file.num_row_groups):
            group = file.read_row_group(i, columns=["split", "experiment", "plate"]).to_pydict()
            keys.append({tuple(values) for values in zip(*group.values())})
    assert all(len(key) == 1 for key in keys) and len(keys) == len(set.union(*keys)) == 12


def test_names_with_and_without_zeros_are_the_same_experiment(tmp_path):
    made = make(tmp_path, text({name.replace("-0", "-"): v for name, v in VALUES.items()}))
    same(made.by_id, VALUES)


def test_copies(tmp_path):
    a, b, c, d = list(VALUES)[:4]
    lines = text(VALUES).splitlines()
    lines += [lines[1], lines[1], f"{b},1,2,3", f"{c},1,nan,3"]
    lines += [f"{d},0,x,3"]
    lines[4] = f"{d},1,x,3"  # both copies bad
    made = make(tmp_path, "\n".join(lines))
    assert made.about["counts"]["duplicates"] == 2 and a in made.by_id
    np.testing.assert_array_equal(made.by_id[a], VALUES[a])
    reasons = {site_id: reason for site_id, reason, *_ in made.set_aside}
    assert reasons == {
        b: "2 embeddings that differ (embeddings.csv line 3, embeddings.csv line 58)",
        c: "2 embeddings that differ (embeddings.csv line 4, embeddings.csv line 59)",
        d: "feature_1 'x' is not a number (embeddings.csv line 5, embeddings.csv line 60)",
    }


def test_rows_without_embedding_and_embeddings_without_row(tmp_path, monkeypatch):
    monkeypatch.setattr(join, "UNLISTED_NAMED", 3)
    given = {name: v for name, v in VALUES.items() if not name.startswith("RPE-01_10_")}
    extra = ["RPE-01_1_P24_1", "RPE-01_3_B02_1", "VERO-01_1_B02_1", "nothing", ""]
    given |= {name: np.zeros(DIM) for name in extra}
    made = make(tmp_path, text(given))
    assert [row[:2] for row in made.set_aside] == [
        (f"RPE-01_10_{well}_{s}", "no embedding") for well in ("AA01", "B02", "B03") for s in (1, 2)
    ]
    counts = made.about["counts"]
    assert counts["without_row"] == 5 and counts["rows"] == 48 and counts["set_aside"] == 6
    assert len(made.unlisted) == 3 and {row[0] for row in made.unlisted} < set(extra)
    assert all(row[1].startswith("embeddings.csv line ") for row in made.unlisted)


def test_rows_that_the_table_sets_aside(tmp_path):
    """They are named, and their embeddings are not without a row."""
    bad = SetAside(ROWS[0]["site_id"], "blank label (metadata.csv line 2)", "HUVEC-01", "train")
    twice = [ROWS[1] | {"cell_type": "RPE"}, ROWS[2]]
    made = make(tmp_path, text(VALUES), rows=[bad, *ROWS[1:], *twice])
    reasons = [(site_id, reason) for site_id, reason, *_ in made.set_aside]
    assert (bad.site_id, bad.reason) in reasons
    assert reasons.count((ROWS[1]["site_id"], "2 rows that disagree")) == 2
    assert sum(site_id == ROWS[2]["site_id"] and "duplicate row" in reason for site_id, reason in reasons) == 1
    assert made.unlisted == [] and made.about["counts"]["without_row"] == 0
    assert made.by_id.keys() == VALUES.keys() - {ROWS[0]["site_id"], ROWS[1]["site_id"]}


def test_nothing_fits(tmp_path):
    with pytest.raises(UserError) as error:
        make(tmp_path, text({"HUVEC_1": np.zeros(DIM)}))
    assert "embeddings.csv line 2 has site_id HUVEC_1, the table has site_id HUVEC-01_1_AA01_1" in str(error.value)
    with pytest.raises(UserError, match="the table has no usable row"):
        make(tmp_path, text(VALUES), rows=[])


# Whole wells.


def test_wells_of_one_site_are_the_site(tmp_path):
    rows = [row for row in ROWS if row["site"] == 1]
    made = make(tmp_path, text(WELLS, key="well_id"), rows=rows)
    same(made.by_id, {f"{name}_1": v for name, v in WELLS.items()})
    assert set(made.columns["site"]) == {1} and made.about["embedding_of"] == "well" and made.about["notes"] == []


def test_wells_of_several_sites_are_rows_of_their_own(tmp_path):
    rows = [row for row in ROWS if row["site_id"] != "HUVEC-01_1_B02_1"]  # one well has its second site only
    rows = [row | ({"smiles": "C"} if row["site_id"] == "RPE-01_1_B03_2" else {}) for row in rows]
    made = make(tmp_path, text(WELLS, key="well_id"), rows=rows)
    torn = "RPE-01_1_B03"
    assert made.set_aside == [(torn, "its sites disagree about what is in the well", "RPE-01", "test")]
    same(made.by_id, {f"{name}_0": v for name, v in WELLS.items() if name != torn})
    assert set(made.columns["site"]) == {0} and [*made.about["notes"]] == [join.WHOLE_WELLS]
    # An embedding of a whole well has seen the training site: it is never in-batch.
    assert made.about["counts"]["splits"] == {"train": 9, "id_test": 0, "val": 9, "test": 8}
    mixed = [row | {"split": "train"} if row["site_id"] == "RPE-01_1_B02_2" else row for row in ROWS]
    made = make(tmp_path, text(WELLS, key="well_id"), rows=mixed)
    assert made.about["counts"]["splits"] == {"train": 10, "id_test": 0, "val": 9, "test": 8}
