"""Submissions to the competition: what is refused, how they score, and the labels of its two releases."""

import csv
import re

import pytest

from rxrx_jax import submission
from rxrx_jax.base import command, files

WELLS = ["HEPG2-08_1_B03", "HEPG2-08_2_B04", "HUVEC-18_1_B03", "HUVEC-18_1_C03", "U2OS-05_4_O22"]
RIGHT = ["5", "0", "7", "3", "5"]
GIVEN = ["5", "1", "7", "3", "4"]


def write(path, rows, header="id_code,sirna"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


@pytest.fixture
def given(tmp_path):
    return write(tmp_path / "submission.csv", zip(WELLS, GIVEN))


def run(*arguments):
    return command.run(lambda argv: submission.main([str(a) for a in arguments]))


def refused(capsys, *arguments):
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def test_a_whole_one_passes_and_scores_on_both_leaderboards(given, tmp_path, capsys):
    test = write(tmp_path / "test.csv", zip(WELLS), "id_code")
    truth = write(tmp_path / "truth.csv", zip(WELLS, RIGHT))
    assert not run(given, f"--wells={test}", f"--truth={truth}")
    said = capsys.readouterr().out
    assert f"5 wells, each of {test} once" in said
    # By hand: 1 of 2; 2 of 3; 0 of 1.
    for name, value in (("public", "0.50000 of 2"), ("private", "0.66667 of 3"), ("without HUVEC-18", "0.00000 of 1")):
        assert any(name in line and f" {value} wells" in line for line in said.splitlines())


def test_the_truth_may_be_the_published_table_with_labels_withheld(given, tmp_path, capsys):
    kinds = ["treatment"] * 5 + ["negative_control", "treatment"]
    parts = ["test"] * 6 + ["train"]
    names, labels = [*WELLS, "U2OS-05_4_B02", "U2OS-01_1_B03"], [*RIGHT[:2], "", "3", "5", "1138", "9"]
    rows = [row for row in zip(names, kinds, parts, labels) for _ in (1, 2)]  # a row is a site
    assert not run(given, f"--truth={write(tmp_path / 'm.csv', rows, 'well_id,well_type,dataset,sirna_id')}")
    said = capsys.readouterr().out
    assert "0.50000 of 2 wells" in said and "1 wells whose label" in said and "(0" not in said
    assert [line.split()[-4:] for line in said.splitlines() if line.startswith("private ")][
        0
    ] == "0.50000 of 2 wells".split()


@pytest.mark.parametrize(
    "rows, words",
    [
        (list(zip(WELLS, GIVEN))[:-1], "lacks U2OS-05_4_O22, of the 5 wells"),
        (list(zip(WELLS, GIVEN))[:-2], "lacks HUVEC-18_1_C03 and 1 others, of the 5 wells"),
        ([*zip(WELLS, GIVEN), ("RPE-08_1_B03", "1")], "has RPE-08_1_B03, of the 5 wells"),
        ([*zip(WELLS, GIVEN), (WELLS[1], "1")], "HEPG2-08_2_B04 is there twice; keep one"),
        (
            [*zip(WELLS[:-1], GIVEN), (WELLS[-1], "sirna_1")],
            "has the label 'sirna_1', and others are of the form integer",
        ),
        ([(well, f"sirna_{label}") for well, label in zip(WELLS, GIVEN)], "labels of the form text and .* convert it"),
        ([*zip(WELLS[:-1], GIVEN), (WELLS[-1], "")], "O22 has the label ''; use a number"),
        ([*zip(WELLS[:-1], GIVEN), (WELLS[-1], "1.0")], "O22 has the label '1.0'; use a number"),
        ([*zip(WELLS[:-1], GIVEN), (WELLS[-1],)], "submission.csv, line 6: not as many cells as there are columns"),
        ([], "has no row"),
    ],
)
def test_others_are_refused_in_one_line(tmp_path, capsys, rows, words):
    sample = write(tmp_path / "sample.csv", zip(WELLS, "00000"))
    said = refused(capsys, write(tmp_path / "submission.csv", rows), f"--wells={sample}")
    assert re.search(words, said), said


def test_files_that_are_no_tables_are_refused(given, tmp_path, capsys):
    assert "has no column sirna" in refused(capsys, write(tmp_path / "a.csv", [("x", "1")], "id_code,label"))
    assert "cannot be read" in refused(capsys, tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"id_code,sirna\n\xff\xfe,1\n")
    assert "cannot be read" in refused(capsys, tmp_path / "b.csv")
    assert "has no treated well" in refused(capsys, given, f"--truth={write(tmp_path / 'c.csv', [])}")


def test_labels_of_another_release(given, tmp_path, capsys):
    """The other table has wells that this one has not, in its order and with the labels of the sample."""
    names = [f"RPE-01_1_{well}" for well in ("B03", "B04", "B05", "B06")]
    own = write(tmp_path / "own.csv", zip(names, ("1", "3", "4", "5")))
    other = write(tmp_path / "other.csv", zip(names, ("sirna_9", "sirna_2", "sirna_8", "sirna_7")))
    assert "has the label 7, which" in refused(capsys, given, "--labels", own, other, f"--out={tmp_path / 'new.csv'}")
    assert not (tmp_path / "new.csv").exists()
    own = write(tmp_path / "own.csv", zip([*names, "RPE-01_1_B07"], ("1", "3", "4", "5", "7")))
    more = [*zip(names, ("sirna_9", "sirna_2", "sirna_8", "sirna_7")), ("RPE-01_1_B07", "sirna_0")]
    other = write(tmp_path / "other.csv", more)
    sample = write(tmp_path / "sample.csv", [("HUVEC-18_3_D23", "sirna_826"), *((well, "sirna_826") for well in WELLS)])
    assert not run(given, "--labels", own, other, f"--out={tmp_path / 'new.csv'}", f"--wells={sample}")
    assert "6 wells, 1 of them with the label of" in capsys.readouterr().out
    rows = list(csv.reader((tmp_path / "new.csv").read_text().splitlines()))
    assert [well for well, _ in rows[1:]] == ["HUVEC-18_3_D23", *WELLS]
    assert [label for _, label in rows[1:]] == [f"sirna_{n}" for n in (826, 7, 9, 0, 2, 8)]
    twice = write(tmp_path / "twice.csv", [*more, ("RPE-01_1_B08", "sirna_3")])
    own = write(tmp_path / "own.csv", zip([*names, "RPE-01_1_B07", "RPE-01_1_B08"], ("1", "3", "4", "5", "7", "7")))
    said = refused(capsys, given, "--labels", own, twice, f"--out={tmp_path / 'other.csv'}")
    assert "RPE-01_1_B08 is 7 in" in said and "not two releases" in said


def test_out_goes_with_labels(given, capsys):
    with pytest.raises(SystemExit):
        submission.main([str(given), "--out=x.csv"])
    assert "--labels and --out go together" in capsys.readouterr().err


def test_the_real_releases_are_one_to_one(shared_data, tmp_path, capsys):
    """train.csv of the first release, read as a submission, becomes that of the second, but for its two wells more."""
    v1, relaunch = (shared_data / "rxrx1" / name / "train.csv" for name in ("kaggle_v1", "kaggle_relaunch"))
    if not v1.exists() or not relaunch.exists():
        pytest.skip(f"the competition's tables are not in {v1.parent.parent}")
    found = submission.conversion(v1, relaunch)
    assert len(found) == len(set(found.values())) == 1108 and set(found) == set(map(str, range(1108)))
    mine = {row["id_code"]: row["sirna"] for row in files.read_csv(v1)}
    theirs = {row["id_code"]: row["sirna"] for row in files.read_csv(relaunch)}
    assert {well: found[label] for well, label in mine.items()} == {well: theirs[well] for well in mine}
    assert len(theirs) - len(mine) == 2
    # A submission for the wells of the first lacks two of the second's, and converting fills them.
    folder = v1.parent.parent
    listed = [row["id_code"] for row in files.read_csv(folder / "kaggle_v1" / "test.csv")]
    given = write(tmp_path / "submission.csv", ((well, "7") for well in listed))
    assert not run(given, f"--wells={folder / 'kaggle_v1' / 'test.csv'}", f"--truth={folder / 'metadata_rebuilt.csv'}")
    assert "22,088" not in capsys.readouterr().out  # wells, not sites
    sample = folder / "kaggle_relaunch" / "sample_submission.csv"
    assert "of the form integer and" in refused(capsys, given, f"--wells={sample}")
    assert not run(given, "--labels", v1, relaunch, f"--out={tmp_path / 'new.csv'}", f"--wells={sample}")
    assert f"19,899 wells, each of {sample} once" in capsys.readouterr().out
