"""What is wrong with a user's plates, table or options: one line, or a site set aside with its reason."""

import json
import shutil

import numpy as np
import plates_tools
import pytest
import tifffile
from builders_tools import flat, read_csv, set_aside, write_csv

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import embeddings
from tfds_builders import prepare, verify

PLATES = {"b1": ("p1",), "b2": ("p2",)}
PATTERN = "{plate}/{well}_{site}_c{channel}.tif"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two plates of two wells, two sites and two channels."""
    root = tmp_path_factory.mktemp("plates")
    rows = []
    for batch, plates in PLATES.items():
        for plate in plates:
            (root / plate).mkdir()
            for well in ("A01", "A02"):
                for site in (1, 2):
                    for channel in (1, 2):
                        image = plates_tools.pixels(plate, well, site, channel, size=(32, 32))
                        tifffile.imwrite(root / plate / f"{well}_{site}_c{channel}.tif", image)
                    row = {"Metadata_Plate": plate, "Metadata_Batch": batch, "Metadata_Well": well}
                    rows.append({**row, "Metadata_Site": str(site), "Metadata_gene": f"g{well[-1]}"})
    write_csv(root / "t.csv", rows)
    return root


@pytest.fixture
def tree(written, tmp_path):
    return shutil.copytree(written, tmp_path / "tree")


def run(tree, *changes):
    """Runs the command with some options changed; returns the folder."""
    options = {"source": tree, "metadata": "t.csv", "name": "own", "pattern": PATTERN, "channels": "1:a,2:b"}
    for change in changes:
        name, _, value = change.removeprefix("--").partition("=")
        options[name] = value
    argv = [f"--{name}={value}" for name, value in options.items() if value]
    prepare.main(["images", *argv, f"--out={tree.parent / 'out'}", "--workers=1"])
    (folder,) = (tree.parent / "out" / options["name"]).glob("*/[0-9]*")  # a version, not TFDS's .config
    return folder


def edit(tree, change):
    rows = read_csv(tree / "t.csv")
    write_csv(tree / "t.csv", change(rows) or rows)


OPTIONS = {
    "no name": (["name="], "--name is needed"),
    "capitals": (["name=My"], "--name=My: use small letters"),
    "name of another": (["name=rxrx1"], "--name=rxrx1: that is the name of another dataset"),
    "no such table": (["metadata=x.csv"], "--metadata=x.csv: no such file, nor one in"),
    "no such column": (["plate=Plate"], "--plate: no column Plate; it has Metadata_Plate, Metadata_Batch"),
    "no such control": (["negative-control=pert:x"], "--negative-control: no column pert; it has Metadata_Plate"),
    "half a control": (["negative-control=pert"], "--negative-control=pert: use COLUMN:VALUE"),
    "control of no row": (
        ["negative-control=Metadata_gene:DMSO"],
        "t.csv: --negative-control=Metadata_gene:DMSO: no row has it; Metadata_gene has 'g1' (4), 'g2' (4)",
    ),
    "no channels": (["channels="], "--channels: name those to read, such as 1:DNA; the files have channels 1, 2"),
    "no such channel": (["channels=1:a,3:c"], "--channels: no file has channel 3 (c); they have 1, 2"),
    "channel twice": (["channels=1:a,01:b"], "--channels=1:a,01:b: 1 is there twice"),
    "17 channels": (["channels=" + ",".join(map(str, range(17)))], "--channels: 17 of them; records hold 1 to 16"),
    "nothing fits": (["pattern={plate}/{well}.png"], "one of the 17 there is p1/A01_1_c1.tif"),
    "a stack by name": (["pattern={plate}/{well}_{site}_c1.tif", "channels=a"], "use their numbers in it, from 1"),
    "held out": (["held-out=b3"], "--held-out: no experiment is called b3; t.csv has b1, b2"),
    "all held out": (["held-out=b1,b2"], "--held-out: no experiment is left to train on"),
    "two ways": (["held-out=b1", "splits=s.csv"], "--held-out and --splits: give one of them"),
    "a range": (["range=a:10-5"], "--range=a:10-5: use LOW-HIGH or NAME:LOW-HIGH"),
    "range of none": (["range=x:1-5"], "--range=x:1-5: no channel is called x; there are a, b"),
    "no such part": (["plates=p3"], "plates=p3: the source has no such plate; it has p1, p2"),
    "no such pair": (["experiments=b1", "plates=p2"], "no row is of the chosen experiments, plates and cell types all"),
    "encoding": (["encoding=source"], "own: encoding=source is for published files"),
}


@pytest.mark.parametrize(("changes", "why"), OPTIONS.values(), ids=list(OPTIONS))
def test_a_mistake_in_an_option_is_one_line(written, tmp_path, changes, why):
    (tmp_path / "tree").symlink_to(written)
    with pytest.raises(UserError) as caught:
        run(tmp_path / "tree", *changes)
    assert why in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_source_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder: give the folder of the images as --source"):
        run(tmp_path / "nowhere")


TABLES = {
    "no batch": (lambda rows: [{k: v for k, v in r.items() if k != "Metadata_Batch"} for r in rows],
                 "no column is known to say the experiment: name it with --experiment=COLUMN; it has Metadata_Plate"),
    "other plates": (lambda rows: [r | {"Metadata_Plate": "x" + r["Metadata_Plate"]} for r in rows],
                     "no plate of the files is in the table, which has xp1, xp2; a file is p1/A01_1_c1.tif"),
    "a plate in two": (lambda rows: [r | {"Metadata_Plate": "p1"} for r in rows],
                       "plate p1 is in several experiments: say in --pattern where"),
    "one name for two": (lambda rows: [r | dict(zip(("Metadata_Batch", "Metadata_Plate"), pair))
                                       for r, pair in zip(rows, [("b", "1_2"), ("b_1", "2")] * 4)],
                         "two plates would have the name EXPERIMENT_PLATE b_1_2"),
    "no site is whole": (lambda rows: [r | {"Metadata_Site": "9"} for r in rows], "no site can be used; 8 set aside"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "why"), TABLES.values(), ids=list(TABLES))
def test_a_mistake_in_the_table_is_one_line(tree, change, why):
    edit(tree, change)
    with pytest.raises(UserError) as caught:
        run(tree)
    assert why in str(caught.value) and "\n" not in str(caught.value)
    assert not (tree.parent / "out").exists()


def test_an_experiment_that_splits_csv_does_not_know_is_one_line(tree):
    (tree / "s.csv").write_text("experiment,split\nb1,train\n")
    with pytest.raises(UserError, match="experiment b2 is not in splits.csv"):
        run(tree, "splits=s.csv")


def test_rows_that_cannot_be_trusted_are_set_aside_with_their_line(tree):
    def change(rows):
        rows[0]["Metadata_Well"] = "Z99"
        rows[1]["Metadata_Site"] = "two"
        rows[2]["Metadata_Plate"] = ""
        rows.append(rows[3] | {"Metadata_gene": "other"})
        rows.append(rows[4])
        rows.append(rows[5] | {"Metadata_Plate": "p/2"})

    edit(tree, change)
    folder = run(tree)
    assert verify.verify(folder, 1) == [] and len(flat(folder)) == 4
    assert sorted(set_aside(folder)) == [
        ("b1_p1_A02_2", "2 rows that disagree"),
        ("b1_p1_A02_2", "2 rows that disagree"),
        ("b2_p2_A01_1", "duplicate row (t.csv line 11)"),
        ("p/2", "Metadata_Plate 'p/2' is not a name of letters, digits, spaces, dots, + and - that can be part of a "
         "file's name (t.csv line 12)"),
        ("p1", "Metadata_Site 'two' is not a number of zero or more (t.csv line 3)"),
        ("p1", "Metadata_Well 'Z99' is not a well of A01..AF48 (t.csv line 2)"),
        ("t.csv line 4", "blank Metadata_Plate (t.csv line 4)"),
    ]  # fmt: skip
    # images of rows that are not there any more
    assert {row["file"] for row in read_csv(folder / "unlisted.csv")} == {
        f"p1/{place}_c{channel}.tif" for place in ("A01_1", "A01_2", "A02_1") for channel in (1, 2)
    }


def test_images_that_cannot_be_trusted_are_set_aside_with_their_reason(tree):
    (tree / "p1" / "A01_1_c1.tif").write_bytes((tree / "p1" / "A01_1_c1.tif").read_bytes()[:-9])
    (tree / "p1" / "A01_2_c2.tif").unlink()
    tifffile.imwrite(tree / "p1" / "A02_1_c1.tif", np.zeros((16, 32), np.uint16))
    tifffile.imwrite(tree / "p1" / "A02_2_c2.tif", np.zeros((2, 32, 32), np.uint16), photometric="minisblack")
    (tree / "p2" / "A01_1_c1.tif").write_bytes(b"")
    shutil.copy(tree / "p2" / "A01_2_c1.tif", tree / "p2" / "A02_02_c1.tif")  # site 2 again
    shutil.copy(tree / "p2" / "A02_1_c2.tif", tree / "p2" / "A2_1_c2.tif")  # the same
    folder = run(tree)
    assert verify.verify(folder, 1) == [] and set(flat(folder)) == {"b2_p2_A01_2", "b2_p2_A02_1"}
    assert sorted(set_aside(folder)) == [
        ("b1_p1_A01_1", "a: truncated TIFF"),
        ("b1_p1_A01_2", "missing b"),
        ("b1_p1_A02_1", "a: 32x16 pixels in place of 32x32"),
        ("b1_p1_A02_2", "b: 2 channels in a file of one"),
        ("b2_p2_A01_1", "a: empty file"),
        ("b2_p2_A02_2", "a: two files that differ (p2/A02_02_c1.tif, p2/A02_2_c1.tif)"),
    ]


def test_pointers_of_git_lfs_are_named(tree):
    """In a tree of nothing else, and where some images are there."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
    images = {path: path.read_bytes() for path in sorted(tree.rglob("*.tif"))}
    for path in images:
        path.write_bytes(pointer)
    why = "no image of 8 training sites can be read; p1/A01_1_c1.tif: a Git LFS pointer, not the image: run `git lfs"
    with pytest.raises(UserError, match=why):
        run(tree)
    for path in list(images)[1:]:
        path.write_bytes(images[path])
    assert set_aside(run(tree)) == [("b1_p1_A01_1", "a: a Git LFS pointer, not the image: run `git lfs pull`")]


def test_a_control_may_be_named_by_what_is_missing_elsewhere(tree):
    """The control is looked for first: a blank or NaN is one if the user says so, and no label otherwise."""
    edit(tree, lambda rows: [r | {"Metadata_gene": {"1": "", "2": "nan"}[r["Metadata_Well"][-1]]} for r in rows])
    folder = run(tree, "negative-control=Metadata_gene:")
    found = {(row["well"], row["well_type"], row["perturbation"]) for row in read_csv(folder / "sites.csv")}
    assert found == {("A01", "negative_control", "EMPTY"), ("A02", "treatment", "")}


def test_a_channel_of_two_depths_is_kept_and_said(tree):
    """An 8-bit file is taken as it is; that the two do not share a scale is a note."""
    eight = (tifffile.imread(tree / "p2" / "A01_1_c1.tif") // 16).astype(np.uint8)
    tifffile.imwrite(tree / "p2" / "A01_1_c1.tif", eight)
    folder = run(tree)
    assert np.array_equal(flat(folder)["b2_p2_A01_1"]["image"][..., 0], eight)
    facts = json.loads((folder / "metadata.json").read_text())
    assert facts["images_8_bit"] == {"a": 1, "b": 0} and facts["images_16_bit"] == {"a": 7, "b": 8}
    assert [note for note in facts["notes"] if note.startswith("a has images of 8 bits (1) and of 16 (7)")]


def test_a_constant_channel_is_named(tree, capsys):
    """In what the build prints, in the report and by verify."""
    tifffile.imwrite(tree / "p1" / "A01_1_c2.tif", np.full((32, 32), 700, np.uint16))
    folder = run(tree, "channels=1:DNA,2:RNA")
    note = "1 channels have one value throughout, such as b1_p1_A01_1 w2 RNA (train); repeats.csv names all."
    assert f"note       {note}" in capsys.readouterr().out and note in (folder / "report.html").read_text()
    assert verify.examine(folder, 1, False) == ([], [note])


def test_a_prepared_name_keeps_its_description(tree):
    run(tree)
    with pytest.raises(UserError, match="was prepared with other settings .channels='1:a,2:b'.: delete it or use"):
        run(tree, "channels=2:b")
    run(tree)  # and is left as it is


def test_links_out_of_the_source_are_refused(tree, tmp_path):
    outside = tmp_path / "outside.tif"
    (tree / "p1" / "A01_1_c1.tif").rename(outside)
    (tree / "p1" / "A01_1_c1.tif").symlink_to(outside)
    folder = run(tree)
    ((name, reason),) = set_aside(folder)
    assert name == "b1_p1_A01_1" and "a link out of the source folder" in reason


def test_plates_without_labels_are_prepared_all_the_same(tree):
    edit(tree, lambda rows: [{k: v for k, v in row.items() if k != "Metadata_gene"} for row in rows])
    folder = run(tree)
    assert verify.verify(folder, 1) == [] and {row["perturbation_id"] for row in read_csv(folder / "sites.csv")} == {
        "-1"
    }
    notes = json.loads((folder / "metadata.json").read_text())["notes"]
    assert "8 sites have no label (perturbation_id -1): no column says the perturbation." in notes


def test_numbers_are_names_too(tree):
    """Plates 007 and 7, and batches B-1 and B-01, are two each; published datasets would take them for one."""
    names = {"p1": "007", "p2": "7", "b1": "B-1", "b2": "B-01"}
    for plate in ("p1", "p2"):
        (tree / plate).rename(tree / names[plate])
    edit(tree, lambda rows: [{key: names.get(value, value) for key, value in row.items()} for row in rows])
    folder = run(tree)
    found = {(record["experiment"], record["plate"]) for record in flat(folder).values()}
    assert found == {("B-1", "007"), ("B-01", "7")}
    dataset = data.read_dataset(folder)
    assert set(embeddings.columns(dataset, np.arange(8))["plate"].tolist()) == {"007", "7"}
    for chosen in ("plates=007", "experiments=B-1"):
        part = run(tree, chosen, f"name=part_{chosen[:6]}")
        assert {record["plate"] for record in flat(part).values()} == {"007"}
