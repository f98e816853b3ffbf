"""Tars whose headers make no sense: what comes before is read, what comes after has that as its reason."""

import io
import tarfile

import pytest

from rxrx_jax.base.errors import UserError
from tfds_builders.common import sources
from tfds_builders.common.types import BadSite
from tfds_builders.embeddings import vectors

PLATE = ("HUVEC-01", 1)
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
