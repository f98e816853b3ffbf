"""The tables of RxRx3 and RxRx3-core: the published example rows, the hard cases, every kind of bad row."""

import collections
import math

import pytest
import table_tools
from table_tools import exhaust, split_counts

from rxrx_jax.base.errors import UserError
from tfds_builders.rxrx.rxrx3 import metadata as rxrx3
from tfds_builders.rxrx.rxrx3_core import metadata as core

HEADER = "well_id,experiment_name,plate,address,gene,treatment,SMILES,concentration,perturbation_type,cell_type"
CRISPR = "gene-001_1_A01,gene-001,1,A01,SRC,SRC_guide_2,,,CRISPR,HUVEC"
COMPOUND = 'compound-001_48_AF48,compound-001,48,AF48,,Vitamin D,"C1 |c:1,3,t:5|",0.25,COMPOUND,HUVEC'
ROW = {
    "site_id": "gene-001_1_A01_1", "well_id": "gene-001_1_A01", "cell_type": "HUVEC", "experiment": "gene-001",
    "plate": 1, "well": "A01", "site": 1, "well_type": "treatment", "perturbation": "SRC", "perturbation_id": None,
    "split": "train", "smiles": "", "perturbation_type": "crispr", "treatment": "SRC_guide_2",
}  # fmt: skip


def read(tmp_path, *lines, module=rxrx3, name="metadata", header=HEADER, **tables):
    return exhaust(module.read(table_tools.write(tmp_path, **{name: [header, *lines]}, **tables)))


def reason(tmp_path, line):
    """Why the only row is set aside; it keeps its name, and a good row beside it is read."""
    found = read(tmp_path, line, COMPOUND)
    assert len(found.rows) == 1 and len(found.set_aside) == 1
    assert found.set_aside[0].reason.endswith("(metadata.csv line 2)")
    return found.set_aside[0].reason


def test_the_published_example_rows(tmp_path, shared_data):
    path = shared_data / "rxrx3/rxrx3_readme_example_rows.csv"
    (tmp_path / "metadata.csv").symlink_to(path)
    found = exhaust(rxrx3.read(tmp_path))
    assert not found.set_aside
    keys = ("well_id", "well", "well_type", "perturbation", "perturbation_type", "treatment")
    assert [tuple(row[key] for key in keys) for row in found.rows] == [
        ("gene-079_8_H29", "H29", "treatment", "RPLP2", "crispr", "RPLP2_guide_4"),
        ("gene-045_4_AD27", "AD27", "treatment", "RXRX3-43938", "crispr", "RXRX3-43938_guide_6"),
        ("gene-060_9_P28", "P28", "negative_control", "EMPTY_control", "crispr", "EMPTY_control"),
        ("compound-001_19_D20", "D20", "treatment", "Dequalinium", "compound", "Dequalinium"),
        ("compound-001_11_U08", "U08", "negative_control", "EMPTY_control", "compound", "EMPTY_control"),
        ("compound-004_43_B08", "B08", "negative_control", "CRISPR_control", "compound", "CRISPR_control"),
    ]
    assert [row["concentration_um"] for row in found.rows if not math.isnan(row["concentration_um"])] == [0.25]
    formula = found.rows[3]["smiles"]
    assert formula.count("|") == 2 and formula.endswith("|c:1,13,21,29,31,35,t:16,19,23,27|")
    assert [bool(row["smiles"]) for row in found.rows] == [False, False, False, True, False, False]
    assert all(row["site"] == 1 and row["site_id"] == f"{row['well_id']}_1" for row in found.rows)
    with path.open() as file:
        assert [list(original) for original in found.originals] == [file.readline().strip().split(",")] * 6


def test_a_gene_and_a_compound(tmp_path):
    gene, compound = read(tmp_path, CRISPR, COMPOUND).rows
    assert math.isnan(gene.pop("concentration_um")) and gene == ROW
    assert compound == {
        **ROW, "site_id": "compound-001_48_AF48_1", "well_id": "compound-001_48_AF48", "experiment": "compound-001",
        "plate": 48, "well": "AF48", "perturbation": "Vitamin D", "treatment": "Vitamin D", "concentration_um": 0.25,
        "smiles": "C1 |c:1,3,t:5|", "perturbation_type": "compound",
    }  # fmt: skip


def test_guides_and_doses_of_one_perturbation(tmp_path):
    odd = ["0.002", "0.0025", "0.026", "0.26", "2.6", "10", "1.0", ""]
    found = read(tmp_path, CRISPR, CRISPR.replace("_guide_2", "_guide_6"), CRISPR.replace("SRC_guide_2", "SRC"),
                 *(COMPOUND.replace(",0.25,", f",{dose},") for dose in odd))  # fmt: skip
    assert not found.set_aside
    assert collections.Counter(row["perturbation"] for row in found.rows) == {"SRC": 3, "Vitamin D": 8}
    assert [row["treatment"] for row in found.rows[:3]] == ["SRC_guide_2", "SRC_guide_6", "SRC"]
    doses = [row["concentration_um"] for row in found.rows[3:]]
    assert doses[:-1] == [0.002, 0.0025, 0.026, 0.26, 2.6, 10, 1] and math.isnan(doses[-1])


@pytest.mark.parametrize("name", ["EMPTY_control", "CRISPR_control"])
def test_controls_of_either_kind(tmp_path, name):
    lines = [CRISPR.replace("SRC,SRC_guide_2", f"{name},{name}")]
    lines += [COMPOUND.replace(",Vitamin D,", f",{name},").replace('"C1 |c:1,3,t:5|",0.25', end)
              for end in (",", ",0")]  # fmt: skip
    lines += [lines[1].replace(f",,{name}", f",{name},{name}")]
    found = read(tmp_path, *lines)
    assert not found.set_aside
    assert {(row["perturbation"], row["well_type"]) for row in found.rows} == {(name, "negative_control")}
    assert [row["perturbation_type"] for row in found.rows] == ["crispr", "compound", "compound", "compound"]
    assert any("CRISPR_control" in note and "does not document" in note for note in found.notes)


def test_short_names_of_experiments(tmp_path):
    found = read(tmp_path, CRISPR.replace("gene-001", "gene-1"))
    assert found.rows[0]["site_id"] == "gene-001_1_A01_1" and found.originals[0]["well_id"] == "gene-1_1_A01"


@pytest.mark.parametrize(
    "line, words",
    [
        (CRISPR.replace("SRC,SRC_guide_2", ",SRC_guide_2"), "blank gene"),
        (CRISPR.replace("SRC_guide_2", ""), "blank treatment"),
        (COMPOUND.replace("Vitamin D", ""), "blank treatment"),
        (CRISPR.replace("SRC_guide_2", "HCK_guide_2"), "gene 'SRC' and treatment 'HCK_guide_2' of a CRISPR"),
        (CRISPR.replace("SRC_guide_2", "HCK"), "gene 'SRC' and treatment 'HCK' of a CRISPR row disagree"),
        (CRISPR.replace("SRC_guide_2", "EMPTY_control"), "gene 'SRC' and treatment 'EMPTY_control' of a CRISPR row"),
        (CRISPR.replace("SRC,", "EMPTY_control,"), "gene 'EMPTY_control' and treatment 'SRC_guide_2' of a CRISPR"),
        (COMPOUND.replace(",,Vit", ",SRC,Vit"), "gene 'SRC' and treatment 'Vitamin D' of a COMPOUND row disagree"),
        (COMPOUND.replace(",,Vit", ",EMPTY_control,Vit"), "gene 'EMPTY_control' and treatment 'Vitamin D' of a COMP"),
        (CRISPR.replace(",,,", ",CCO,,"), "SMILES of what is not a compound, SRC_guide_2"),
        (CRISPR.replace(",,,", ",,2.5,"), "concentration of what is not a compound, SRC_guide_2"),
        (COMPOUND.replace("Vitamin D", "EMPTY_control"), "SMILES of what is not a compound, EMPTY_control"),
        (CRISPR.replace("CRISPR", "ORF"), "perturbation_type 'ORF' is not CRISPR or COMPOUND"),
        (CRISPR.replace("CRISPR", ""), "perturbation_type '' is not"),
        (COMPOUND.replace("0.25", "-0.25"), "concentration '-0.25' is not a number"),
        (COMPOUND.replace("0.25", "0.25 uM"), "concentration '0.25 uM' is not a number"),
        (CRISPR.replace("HUVEC", ""), "blank cell_type"),
        (CRISPR.replace(",A01,", ",AG01,"), "address 'AG01' is not a well of A01..AF48"),
        (CRISPR.replace(",A01,", ",,"), "blank address"),
        (CRISPR.replace(",gene-001,", ",,"), "blank experiment_name"),
        (CRISPR.replace(",gene-001,", ",gene-002,"), "well_id gene-001_1_A01 does not match its other columns"),
        (CRISPR.replace(",1,A01", ",x,A01"), "plate 'x' is not a positive integer"),
        (CRISPR + ",", "11 fields in place of 10"),
        (COMPOUND.replace('"', "", 1), "12 fields in place of 10"),
        (COMPOUND.replace('|",', "|,"), "broken quotes"),
    ],
)  # fmt: skip
def test_a_bad_row_is_set_aside_by_name(tmp_path, line, words):
    assert words in reason(tmp_path, line)


@pytest.mark.parametrize("module, files", [(rxrx3, rxrx3.FILES), (core, core.FILES)])
def test_every_published_name_of_the_table(tmp_path, module, files):
    header, line = (HEADER, CRISPR) if module is rxrx3 else (f"{HEADER},well_type_label", f"{CRISPR},Query guides")
    for name in files:
        folder = tmp_path / name
        folder.mkdir()
        found = read(folder, line, module=module, header=header, name=name.removesuffix(".csv"))
        assert len(found.rows) == 1 and found.where == [f"{name} line 2"]
    table_tools.write(folder, **{files[0].removesuffix(".csv"): [header, line]})
    with pytest.raises(UserError, match=f"has both {files[0]} and {files[-1]}: keep one"):
        module.read(folder)


def test_core_has_a_label_of_wells(tmp_path):
    found = read(tmp_path, f"{CRISPR},Query guides", f"{COMPOUND},", module=core, header=f"{HEADER},well_type_label")
    assert [row["well_type_label"] for row in found.rows] == ["Query guides", ""]
    assert math.isnan(found.rows[0].pop("concentration_um"))
    assert found.rows[0] == {**ROW, "well_type_label": "Query guides"}
    with pytest.raises(UserError, match="no column well_type_label"):
        core.read(table_tools.write(tmp_path, metadata=[HEADER, CRISPR]))
    (tmp_path / "metadata.csv").unlink()
    bad = f"{CRISPR.replace('SRC_guide_2', '')},Query guides"
    found = read(tmp_path, bad, module=core, name="metadata_rxrx3_core", header=f"{HEADER},well_type_label")
    assert "blank treatment (metadata_rxrx3_core.csv line 2)" == found.set_aside[0].reason


def test_the_columns_of_core_are_more_than_rxrx3_needs(tmp_path):
    found = read(tmp_path, f"{CRISPR},Query guides", header=f"{HEADER},well_type_label")
    assert "well_type_label" not in found.rows[0] and found.originals[0]["well_type_label"] == "Query guides"


def test_experiments_are_held_out_by_splits_csv(tmp_path):
    found = read(tmp_path, CRISPR, COMPOUND)
    assert split_counts(found) == {"train": 2} and "every site is in train" in found.notes[-1]
    rows = ["experiment,split", "gene-1,train", "compound-001,test"]
    found = read(tmp_path, CRISPR, COMPOUND, splits=rows)
    assert [row["split"] for row in found.rows] == ["train", "test"]
    assert not any("splits.csv" in note for note in found.notes)


@pytest.mark.parametrize(
    "module, words",
    [
        (rxrx3, ["sign in at https://rxrx3.rxrx.ai/downloads", "DIR/metadata.csv", "DIR/images/gene-001/Plate1.tar"]),
        (core, ["recursionpharma/rxrx3-core", "metadata_rxrx3_core.csv", "data/", "hf download", "licence"]),
    ],
)
def test_a_missing_source_says_what_to_fetch(tmp_path, module, words):
    name = module.__name__.split(".")[2]
    for source in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as error:
            module.read(source)
        text = str(error.value)
        assert all(word in text for word in [*words, f"tfds_builders.prepare {name} --source=DIR"]), text
        assert "\n" not in text


def test_rows_are_read_one_by_one(tmp_path):
    lines = [CRISPR.replace("A01", f"{row}{column:02d}") for row in "ABCDEFGH" for column in range(1, 49)]
    table = rxrx3.read(table_tools.write(tmp_path, metadata="\n".join([HEADER, *lines * 10]).encode() + b"\n\xff"))
    first = next(table.rows)
    assert first["well"] == "A01" and first["where"] == "metadata.csv line 2"
    with pytest.raises(UserError, match="not a UTF-8 csv file"):
        list(table.rows)
