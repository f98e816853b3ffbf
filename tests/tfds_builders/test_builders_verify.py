"""The verify command finds every difference between records and what is said of them."""

import functools
import json
import os
import pathlib
import shutil

import pytest
from builders_tools import SCREEN_FIELDS, VERSION, read_csv, sign, write_csv

from rxrx_jax import data
from rxrx_jax.base import command, files
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.dataset import READ
from tfds_builders import prepare, verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return prepare.prepare("rxrx_sim", None, tmp_path_factory.mktemp("made"), 1, progress=False, **SCREEN_FIELDS)


@pytest.fixture
def folder(made, tmp_path):
    """A copy to damage."""
    return shutil.copytree(made, tmp_path / VERSION)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_folder_has_no_difference(made, workers, capsys):
    assert verify.verify(made, workers) == []
    assert command.run(verify.main, [str(made), "--workers=1"]) == 0
    assert "64 records are what the build wrote" in capsys.readouterr().out


def shard(folder, split="val", number=0):
    return sorted(folder.glob(f"*-{split}.array_record-*"))[number]


def change_csv(path, index, key, value):
    rows = read_csv(path)
    rows[index][key] = value
    write_csv(path, rows)


def flip(path: pathlib.Path, position: float):
    data = bytearray(path.read_bytes())
    data[int(len(data) * position)] ^= 1
    path.write_bytes(data)


def swap_shards(folder):
    first, second = shard(folder, number=0), shard(folder, number=1)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGE = {
    # the records fill the first 40 of 64 KiB
    "a flipped pixel": (lambda f: flip(shard(f), 0.3), ["val", "record"]),
    "a cut shard": (lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-70000]), ["val.array_record-00000"]),
    "an empty shard": (lambda f: shard(f).write_bytes(b""), ["val.array_record-00000"]),
    "a missing shard": (lambda f: shard(f).unlink(), ["val has 1 shards, dataset_info.json names 2"]),
    "shards swapped": (swap_shards, ["val.array_record-00000", "its bytes are not those of manifest.csv"]),
    "a label": (lambda f: change_csv(f / "sites.csv", 3, "perturbation_id", "5"), ["not that of its id"]),
    "a well_id": (lambda f: change_csv(f / "sites.csv", 3, "well_id", "x"), ["well_id x is not that of"]),
    "a class": (lambda f: change_csv(f / "perturbations.csv", 1, "perturbation", "x"), ["not that of its id"]),
    "an original": (lambda f: change_csv(f / "original.csv", 3, "record_site_id", "x"), ["original.csv has x where"]),
    "a site too many": (
        lambda f: (
            write_csv(f / "set_aside.csv", [dict(site_id="SIMA-01_1_M08_1", reason="r", experiment="", split="")]),
            change_json(f / "metadata.json", lambda c: c.update(set_aside=1)),
        ),
        ["SIMA-01_1_M08_1 is in sites.csv and in set_aside.csv"],
    ),
    "a blank size": (lambda f: change_csv(f / "manifest.csv", 3, "bytes", ""), ["not those of manifest.csv"]),
    "a well": (lambda f: change_csv(f / "sites.csv", 3, "well", "C05"), ["well is", "'C05'"]),
    "a hash": (lambda f: change_csv(f / "manifest.csv", 9, "sha256", "00"), ["not those of manifest.csv"]),
    "an index": (lambda f: change_csv(f / "manifest.csv", 9, "index", "8"), ["index 8"]),
    "a mean": (lambda f: change_csv(f / "manifest.csv", 9, "mean_w2", "1"), ["mean intensities"]),
    "a row twice": (
        lambda f: write_csv(f / "sites.csv", (rows := read_csv(f / "sites.csv"))[:2] + rows[1:-1]),
        ["occurs twice"],
    ),
    "a row less": (
        lambda f: write_csv(f / "sites.csv", read_csv(f / "sites.csv")[:-1]),
        ["sites.csv has 15 rows of test"],
    ),
    "no manifest row": (
        lambda f: write_csv(f / "manifest.csv", read_csv(f / "manifest.csv")[:-1]),
        ["manifest.csv has 15 rows of test, for 16 records"],
    ),
    "statistics": (
        lambda f: change_json(f / "statistics.json", lambda c: c["plate"]["SIMA-01/1"]["mean"].__setitem__(0, 1.0)),
        ["statistics.json is not what the records give"],
    ),
    "histograms": (
        lambda f: change_json(f / "histograms.json", lambda c: c["experiment"]["SIMA-01"][0].__setitem__(0, 1)),
        ["histograms.json is not what the records give"],
    ),
    "set aside": (
        lambda f: (f / "set_aside.csv").write_text("site_id,reason,experiment,split\nx,y,,\n"),
        ["set_aside.csv has 1 rows, metadata.json says 0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_named(folder, kind, capsys):
    damage, words = DAMAGE[kind]
    damage(folder)
    assert command.run(verify.main, [str(folder), "--workers=1"]) == 1
    printed = capsys.readouterr().out
    assert all(word in printed for word in words), printed
    assert "differences" in printed


NAMES = ("metadata.json", "sites.csv", "dataset_info.json", "features.json", "statistics.json", "perturbations.csv")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_prepared_folder_is_one_line(folder, name, capsys):
    (folder / name).unlink()
    assert command.run(verify.main, [str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and name in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["metadata.json", "histograms.json", "manifest.csv", "original.csv"])
def test_other_trouble_is_one_line(folder, name):
    (folder / name).write_text("{")
    with pytest.raises(UserError, match=rf"^[^\n]*{name}[^\n]*; copy the folder again, or rebuild the dataset$"):
        verify.verify(folder)


def side_files(folder):
    return sorted(path.name for path in folder.iterdir() if ".array_record-" not in path.name)


def test_every_file_beside_the_records_is_in_the_sums(made):
    named = {line.split("  ")[1] for line in (made / files.SUMS).read_text().splitlines()}
    assert named == set(side_files(made)) - {files.SUMS} and len(named) == 16


def test_a_flipped_bit_in_any_side_file_is_noticed(folder, capsys):
    for name in side_files(folder):
        whole = (folder / name).read_bytes()
        for position in (0.3, 0.99):
            flip(folder / name, position)
            assert command.run(verify.main, [str(folder), "--workers=1"]) in (1, 2), (name, position)
            said = "".join(capsys.readouterr())
            assert name in said and "Traceback" not in said
            (folder / name).write_bytes(whole)


DAMAGED = {
    "flipped": lambda p: flip(p, 0.5), "cut": lambda p: p.write_bytes(p.read_bytes()[:-20]),
    "empty": lambda p: p.write_bytes(b""), "not UTF-8": lambda p: p.write_bytes(b"\xff\xfe{"),
    "a folder": lambda p: (p.unlink(), p.mkdir()), "a list": lambda p: p.write_text("[1]"),
    "a pipe": lambda p: (p.unlink(), os.mkfifo(p)), "{}": lambda p: p.write_text("{}"),
}  # fmt: skip


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("name", READ)
def test_damage_to_what_training_reads_is_one_line_everywhere(folder, name, sums):
    """Also in a folder of an earlier version, which has no digests; of these a flipped digit may pass."""
    for kind, damage in DAMAGED.items():
        copy = shutil.copytree(folder, folder.parent / f"{kind}.0")
        if not sums:
            change_json(copy / "metadata.json", lambda c: c.pop("sums"))
            (copy / files.SUMS).unlink()
        damage(copy / name)
        verified = functools.partial(verify.verify, workers=1)
        for read in (verified, data.read_dataset, *([prepare.details] if name in prepare.READ else [])):
            try:
                found = read(copy)
            except UserError as error:
                found = [str(error)]
            if sums:
                assert isinstance(found, list) and any(name in line for line in found), (kind, found)
            assert not isinstance(found, list) or all("\n" not in line for line in found)


def test_a_folder_whose_sums_were_deleted_is_refused_and_an_older_one_opens(folder, capsys):
    (folder / files.SUMS).unlink()
    with pytest.raises(UserError, match="SHA256SUMS is missing; copy the folder again"):
        data.read_dataset(folder)
    assert verify.verify(folder, 1) == ["SHA256SUMS is missing"]
    change_json(folder / "metadata.json", lambda c: c.pop("sums"))  # as an earlier version
    assert len(data.read_dataset(folder).sites) == 64 and command.run(verify.main, [str(folder), "--workers=1"]) == 0
    assert "has no SHA256SUMS, as an earlier version prepared it" in capsys.readouterr().out


def test_a_label_that_is_not_that_of_its_record_is_never_read(folder):
    change_csv(folder / "sites.csv", 3, "perturbation_id", "5")
    sign(folder)
    with pytest.raises(ValueError, match=r"its label is \d, in sites.csv 5"):
        data.read_dataset(folder).sources["train"][3]
