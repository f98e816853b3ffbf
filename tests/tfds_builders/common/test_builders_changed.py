"""A source that changes while or after it is built: what resumes, what starts over, and what --strict refuses."""

import csv
import errno
import os
import shutil

import pytest
from builders_tools import SCREEN_FIELDS, Killed, build, contents, flat, kill_at, read_csv

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare
from tfds_builders.common import finish, plates


@pytest.fixture
def tree(tmp_path):
    simulate.write_published(simulate.Screen(**SCREEN_FIELDS), tmp_path / "tree")
    return tmp_path / "tree"


def test_another_source_or_table_starts_over(tmp_path, monkeypatch, tree):
    with monkeypatch.context() as patch:
        kill_at(patch, finish._Tables, "join", 1)
        with pytest.raises(Killed):
            build(tree, tmp_path)
    shutil.copytree(tree, tmp_path / "other")
    table = (tmp_path / "other/metadata.csv").read_text().splitlines()
    (tmp_path / "other/metadata.csv").write_text("\n".join(table[:-4]) + "\n")
    folder = build(tmp_path / "other", tmp_path)
    assert len(flat(folder)) == 60
    assert prepare.details(folder)["source"] == str(tmp_path / "other")


def test_strict_stops_at_the_first_and_resumes_when_it_is_fixed(tmp_path, tree):
    file = next(tree.glob("images/SIMB-01/Plate2/*_s2_w4.png"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    well = file.name.split("_")[0]
    for _ in range(2):
        with pytest.raises(UserError, match=f"^SIMB-01_2_{well}_2: w4: truncated PNG .*--strict"):
            build(tree, tmp_path, strict=True)
    file.write_bytes(whole)
    folder = build(tree, tmp_path, strict=True)
    assert len(flat(folder)) == 64
    build(tree, tmp_path / "again")
    assert contents(folder) == contents(prepare.find("rxrx1", tmp_path / "again"))


@pytest.mark.parametrize("what", ["row", "file"])
def test_strict_also_stops_at_rows_and_files(tmp_path, tree, what):
    if what == "row":
        with open(tree / "metadata.csv", "a") as file:
            file.write("x,y\n")
        words = "2 fields in place of 11"
    else:
        (tree / "images/SIMA-01/Plate1/P09_s1_w1.png").write_bytes(b"x")
        words = "P09_s1_w1.png: an image file without a row"
    with pytest.raises(UserError, match=words):
        build(tree, tmp_path, strict=True)
    assert len(flat(build(tree, tmp_path))) == 64  # without it, the build resumes


def test_what_was_fixed_since_a_build_stopped_is_built(tmp_path, monkeypatch, tree):
    """Images that come back after the plate was done are in the records, as if they had always been there."""
    plate = tree / "images/SIMA-01/Plate1"
    plate.rename(tmp_path / "away")
    with monkeypatch.context() as patch:
        kill_at(patch, finish._Tables, "join", 1)
        with pytest.raises(Killed):
            build(tree, tmp_path)
    (tmp_path / "away").rename(plate)
    folder = build(tree, tmp_path)
    assert len(flat(folder)) == 64
    assert contents(folder) == contents(build(tree, tmp_path / "again"))


def test_a_file_that_is_not_a_table_does_not_start_over(tmp_path, monkeypatch, tree):
    with monkeypatch.context() as patch:
        kill_at(patch, finish._Tables, "join", 1)
        with pytest.raises(Killed):
            build(tree, tmp_path)
    (tree / "notes.csv").write_text("x")
    os.utime(tree / "metadata.csv")
    with monkeypatch.context() as patch:
        calls = kill_at(patch, plates._PlateWriter, "add", 10**9)
        build(tree, tmp_path)
    assert not calls


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENOMEM])
def test_an_error_beside_the_files_stops_the_build_and_it_resumes(tmp_path, monkeypatch, tree, code):
    """A network drive that goes away damages no image: nothing is set aside."""
    opened, original = [], os.open

    def fail(path, *args, **kwargs):
        if str(path).endswith(".png"):
            opened.append(path)
            if len(opened) == 100:
                raise OSError(code, os.strerror(code), str(path))
        return original(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(UserError, match=r"w\d.png: .*: run the same command when it can be read, to resume"):
            build(tree, tmp_path)
    folder = build(tree, tmp_path)
    assert len(flat(folder)) == 64
    assert contents(folder) == contents(build(tree, tmp_path / "again"))


def test_a_source_that_goes_away_stops_the_build(tmp_path, monkeypatch, tree):
    with monkeypatch.context() as patch:
        original = plates._PlateWriter.add

        def add(self, row, image, files):
            if row["experiment"] == "SIMA-02" and (tree / "images").exists():
                (tree / "images").rename(tmp_path / "unmounted")
            original(self, row, image, files)

        patch.setattr(plates._PlateWriter, "add", add)
        with pytest.raises(UserError, match="images no longer exists"):
            build(tree, tmp_path)
    (tmp_path / "unmounted").rename(tree / "images")
    assert len(flat(build(tree, tmp_path))) == 64


def test_strict_on_a_folder_that_lacks_sites_is_an_error(tmp_path, tree):
    next(tree.glob("images/SIMA-01/Plate1/*_s2_w4.png")).unlink()
    build(tree, tmp_path)
    with pytest.raises(UserError, match="1 sites or files are not in its records"):
        build(tree, tmp_path, strict=True)


def test_strict_does_not_take_over_what_was_set_aside_before(tmp_path, monkeypatch, tree):
    next(tree.glob("images/SIMA-01/Plate1/*_s2_w4.png")).unlink()
    with monkeypatch.context() as patch:
        kill_at(patch, finish._Tables, "join", 1)
        with pytest.raises(Killed):
            build(tree, tmp_path)
    with pytest.raises(UserError, match="missing w4"):
        build(tree, tmp_path, strict=True)


def test_an_empty_build_is_not_kept(tmp_path, tree):
    shutil.move(tree / "images", tmp_path / "images")
    (tree / "images/SIMA-01/Plate1").mkdir(parents=True)
    (tree / "images/SIMA-01/Plate1/B02_s1_w1.png").write_bytes(b"")
    with pytest.raises(UserError):
        build(tree, tmp_path)
    shutil.rmtree(tree / "images")
    shutil.move(tmp_path / "images", tree / "images")
    assert len(flat(build(tree, tmp_path))) == 64


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A smaller tree, whose build was stopped at its end."""
    fields = dict(
        image_size=32, treatments=1, positive_controls=1, replicates=1, positive_wells=1, untreated_wells=1,
        plates=1, train=("SIMA-01",), val=("SIMA-02",), test=("SIMB-01",),
    )  # fmt: skip
    simulate.write_published(simulate.Screen(**fields), tmp_path / "tree")
    with monkeypatch.context() as patch:
        kill_at(patch, finish._Tables, "join", 1)
        with pytest.raises(Killed):
            build(tmp_path / "tree", tmp_path)
    return tmp_path / "tree"


def test_a_changed_table_of_the_same_folder_starts_over(stopped, tmp_path):
    table = stopped / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    folder = build(stopped, tmp_path)
    assert len(read_csv(folder / "sites.csv")) == len(lines) - 2


def test_a_table_written_again_with_the_same_size_starts_over(stopped, tmp_path):
    table = stopped / "metadata.csv"
    text, time = table.read_text(), table.stat().st_mtime_ns
    rows = list(csv.DictReader(text.splitlines()))
    old, new = rows[0]["well"], "P24"
    table.write_text(text.replace(f"_{old}", f"_{new}").replace(f",{old},", f",{new},"))
    plates.os.utime(table, ns=(time + 10**9, time + 10**9))
    folder = build(stopped, tmp_path)
    assert any(item["site_id"].endswith(f"_{new}_1") for item in read_csv(folder / "set_aside.csv"))


def test_a_stray_file_stops_a_strict_build(stopped, tmp_path):
    (stopped / "images/SIMA-01/notes.txt").write_text("")
    with pytest.raises(UserError, match="notes.txt: a file that belongs to no plate"):
        build(stopped, tmp_path, strict=True)


def test_images_without_rows_are_no_matter_of_another_experiment(stopped, tmp_path):
    (stopped / "images/SIMC-01/Plate1").mkdir(parents=True)
    (stopped / "images/SIMC-01/Plate1/B02_s1_w1.png").write_bytes(b"x")
    count = lambda **choice: len(read_csv(build(stopped, tmp_path, **choice) / "unlisted.csv"))  # noqa: E731
    assert (count(experiments="SIMA-01"), count()) == (0, 1)
