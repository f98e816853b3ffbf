"""Tars of a plate and WebDataset shards, cut short, corrupt, or with members and headers that make no sense."""

import io
import os
import pickle
import tarfile

import pytest
from sources_tools import OUTSIDE, PLATE, beside, contents, make_tar, png, reason, write

from rxrx_jax.base.errors import UserError
from tfds_builders.common import sources
from tfds_builders.common.sources import files as lib
from tfds_builders.common.types import BadSite
from tfds_builders.embeddings import vectors


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


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


SECOND = 512 + 1024  # where the second member's header starts: 1,000 bytes and their padding are before it


def image_tar(names=("B02_s1_w1.png", "B02_s1_w2.png", "B02_s1_w3.png")):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1000
            tar.addfile(info, io.BytesIO(bytes(1000)))
    return file.getvalue()


def with_size(data, twelve_bytes):
    """The second member's size, with the header's checksum made right again."""
    header = bytearray(data[SECOND : SECOND + 512])
    header[124:136], header[148:156] = twelve_bytes, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:SECOND] + bytes(header) + data[SECOND + 512 :]


def with_extension(data, **records):
    """A pax header before the second member."""
    info = tarfile.TarInfo("B02_s1_w2.png")
    extension = info.create_pax_global_header({key.replace("_", "."): value for key, value in records.items()})
    header = bytearray(extension[:512])
    header[156:157], header[148:156] = b"x", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:SECOND] + bytes(header) + extension[512:] + data[SECOND:]


NONSENSE = {
    "a size beyond all files": lambda data: with_size(data, b"\x80" + (2**70).to_bytes(11, "big")),
    "a size beyond all offsets": lambda data: with_size(data, b"\x80" + (2**63 - 1).to_bytes(11, "big")),
    "a negative size": lambda data: with_size(data, b"\xff" * 10 + (-1536 % 2**16).to_bytes(2, "big")),
    "a sparse size in words": lambda data: with_extension(data, GNU_sparse_size="x"),
    "a sparse map in words": lambda data: with_extension(data, GNU_sparse_map="a,b"),
    "no sparse map": lambda data: with_extension(data, GNU_sparse_major="1", GNU_sparse_minor="0"),
    "a size of 26 digits": lambda data: with_extension(data, size="9" * 26),
    "a size below zero": lambda data: with_extension(data, size="-1536"),
    "ten thousand extensions": lambda data: (
        data[:SECOND] + 10_000 * with_extension(data, a="b")[SECOND : SECOND + 1024]
    ),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_header_that_makes_no_sense_costs_what_follows_it(tmp_path, kind):
    path = tmp_path / "HUVEC-01/Plate1.tar"
    path.parent.mkdir()
    path.write_bytes(NONSENSE[kind](image_tar()))
    with sources.Tars(tmp_path).open(*PLATE) as files:
        assert files.read("B02", 1, 1) == bytes(1000) and ("B02", 1, 3) not in files.keys
        for channel in (2, 3):
            with pytest.raises(BadSite, match="too large for an image|corrupt tar"):
                files.read("B02", 1, channel)
        assert files.unreadable.startswith("HUVEC-01/Plate1.tar: corrupt tar (") and "\n" not in files.unreadable


@pytest.mark.parametrize("kind", sorted(set(NONSENSE) - {"a negative size", "a size below zero"}))
def test_embeddings_in_such_a_tar_are_one_line(tmp_path, kind):
    (tmp_path / "embeddings.tar").write_bytes(NONSENSE[kind](image_tar(("a", "b", "c"))))
    with pytest.raises(UserError, match=r"embeddings.tar cannot be read: \S[^\n]*$"):
        list(vectors.read([tmp_path / "embeddings.tar"]))
