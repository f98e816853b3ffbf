"""The commands, from a table of wells to benchmark.json; what cannot be used ends with 2 and one line."""

import dataclasses
import json

import numpy as np
import pandas
import pytest
from map_tools import screen, write
from reference.maps import cases

from rxrx_jax.base import command, embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import __main__ as maps
from rxrx_jax.maps import markdown, table
from rxrx_jax.maps.benchmark import univariate
from rxrx_jax.maps.build import align

CONTROLS = "--controls=EMPTY_control"
REPLICATES = {"null": "none", "consistency": {"scored": 1}, "magnitude": {"scored": 1}}
KNOWN = {"relations": "relations", "genome": "arms.tsv", "targets": "targets.csv", "negatives": "negatives.csv",
         "clusters": "clusters.tsv"}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with screen.parquet, relations/ and arms.tsv (genes of the screen)."""
    folder = tmp_path_factory.mktemp("maps")
    write(screen(), folder / "screen.parquet")
    (folder / "relations").mkdir()
    (folder / "relations/HuMAP.txt").write_text("entity1,entity2\nP4,P5\nP5,P4\nP6,X\n")
    rows = [
        f"{name}\tchr1\t{i}\t{i + 1}\tchr1{'pq'[i % 2]}\n"
        for i, name in enumerate(["P4", "P5", "P6", "P7", "N0", "N1"])
    ]
    (folder / "arms.tsv").write_text("gene\tchrom\tstart\tend\tchrom_arm_name\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def built(files):
    out = files / "map"
    argv = ["build", f"--embeddings={files / 'screen.parquet'}", f"--out={out}", "--align=tvn", CONTROLS]
    assert command.run(maps.main, argv) == 0
    return out


def run(*argv) -> int:
    return command.run(maps.main, [str(one) for one in argv])


def test_the_map_is_the_mean_of_aligned_wells(built):
    columns, features = embeddings.read(built / "map.parquet")
    assert columns.keys() == {"perturbation", "kind", "gene", "guide", "concentration_um", "n_replicates", "n_batches"}
    profiles = screen()
    names = profiles.column("perturbation")
    _, aligned = align.fit(
        "tvn", profiles.features.astype(np.float32), profiles.column("experiment"), names == "EMPTY_control"
    )
    for i, name in enumerate(columns["perturbation"]):
        rows = names == name
        if name == "aspirin":
            rows &= profiles.column("concentration_um") == columns["concentration_um"][i]
        np.testing.assert_allclose(features[i], aligned[rows].mean(0), rtol=1e-4, atol=1e-5)
        assert columns["n_replicates"][i] == rows.sum()
        assert columns["n_batches"][i] == len(set(profiles.column("experiment")[rows]))
    kinds = dict(zip(columns["perturbation"], columns["kind"]))
    assert kinds["EMPTY_control"] == "control" and kinds["aspirin"] == "compound" and kinds["P4"] == "gene"
    assert len(columns["kind"]) == 13 + 1 + 2
    facts = json.loads((built / "build.json").read_text())
    assert (
        facts["marks"] == "C?" and facts["controls_found"] == 80 and facts["by"] == ["perturbation", "concentration_um"]
    )
    again = align.load(built / "aligner.npz")
    np.testing.assert_allclose(again(profiles.features.astype(np.float32), profiles.column("experiment")), aligned)


def test_the_benchmark_scores_it(files, built, capsys):
    (files / "targets.csv").write_text("treatment,gene_symbol,nM_value\naspirin,P4,10\naspirin,P5,99999\nb,Q,1\n")
    (files / "negatives.csv").write_text("treatment,gene_symbol\naspirin,P6\naspirin,P7\n")
    (files / "clusters.tsv").write_text(f"all\t{' '.join(f'P{i}' for i in range(4, 12))} N0 N1\nfew\tP4 P5\n")
    known = [f"--{name}={files / path}" for name, path in KNOWN.items()]
    assert run("benchmark", built, *known) == 0
    page = capsys.readouterr().out
    assert (built / "benchmark.md").read_text() in page and "| HuMAP | CC BY 4.0 | same arm |" in page
    result = json.loads((built / "benchmark.json").read_text())
    (row,) = [row for row in result["recall"] if row["arms"] == "all" and row["low"] == 0.05]
    assert row["pairs"] == 1 and row["recall"] is None  # fewer than twenty genes
    assert result["entities"]["HuMAP"] == {"not_in_map": 1, "of_them_but_for_spelling": 0}
    assert result["genes"] == 13 and result["compound_rows"] == 2 and result["marks"] == "C?"
    assert result["proximity"]["genes"] == 6 and result["proximity"]["without_an_arm"] == 7
    frame = pandas.read_csv(built / "perturbations.csv").set_index("perturbation")
    assert "EMPTY_control" not in frame.index and frame.loc["aspirin 0.1 uM", "replicates"] == 12
    columns, x = embeddings.read(built / "replicates.parquet")
    p4 = [i for i in range(len(x)) if screen().column("perturbation")[i] == "P4"]
    assert frame.loc["P4", "consistency"] == pytest.approx(univariate.consistency(x[p4], np.zeros(8, int))[0], rel=1e-6)
    strong, none = frame[frame.index.str.startswith("P")], frame[frame.index.str.startswith("N")]
    assert strong["consistency_p"].median() < 0.1 < none["consistency_p"].median()
    assert np.isnan(frame.loc["N4", "magnitude"]) and np.isnan(frame.loc["N4", "consistency_p"])
    (against, across) = result["retrieval"]
    assert against["question"] == "replicates against controls" and against["groups"] == 14
    assert across["groups"] == 14 and across["profiles"] == 95 + 24
    assert across["ci_low"] < across["normalised"] < across["ci_high"] < 1
    assert [row["dose"] for row in result["targets"]["rows"]] == [0.1, 1.0, None]
    assert result["targets"]["negatives"] == "given" and result["targets"]["rows"][0]["ap_baseline"] == 1 / 3
    assert result["targets"]["compounds_not_in_map"] == 1 and result["targets"]["genes_not_in_map"] == 1
    assert [row["genes"] for row in result["clusters"]["rows"]] == [10] and result["clusters"]["too_small"] == 1
    assert result["replicates"]["null"] == "matched controls" and result["replicates"]["magnitude"]["scored"] == 14
    assert run("query", built, "aspirin") == 0
    said = capsys.readouterr().out.splitlines()
    at = said.index("| uM | length | magnitude | cosine with P5 |") + 2
    for line, dose in zip(said[at:], ("0.1", "1")):
        assert line.split(" | ")[2] == f"{frame.loc[f'aspirin {dose} uM', 'magnitude']:.3f}"
    assert "length -1.000, magnitude -1.000, cosine" in said[at + 3]


def test_expression_gives_the_null(files, built, monkeypatch):
    monkeypatch.setattr(maps.recall, "LEAST_ENTITIES", 4)
    (files / "zfpkm.csv").write_text("gene,zfpkm\n" + "".join(f"N{i},-4\n" for i in range(4)) + "P4,2\n")
    assert run("benchmark", built, f"--expression={files / 'zfpkm.csv'}") == 0
    result = json.loads((built / "benchmark.json").read_text())
    assert result["replicates"]["null"] == "unexpressed genes" and result["replicates"]["unexpressed"] == 4
    frame = pandas.read_csv(built / "perturbations.csv").set_index("perturbation")
    assert (
        frame.loc["N0", "consistency_p"] != frame.loc["N0", "consistency_p"] and frame.loc["P4", "consistency_p"] >= 0.2
    )


def test_arms_are_centred_and_it_is_said(files, tmp_path, capsys):
    names, _ = cases.gene_map()
    x, arm, _, unexpressed = cases.arms()
    profiles = table.Profiles(x, {"perturbation": names}, tuple(f"embedding_{i}" for i in range(6)))
    write(profiles, tmp_path / "genes.parquet")
    head = "gene\tchrom\tstart\tend\tchrom_arm_name\n"
    rows = "".join(f"{n}\tc\t{i}\t{i}\t{cases.ARMS[a]}\n" for i, (n, a) in enumerate(zip(names, arm)))
    (tmp_path / "arms.tsv").write_text(head + rows)
    level = "".join(f"{n},{-4 if u else 1}\n" for n, u in zip(names, unexpressed))
    (tmp_path / "e.csv").write_text("gene,zfpkm\n" + level)
    argv = ["build", f"--embeddings={tmp_path / 'genes.parquet'}", f"--out={tmp_path / 'm'}", "--arms"]
    assert run(*argv) == 2 and "--arms=shrunk needs to know where genes lie: --genome=FILE" in capsys.readouterr().err
    argv += [f"--genome={tmp_path / 'arms.tsv'}", f"--expression={tmp_path / 'e.csv'}"]
    assert run(*argv) == 0
    assert "arm centring (shrunk): probability " in capsys.readouterr().out
    facts = json.loads((tmp_path / "m/build.json").read_text())["arm_centring"]
    assert facts["unexpressed"] == unexpressed.sum() and facts["by_arm"].keys() == set(cases.ARMS)
    assert abs(facts["probability_after"] - 0.5) < abs(facts["probability_before"] - 0.5)
    assert all(0 <= one["c"] < 1 and one["before"] is not None for one in facts["by_arm"].values())
    alone = [name for name, one in facts["by_arm"].items() if one["c"] == 0]
    assert facts["left_alone"] == alone


@pytest.mark.parametrize("name", ["map.h5ad", "map.csv", "wide.parquet"])
def test_the_map_is_exported(built, tmp_path, name):
    if name.endswith("h5ad"):
        pytest.importorskip("anndata", reason="anndata is not installed")
    assert run("export", built, f"--out={tmp_path / name}", "--names=cytominer") == 0
    found, (columns, features) = table.read(tmp_path / name), embeddings.read(built / "map.parquet")
    np.testing.assert_array_equal(found.features.astype(np.float32), features)
    assert found.column("perturbation").tolist() == columns["perturbation"].tolist()


def spoilt(change):
    profiles = screen()
    columns = {name: values.copy() for name, values in profiles.columns.items()}
    made = dataclasses.replace(profiles, features=profiles.features.copy(), columns=columns)
    change(made)
    return made


def not_a_number(made):
    made.features[17, 3] = np.nan


def without_controls(made):
    made.columns["perturbation"][
        (made.columns["experiment"] == "b2") & (made.columns["perturbation"] == "EMPTY_control")
    ] = "P4"


def without_a_batch(made):
    made.columns["experiment"][5] = ""


def with_wells(made):
    made.columns["well"] = np.array(["Z" if i == 7 else "B02" for i in range(len(made))], object)


def without_a_dose(made):
    made.columns["concentration_um"][len(made) - 3] = np.nan


def a_well_twice(made):
    made.columns["well_id"][9] = "w4"


REFUSED = {
    "dose": (without_a_dose, [], "has no concentration_um, and others of aspirin have one; --drop-invalid"),
    "twice": (a_well_twice, [], "well_id w4 is there twice, rows 4 and 9, and they differ: remove one"),
    "nan": (not_a_number, [], "well_id w17 has a NaN or infinite value of embedding_3; --drop-invalid"),
    "no controls there": (without_controls, ["--align=tvn", CONTROLS], "--align=tvn: b2 has no untreated wells"),
    "control absent": (
        None,
        ["--controls=DMSO"],
        "--controls=DMSO: no row has DMSO in perturbation, but EMPTY_control,",
    ),
    "column absent": (None, ["--by=guide"], "has no column guide; it has concentration_um, experiment, "),
    "batch absent": (None, ["--batch=plate"], "has no column plate"),
    "no batch": (without_a_batch, ["--align=centre"], "well_id w5 has no experiment"),
    "unknown alignment": (None, ["--align=centre,tnv"], "--align='tnv': expected none, centre,"),
    "no wells": (None, ["--align=position"], "has no column well; it has"),
    "not a well": (with_wells, ["--align=position"], "well_id w7 has the well 'Z', which is not one such as B02"),
    "nothing aligned by": (None, ["--align=tvn"], "--align=tvn: b0 has no untreated wells"),
    "few controls": (None, ["--align=pca_centre_scale", "--controls=N4"], "needs at least 4 untreated wells, not 1"),
    "labels": (
        None,
        ["--by=perturbation,experiment"],
        "two rows of the map would be EMPTY_control: --by must tell",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_map_cannot_be_made_of_is_one_line(name, files, tmp_path, capsys):
    change, flags, words = REFUSED[name]
    path = write(spoilt(change), tmp_path / "spoilt.parquet") if change else files / "screen.parquet"
    assert run("build", f"--embeddings={path}", f"--out={tmp_path / 'm'}", *flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1, said
    assert not (tmp_path / "m").exists()


def test_invalid_rows_are_left_out_and_counted(tmp_path, capsys):
    path = write(spoilt(lambda made: (not_a_number(made), without_a_dose(made))), tmp_path / "spoilt.parquet")
    assert run("build", f"--embeddings={path}", f"--out={tmp_path / 'm'}", "--drop-invalid") == 0
    assert "left out: 1 rows not finite" in capsys.readouterr().out
    dropped = json.loads((tmp_path / "m/build.json").read_text())["dropped"]
    assert dropped["rows not finite"] == 1 and dropped["rows without a dose"] == 1
    columns, _ = embeddings.read(tmp_path / "m/map.parquet")
    assert (columns["perturbation"] == "aspirin").sum() == 2  # no third one, of a gene


def test_a_folder_without_a_map_is_one_line(files, tmp_path, capsys):
    for argv, words in (
        (["benchmark", tmp_path], "holds no map.parquet; make one: python -m rxrx_jax.maps build"),
        (["benchmark", files / "map", f"--relations={tmp_path}"], "holds no relation file"),
        (["benchmark", files / "map", "--null=sampled_0_1", "--sides=left", f"--relations={files / 'relations'}"],
         "--null=sampled_0_1 has no one-sided form"),
        (["export", files / "map", f"--out={tmp_path / 'a.txt'}"], "expected a file named"),
        (["benchmark", files / "map", "--negatives=a.csv"], "--negatives=a.csv needs --targets=FILE"),
    ):  # fmt: skip
        assert run(*argv) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said


def test_recall_of_two_nulls_is_not_one_table():
    row = {"source": "A", "licence": "CC0", "side": "two", "low": 0.05, "high": 0.95, "pairs": 1, "recall": 0.1,
           "ci_low": None, "chance": 0.1}  # fmt: skip
    rows = [row | {"null": null} for null in ("all_pairs", "sampled_0_1")]
    for some in (rows[:1], rows[1:]):
        assert markdown.sections({"recall": some, "retrieval": [], "replicates": REPLICATES})
    with pytest.raises(UserError, match="of the nulls all_pairs and sampled_0_1 must not stand in one table"):
        markdown.sections({"recall": rows, "retrieval": [], "replicates": REPLICATES})


def test_labels_of_one_batch_each_have_no_replicates_across(files, tmp_path):
    """Then that question is not asked; a relation file without a gene of the map has no pairs, and is there."""
    profiles = screen()
    kept = profiles.take(profiles.column("perturbation") != "EMPTY_control")
    names = [f"{name}-{batch}" for name, batch in zip(kept.column("perturbation"), kept.column("experiment"))]
    kept.columns["perturbation"] = np.array(names, object)
    write(kept, tmp_path / "one.parquet")
    (tmp_path / "relations").mkdir()
    (tmp_path / "relations/HuMAP.txt").write_text("entity1,entity2\nA,B\n")
    assert run("build", f"--embeddings={tmp_path / 'one.parquet'}", f"--out={tmp_path / 'm'}") == 0
    assert run("benchmark", tmp_path / "m", f"--relations={tmp_path / 'relations'}") == 0
    result = json.loads((tmp_path / "m/benchmark.json").read_text())
    assert "replicates of other batches" not in {row["question"] for row in result["retrieval"]}
    assert [(row["pairs"], row["recall"]) for row in result["recall"]] == [(0, None)] * len(result["recall"]) != []
    assert result["entities"]["HuMAP"]["not_in_map"] == 2


def test_one_replicate_of_each_has_no_p_value(files, tmp_path):
    profiles = screen()
    kept = np.sort(np.unique(profiles.column("perturbation").astype(str), return_index=True)[1])
    write(profiles.take(kept), tmp_path / "one.parquet")
    assert run("build", f"--embeddings={tmp_path / 'one.parquet'}", f"--out={tmp_path / 'm'}") == 0
    assert run("benchmark", tmp_path / "m", f"--relations={files / 'relations'}") == 0
    result = json.loads((tmp_path / "m/benchmark.json").read_text())["replicates"]
    assert result["consistency"]["scored"] == 0 and result["consistency"]["p_below"] is None
