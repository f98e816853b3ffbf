"""Folders of image files and their links, with whatever may be wrong with them; and what kind of source one is."""

import os
import pathlib
import pickle

import pytest
from sources_tools import OUTSIDE, PLATE, beside, contents, make_tar, png, reason, write

from rxrx_jax.base.errors import UserError
from tfds_builders.common import sources
from tfds_builders.common.sources import files as lib


@pytest.fixture
def failing(monkeypatch):
    """Makes the listing of folders of these names fail, as for a user who may not read them."""

    def fail(*names):
        scandir = os.scandir

        def fake(path):
            if pathlib.Path(path).name in names:
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(lib.os, "scandir", fake)

    return fail


def test_a_published_tree(root):
    write(root, {
        "images/HUVEC-01/Plate1/B02_s1_w1.png": b"one", "images/HUVEC-01/Plate1/AF48_s2_w6.png": b"two",
        "images/HUVEC-01/Plate12/C03_s1_w1.png": b"three", "images/RPE-2/Plate1/B02_s1_w1.png": b"four",
        "images/HUVEC-01/Plate1/._B02_s1_w1.png": b"", "images/HUVEC-01/Plate1/.DS_Store": b"",
        "images/HUVEC-01/Plate1/B02_s1_w1.PNG": b"", "images/HUVEC-01/Plate1/B02_s01_w1.png": b"",
        "images/HUVEC-01/Plate1/notes/a.txt": b"", "images/HUVEC-01/plate2/B02_s1_w1.png": b"",
        "images/readme.txt": b"", "metadata.csv": b"",
    })  # fmt: skip
    source = pickle.loads(pickle.dumps(sources.Folders(root)))
    assert source.plates() == [("HUVEC-01", 1), ("HUVEC-01", 12), ("RPE-02", 1)]
    assert contents(source) == {("B02", 1, 1): b"one", ("AF48", 2, 6): b"two"}
    assert contents(source, ("RPE-02", 1)) == {("B02", 1, 1): b"four"}
    folder = "images/HUVEC-01/Plate1"
    assert beside(source) == ([f"{folder}/B02_s01_w1.png", f"{folder}/B02_s1_w1.PNG", f"{folder}/notes"], "")
    assert source.strays() == ["images/HUVEC-01/plate2", "images/readme.txt"]
    with source.open("RPE-02", 1) as files:
        assert files.name("B02", 1, 1) == "images/RPE-2/Plate1/B02_s1_w1.png"
    assert contents(source, ("RPE-02", 9)) == contents(source, ("nobody", 1)) == {}
    assert reason(source, "B02", 1, 2) == "no file"


def test_plates_are_listed_without_their_files(root, failing):
    write(root, {"images/HUVEC-01/Plate1/B02_s1_w1.png": b"one"})
    failing("Plate1")
    assert sources.Folders(root).plates() == [PLATE]


def test_an_experiment_of_two_names_and_trees(root):
    write(root, {
        "train/HUVEC-1/Plate1/B02_s1_w1.png": b"one", "train/HUVEC-01/Plate1/B02_s1_w2.png": b"two",
        "test/HUVEC-01/Plate01/B02_s1_w3.png": b"three", "test/HUVEC-01/Plate1/B02_s1_w1.png": b"one",
    })  # fmt: skip
    source = sources.Folders(root)
    assert source.plates() == [PLATE]
    assert contents(source) == {("B02", 1, 1): b"one", ("B02", 1, 2): b"two", ("B02", 1, 3): b"three"}
    write(root, {"test/HUVEC-01/Plate1/B02_s1_w1.png": b"other"})
    names = "train/HUVEC-1/Plate1/B02_s1_w1.png, test/HUVEC-01/Plate1/B02_s1_w1.png"
    assert reason(source, "B02", 1, 1) == f"two files that differ ({names})"


def test_links_that_stay_inside_are_followed(root, tmp_path, monkeypatch):
    write(tmp_path / "disk", {"HUVEC-01/Plate1/B02_s1_w1.png": b"one", "HUVEC-01/Plate2/B02_s1_w1.png": b"two"})
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/HUVEC-1").symlink_to("HUVEC-01")
    (tmp_path / "disk/HUVEC-01/Plate3").symlink_to("Plate2")
    (tmp_path / "disk/HUVEC-01/Plate1/B02_s1_w2.png").symlink_to("../Plate2/B02_s1_w1.png")
    source = sources.Folders(root)
    assert source.plates() == [("HUVEC-01", 1), ("HUVEC-01", 2), ("HUVEC-01", 3)]
    assert contents(source) == {("B02", 1, 1): b"one", ("B02", 1, 2): b"two"}
    assert contents(source, ("HUVEC-01", 3)) == {("B02", 1, 1): b"two"}
    reads = []
    read_file = lib.read_file
    monkeypatch.setattr(lib, "read_file", lambda *args: reads.append(args) or read_file(*args))
    assert len(contents(source)) == len(reads) == 2  # HUVEC-1 is not a second copy


@pytest.mark.parametrize("level", ["file", "plate", "experiment"])
def test_links_that_lead_out_are_refused(root, tmp_path, level):
    write(tmp_path / "secret", {"HUVEC-01/Plate1/B02_s1_w1.png": png()})
    # a name that begins as the source does is not in it
    (tmp_path / "secret").rename(tmp_path / "source-2")
    place = {"file": "HUVEC-01/Plate1/B02_s1_w1.png", "plate": "HUVEC-01/Plate1", "experiment": "HUVEC-01"}[level]
    link = root / "images" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "source-2" / place)
    source = sources.Folders(root)
    assert reason(source, "B02", 1, 1) == OUTSIDE
    assert source.plates() == ([PLATE] if level != "experiment" else [])
    assert beside(source) == ([], "" if level == "file" else OUTSIDE)
    assert source.size() is None
    assert source.strays() == ([f"images/HUVEC-01 ({OUTSIDE})"] if level == "experiment" else [])


@pytest.mark.parametrize("level", ["Plate1", "HUVEC-1"])
def test_a_folder_that_cannot_be_listed_gives_its_reason(root, failing, level):
    write(root, {
        "images/HUVEC-1/Plate1/B02_s1_w1.png": b"one", "images/HUVEC-01/Plate01/B02_s1_w2.png": b"two",
        "images/HUVEC-1/Plate2/B02_s1_w1.png": b"three", "images/RPE-01/Plate3/B02_s1_w1.png": b"four",
    })  # fmt: skip
    source = sources.Folders(root)
    failing(level)
    assert contents(source) == {("B02", 1, 2): b"two"}  # what can be listed can be read
    assert beside(source) == ([], "cannot be read (Permission denied)")
    assert reason(source, "B02", 1, 1) == "cannot be read (Permission denied)"
    whole = level == "Plate1"
    assert beside(source, ("HUVEC-01", 2)) == ([], "" if whole else "cannot be read (Permission denied)")
    assert beside(source, ("RPE-01", 3)) == ([], "")
    assert source.strays() == ([] if whole else ["images/HUVEC-1 (cannot be read (Permission denied))"])


def test_a_source_that_cannot_be_listed_is_an_error(root, failing):
    write(root, {"images/HUVEC-01/Plate1/B02_s1_w1.png": b"one"})
    source = sources.Folders(root)
    failing("images")
    with pytest.raises(UserError, match=r"images: cannot be read \(Permission denied\): make it readable"):
        source.plates()
    assert reason(source, "B02", 1, 1) == "cannot be read (Permission denied)"


def test_what_is_not_a_file_is_not_read(root, monkeypatch):
    folder = root / "images/HUVEC-01/Plate1"
    write(root, {"images/HUVEC-01/Plate1/B02_s1_w1.png": b"", "images/HUVEC-01/Plate1/B02_s1_w5.png": b"x"})
    (folder / "B02_s1_w2.png").mkdir()
    os.mkfifo(folder / "B02_s1_w3.png")
    (folder / "B02_s1_w4.png").symlink_to("nothing")
    (folder / "B02_s1_w6.png").symlink_to("B02_s1_w6.png")
    with open(folder / "B02_s1_w1.png", "wb") as file:
        file.truncate(lib.MAX_BYTES + 1)
    opened = os.open
    monkeypatch.setattr(lib.os, "open", lambda path, flags: opened(path, flags) if "w5" not in str(path) else deny())
    reasons = contents(sources.Folders(root))
    assert [reasons["B02", 1, channel] for channel in range(1, 7)] == [
        "268,435,457 bytes, too large for an image",
        "cannot be read (Is a directory)",
        "cannot be read (Not a regular file)",
        "cannot be read (No such file or directory)",
        "cannot be read (Permission denied)",
        "cannot be read (Too many levels of symbolic links)",
    ]


def deny():
    raise PermissionError(13, "Permission denied")


def test_names_that_are_no_text_can_be_written(root):
    folder = write(root, {"images/HUVEC-01/Plate1/B02_s1_w1.png": b""}) / "images/HUVEC-01/Plate1"
    for name in (b"\xff.png", b"a\r\nb.png", "\u2028.png".encode()):
        with open(os.fsencode(folder) + b"/" + name, "wb"):
            pass
    names = ["a\\r\\nb.png", "\\u2028.png", "\\udcff.png"]
    assert beside(sources.Folders(root))[0] == [f"images/HUVEC-01/Plate1/{name}" for name in names]


def test_the_size_is_that_of_most_images(root):
    assert sources.Folders(write(root, {"images/HUVEC-01/Plate1/a": b""})).size() is None
    write(root, {f"images/HUVEC-01/Plate{n}/B02_s1_w1.png": png(8, 9) for n in range(1, 9)})
    write(root, {f"images/HUVEC-01/Plate{n}/B02_s1_w1.png": png() for n in range(9, 20)})
    write(root, {f"images/HUVEC-01/Plate{n}/B02_s1_w1.png": b"no image" for n in range(20, 60)})
    assert sources.Folders(root).size() == (4, 6)
    make_tar(root / "HUVEC-01/Plate1.tar", [("x", b""), ("B02_s1_w1.png", b""), ("B02_s1_w2.png", png(3, 5))])
    assert sources.Tars(root).size() == (3, 5)


def test_a_folder_without_images_is_an_error(root):
    write(root, {"HUVEC-01/Plate1/B02_s1_w1.png": b""})
    with pytest.raises(UserError, match="source has no folder images, train or test: give the folder that holds them"):
        sources.Folders(root)
    with pytest.raises(UserError, match="source has no EXPERIMENT/PlateN.tar and no folder images, train or test: "):
        sources.choose(root, sources.Tars, sources.Folders)
    make_tar(root / "HUVEC-01/Plate1.tar", [])
    assert isinstance(sources.choose(root, sources.Folders, sources.Tars), sources.Tars)
