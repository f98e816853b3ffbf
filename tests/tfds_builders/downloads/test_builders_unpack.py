"""Archives that are unpacked, and those that must not be."""

import errno
import stat
import struct
import zipfile

import numpy as np
import pytest
from download_tools import CONTENT, archive, tree

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from tfds_builders.downloads import unpack as unpack_lib
from tfds_builders.downloads.unpack import unpack

MEMBERS = {
    "RxRx1/metadata.csv": b"site_id\n",
    "rxrx1/images/HUVEC-1/Plate1/B02_s1_w1.png": CONTENT,
    "rxrx1/images/HUVEC-1/Plate1/": b"",
    "notes/rxrx1/readme": b"elsewhere",
}


def test_unpacks_without_the_top_folder(tmp_path):
    path = archive(tmp_path / "a.zip", MEMBERS)
    (tmp_path / "to").mkdir()
    assert unpack(path, tmp_path / "to", "rxrx1", progress=False) == {"unpacked": 3, "there": 0, "replaced": 0}
    expected = {
        "metadata.csv": b"site_id\n",
        "images/HUVEC-1/Plate1/B02_s1_w1.png": CONTENT,
        "notes/rxrx1/readme": b"elsewhere",
    }
    assert tree(tmp_path / "to") == expected


def test_what_is_there_is_left_and_what_differs_is_replaced(tmp_path):
    path = archive(tmp_path / "a.zip", MEMBERS)
    to = tmp_path / "to"
    (to / "notes/rxrx1").mkdir(parents=True)
    (to / "notes/rxrx1/readme").write_bytes(b"elsewhere")
    (to / "metadata.csv").write_bytes(b"site_xx\n")  # same size, other content
    (to / "images/HUVEC-1/Plate1").mkdir(parents=True)
    (to / "images/HUVEC-1/Plate1/B02_s1_w1.png").write_bytes(CONTENT[:-1])  # a killed unzip
    before = (to / "notes/rxrx1/readme").stat().st_mtime_ns
    assert unpack(path, to, "rxrx1", progress=False) == {"unpacked": 2, "there": 1, "replaced": 2}
    assert (to / "notes/rxrx1/readme").stat().st_mtime_ns == before
    assert tree(to)["metadata.csv"] == b"site_id\n" and tree(to)["images/HUVEC-1/Plate1/B02_s1_w1.png"] == CONTENT


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../evil", "leaves the folder"),
        ("rxrx1/../../evil", "leaves the folder"),
        ("a/../b", "leaves the folder"),
        ("/etc/evil", "absolute"),
        ("C:/evil", "not a plain path"),
        ("a\\..\\evil", "not a plain path"),
        ("a//b", "not a plain path"),
        ("./a", "not a plain path"),
        (special("link", stat.S_IFLNK | 0o777), "link or a device"),
        (special("pipe", stat.S_IFIFO | 0o644), "link or a device"),
        ("rxrx1/good", "twice"),
        ("good/below", "below a file"),
    ],
)
def test_refused_members_are_named_and_nothing_is_unpacked(tmp_path, name, reason):
    path = archive(tmp_path / "a.zip", {"good": b"1", name: b"2"})
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError) as error:
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    shown = name.filename if isinstance(name, zipfile.ZipInfo) else name
    assert reason in str(error.value) and repr(shown) in str(error.value) and str(path) in str(error.value)
    assert tree(tmp_path / "to") == {} and not (tmp_path / "evil").exists()


def test_many_refused_members_are_counted(tmp_path):
    path = archive(tmp_path / "a.zip", {f"../{i}": b"" for i in range(12)})
    with pytest.raises(UserError, match="and 7 more"):
        unpack(path, tmp_path, "rxrx1", progress=False)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.zip", {"zeros": bytes(2_000_000)})
    monkeypatch.setattr(files, "ALWAYS_FINE", 1000)
    with pytest.raises(UserError, match="declares 2,000,000 bytes.*zip bomb"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    monkeypatch.setattr(files, "ALWAYS_FINE", 2_000_000)
    (tmp_path / "to").mkdir()
    unpack(path, tmp_path / "to", "rxrx1", progress=False)


def test_a_member_never_grows_beyond_what_it_declares(tmp_path):
    """The declared size is checked beforehand, so the content may not exceed it."""
    path = archive(tmp_path / "a.zip", {"zeros": bytes(50_000)})
    data = path.read_bytes().replace(struct.pack("<L", 50_000), struct.pack("<L", 100))
    path.write_bytes(data)
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError, match="a.zip: .*delete it and fetch it again"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    assert tree(tmp_path / "to") == {}


def test_a_wrong_crc_leaves_no_file(tmp_path):
    path = archive(tmp_path / "a.zip", {"good": b"1" * 100, "bad": CONTENT}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(CONTENT[:50]) + 10_000] ^= 1
    path.write_bytes(data)
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError, match="Bad CRC-32 for file 'bad'"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    assert tree(tmp_path / "to") == {"good": b"1" * 100}


def test_broken_archives_are_one_line_and_never_another_error(tmp_path):
    whole = archive(tmp_path / "a.zip", MEMBERS).read_bytes()
    (tmp_path / "to").mkdir()
    random = np.random.default_rng(0)
    cases = [b"", b"PK", b"not a zip", *(whole[:n] for n in random.integers(0, len(whole), 20))]
    for _ in range(200):
        data = bytearray(whole)
        # Most of the file is one member's content: the structure is at its end.
        for at in random.integers(len(data) - 500, len(data), 3):
            data[at] = random.integers(256)
        cases.append(bytes(data))
    failures = 0
    for data in cases:
        (tmp_path / "a.zip").write_bytes(data)
        try:
            unpack(tmp_path / "a.zip", tmp_path / "to", "rxrx1", progress=False)
        except UserError as error:
            assert "\n" not in str(error) and "a.zip" in str(error)
            failures += 1
    assert failures > 100
    assert not [p for p in tmp_path.rglob("*.part")]


def test_a_full_disk_while_unpacking(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.zip", MEMBERS)
    (tmp_path / "to").mkdir()
    usage = unpack_lib.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unpack_lib.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(UserError, match="to: 0.0 GB more are needed"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    assert tree(tmp_path / "to") == {}
    monkeypatch.undo()

    def full(source, target, size):
        if "images" in target.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write(source.read())

    monkeypatch.setattr(unpack_lib.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="B02_s1_w1.png: No space left on device"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    assert list(tree(tmp_path / "to")) == ["metadata.csv"]
    monkeypatch.undo()
    assert unpack(path, tmp_path / "to", "rxrx1", progress=False)["there"] == 1
