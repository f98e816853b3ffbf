"""Where image files are: folders and their links, tars and WebDataset shards, with whatever may be wrong with them."""

import io
import os
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from rxrx_jax.base.errors import UserError
from tfds_builders.common import sources
from tfds_builders.common.sources import files as lib
from tfds_builders.common.types import BadSite

PLATE = ("HUVEC-01", 1)
OUTSIDE = "a link out of the source folder, which --follow-links reads"


def png(height: int = 4, width: int = 6) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(root: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def make_tar(path: pathlib.Path, members, **settings) -> pathlib.Path:
    """A tar of (name, bytes) and of TarInfo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **settings) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def contents(source, plate=PLATE) -> dict:
    """Every image of a plate: its bytes, or why it cannot be read."""
    found = {}
    with source.open(*plate) as files:
        for key in files.keys:
            try:
                found[key] = files.read(*key)
            except BadSite as error:
                found[key] = str(error)
    return found


def beside(source, plate=PLATE) -> tuple[list[str], str]:
    with source.open(*plate) as files:
        return files.others, files.unreadable


def reason(source, *key, plate=PLATE) -> str:
    with source.open(*plate) as files, pytest.raises(BadSite) as error:
        files.read(*key)
    return str(error.value)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "source"


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


def test_a_tar_per_plate(root):
    long = "x" * 120
    make_tar(root / "images/gene-001/Plate1.tar", [
        ("AA02_s1_w3.png", b"one"), ("Plate1/B02_s1_w1.png", b"two"), (f"{long}/gene-001/Plate1/B02_s1_w2.png", b"3"),
        special("Plate1", tarfile.DIRTYPE), ("._AA02_s1_w3.png", b""), ("readme.txt", b""),
        ("gene-001/Plate2/B02_s1_w3.png", b"4"), ("gene-002/Plate1/B02_s1_w4.png", b"5"),
    ], format=tarfile.PAX_FORMAT)  # fmt: skip
    make_tar(root / "gene-1/Plate1.tar", [("C02_s1_w1.png", b"6"), ("AA02_s1_w3.png", b"one")])
    make_tar(root / "compound-003/Plate36.tar", [(f"{long}/B02_s1_w1.png", b"7")], format=tarfile.GNU_FORMAT)
    write(root, {"metadata.csv": b"", "compound-003/embeddings.parquet": b"", "images/gene-001/Plate9.tar.gz": b""})
    source = pickle.loads(pickle.dumps(sources.Tars(root)))
    plate, tar = ("gene-001", 1), "images/gene-001/Plate1.tar"
    assert source.plates() == [("compound-003", 36), plate]
    assert contents(source, plate) == {
        ("AA02", 1, 3): b"one", ("B02", 1, 1): b"two", ("B02", 1, 2): b"3", ("C02", 1, 1): b"6",
    }  # fmt: skip
    assert contents(source, ("compound-003", 36)) == {("B02", 1, 1): b"7"}
    assert beside(source, plate) == ([
        f"{tar}:readme.txt", f"{tar}:gene-001/Plate2/B02_s1_w3.png (of another plate)",
        f"{tar}:gene-002/Plate1/B02_s1_w4.png (of another experiment)",
    ], "")  # fmt: skip
    strays = ["compound-003/embeddings.parquet", "images/gene-001/Plate9.tar.gz (compressed: unpack it to PlateN.tar)"]
    assert source.strays() == strays
    with source.open(*plate) as files:
        assert files.name("B02", 1, 1) == f"{tar}:Plate1/B02_s1_w1.png"
    make_tar(root / "gene-1/Plate1.tar", [("AA02_s1_w3.png", b"other")])
    assert reason(source, "AA02", 1, 3, plate=plate).startswith("two files that differ (gene-1/Plate1.tar:AA02")


def test_members_that_are_not_plain_files_inside_are_refused(root):
    refused = [
        (special("../B02_s1_w1.png", tarfile.REGTYPE), "a path out of the archive"),
        (special("a/../../B02_s1_w2.png", tarfile.REGTYPE), "a path out of the archive"),
        (special("/B02_s1_w3.png", tarfile.REGTYPE), "a path out of the archive"),
        (special("B02_s1_w4.png", tarfile.SYMTYPE, "/etc/passwd"), "a link"),
        (special("B02_s1_w5.png", tarfile.LNKTYPE, "C02_s1_w1.png"), "a link"),
        (special("B02_s1_w6.png", tarfile.CHRTYPE), "not a regular file"),
        (special("B02_s2_w1.png", tarfile.FIFOTYPE), "not a regular file"),
        (special("B02_s2_w2.png", tarfile.GNUTYPE_SPARSE), "a sparse file"),
    ]
    members = [("C02_s1_w1.png", b"one"), *(info for info, _ in refused), ("C02_s1_w2.png", b"two")]
    make_tar(root / "HUVEC-01/Plate1.tar", members)
    source = sources.Tars(root)
    assert contents(source) == {("C02", 1, 1): b"one", ("C02", 1, 2): b"two"}
    assert beside(source) == ([f"HUVEC-01/Plate1.tar:{info.name} ({why})" for info, why in refused], "")


def test_a_tar_that_is_cut_short_gives_what_it_has(root):
    path = make_tar(root / "HUVEC-01/Plate1.tar", [(f"B02_s1_w{c}.png", bytes([c]) * 1000) for c in range(1, 5)])
    whole, source = path.read_bytes(), sources.Tars(root)
    member = 512 + 1024
    intact = {("B02", 1, c): bytes([c]) * 1000 for c in range(1, 5)}
    for length in [*range(1, 5 * member, 100), member, 2 * member - 24, 3 * member, 4 * member]:
        path.write_bytes(whole[:length])
        heads = 1 + (length - 512) // member  # headers that are whole
        expected = dict(list(intact.items())[: min(heads, 4)])
        missing = heads * member - 24 - length  # bytes of the last member
        if missing > 0 and heads <= 4 and expected:
            expected["B02", 1, heads] = f"cut short ({1000 - missing:,} of 1,000 bytes)"
        assert contents(source) == expected, length
        problem = "" if length > 4 * member + 511 else "HUVEC-01/Plate1.tar: cut short"
        assert beside(source) == ([], problem), length
    path.write_bytes(whole[:member])
    assert reason(source, "B02", 1, 4) == "HUVEC-01/Plate1.tar: cut short"


def test_tars_that_are_none(root, tmp_path, monkeypatch):
    path = make_tar(root / "HUVEC-01/Plate1.tar", [("B02_s1_w1.png", b"one"), ("B02_s1_w2.png", b"two")])
    data, source = bytearray(path.read_bytes()), sources.Tars(root)
    data[1024 + 5] ^= 1
    path.write_bytes(data)
    assert contents(source) == {("B02", 1, 1): b"one"}
    assert beside(source) == ([], "HUVEC-01/Plate1.tar: corrupt tar (bad header)")
    path.write_bytes(png() * 100)
    assert beside(source)[1].startswith("HUVEC-01/Plate1.tar: corrupt tar (")
    path.write_bytes(b"")
    assert beside(source) == ([], "HUVEC-01/Plate1.tar: cut short")
    make_tar(path, [("B02_s1_w1.png", bytes(100))])
    with monkeypatch.context() as patch:
        patch.setattr(lib, "MAX_BYTES", 99)
        assert contents(source) == {("B02", 1, 1): "100 bytes, too large for an image"}
    path.unlink()
    path.mkdir()
    assert beside(source) == ([], "cannot be read (Is a directory)") and source.size() is None
    path.rmdir()
    os.mkfifo(path)
    assert beside(source) == ([], "cannot be read (Not a regular file)")
    path.unlink()
    path.symlink_to(make_tar(tmp_path / "other/Plate1.tar", [("B02_s1_w1.png", png())]))
    assert beside(source) == ([], OUTSIDE) and contents(source) == {} and source.size() is None


def shards(root):
    make_tar(root / "data/00000.tar", [
        ("gene-001/Plate1/A01_s1_1.jp2", b"one"), ("gene-001/Plate1/A01_s1_1.json", b"{}"), ("index.txt", b""),
        ("gene-001/Plate2/A01_s1_1.jp2", b"two"), ("./data/gene-001/Plate1/AF48_s1_w6.jp2", b"three"),
    ])  # fmt: skip
    make_tar(root / "data/00001.tar", [
        (f"{'x' * 120}/gene-1/Plate1/A01_s1_2.jp2", b"four"), ("gene-001/Plate1/../A01_s1_3.jp2", b"5"),
        ("../gene-001/Plate1/A01_s1_3.jp2", b"5"), ("gene-001/Plate1/../Plate1/A01_s1_3.jp2", b"5"),
        ("gene-001/Plate3/A01_s1_1.jp2", b"six"),
    ])  # fmt: skip
    return root


def test_webdataset_shards(root):
    source = pickle.loads(pickle.dumps(sources.WebDataset(shards(root))))
    assert source.plates() == [("gene-001", 1), ("gene-001", 2), ("gene-001", 3)]
    assert contents(source, ("gene-001", 1)) == {
        ("A01", 1, 1): b"one", ("AF48", 1, 6): b"three", ("A01", 1, 2): b"four",
    }  # fmt: skip
    assert contents(source, ("gene-001", 2)) == {("A01", 1, 1): b"two"}
    assert contents(source, ("gene-001", 3)) == {("A01", 1, 1): b"six"}
    assert contents(source, ("gene-001", 4)) == {}
    others = ["00000.tar:gene-001/Plate1/A01_s1_1.json",
              "00001.tar:../gene-001/Plate1/A01_s1_3.jp2 (a path out of the archive)"]  # fmt: skip
    assert beside(source, ("gene-001", 1)) == ([f"data/{name}" for name in others], "")
    assert source.strays() == ["data/00000.tar:index.txt", *(
        f"data/00001.tar:gene-001/Plate1/../{name} (a path out of the archive)"
        for name in ("A01_s1_3.jp2", "Plate1/A01_s1_3.jp2")
    )]  # fmt: skip
    with source.open("gene-001", 2) as files:
        assert files.name("A01", 1, 1) == "data/00000.tar:gene-001/Plate2/A01_s1_1.jp2"


def test_webdataset_shards_that_are_damaged(root, tmp_path):
    path = shards(root) / "data/00000.tar"
    path.write_bytes(path.read_bytes()[:3074])  # in the data of Plate2's image
    (root / "data/00002.tar").symlink_to(make_tar(tmp_path / "00002.tar", [("gene-001/Plate9/A01_s1_1.jp2", b"")]))
    source = sources.WebDataset(root)
    problems = f"data/00002.tar: {OUTSIDE}; data/00000.tar: cut short"
    assert source.plates() == [("gene-001", 1), ("gene-001", 2), ("gene-001", 3)]
    assert contents(source, ("gene-001", 2)) == {("A01", 1, 1): "cut short (2 of 3 bytes)"}
    assert contents(source, ("gene-001", 3)) == {("A01", 1, 1): b"six"}
    assert reason(source, "A01", 1, 1, plate=("gene-001", 9)) == problems
    path.unlink()
    assert "data/00000.tar: cannot be read (No such file or directory)" in beside(source, ("gene-001", 1))[1]


def test_the_index_of_shards_stays_small(root, monkeypatch):
    members = [(f"gene-001/Plate{n % 5}1/{row}{c:02d}_s1_1.jp2", b"") for n, row in enumerate("ABCDEFGH")
               for c in range(1, 25)]  # fmt: skip
    make_tar(root / "0.tar", members + [(f"stray{n}", b"") for n in range(30)])
    monkeypatch.setattr(lib, "STRAYS", 20)
    source = sources.WebDataset(root)
    assert len(pickle.dumps(source)) < 1500
    assert source.strays()[-2:] == ["0.tar:stray19", "and more"] and len(source.strays()) == 21
    assert sum(len(contents(source, plate)) for plate in source.plates()) == len(members)


def test_a_plate_reads_its_part_of_a_shard_only(root):
    path = make_tar(root / "0.tar", [(f"gene-001/Plate{n}/A01_s1_1.jp2", b"one") for n in (1, 2, 3)])
    source = sources.WebDataset(root)
    data = bytearray(path.read_bytes())
    data[:512] = data[2048:2560] = bytes([1]) * 512  # no headers left
    path.write_bytes(data)
    plate = ("gene-001", 2)
    assert contents(source, plate) == {("A01", 1, 1): b"one"} and beside(source, plate) == ([], "")


def test_shards_without_a_plate_are_an_error(root):
    make_tar(root / "0.tar", [("A01_s1_1.jp2", b"")])
    with pytest.raises(UserError, match=r"has no \*.tar with .*\.jp2 \(but 0.tar:A01_s1_1.jp2\): give the folder"):
        sources.WebDataset(root)
    make_tar(root / "0.tar", [])
    with pytest.raises(UserError, match=r"has no \*.tar with EXPERIMENT/PlateN/WELL_sS_C.jp2: give the folder"):
        sources.WebDataset(root)
