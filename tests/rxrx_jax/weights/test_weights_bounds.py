"""Small files that would take all time or memory: refused in a line of ordinary length, before anything is made."""

import json
import struct
import time
import tracemalloc

import numpy as np
import pytest
from torch_files import archive, number, program, tensor, text

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.weights import load, torch_archive
from rxrx_jax.weights import read as _  # noqa: F401
from rxrx_jax.weights.read import read_tensors


def refused(path, message="."):
    """The message of the error: quick, one line, and short."""
    begin = time.perf_counter()
    with pytest.raises(UserError, match=message) as caught:
        read_tensors(path)
    assert time.perf_counter() - begin < 5  # what these files do otherwise never ends
    line = str(caught.value).replace(str(path), "")
    assert len(line) < 400 and "\n" not in line
    return line


def doubling(levels):
    """A tuple that holds one tuple twice, and so on: 2 ** levels when printed or hashed, under 1 kB here."""
    return text("leaf") + b"q\x00" + b"".join(b"h%c" % i + b"\x86q%c" % (i + 1) for i in range(levels))


DEEP = doubling(60)
OPEN, REST = b"ctorch._utils\n_rebuild_tensor_v2\n(", b"\x89ccollections\nOrderedDict\n)RtR"
STORED = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(6) + b"tQ"


@pytest.mark.parametrize(
    "code",
    [
        DEEP,
        b"(" + text("storage") + DEEP + text("0") + text("cpu") + number(6) + b"tQ",  # where a dtype is named
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + DEEP + text("cpu") + number(6) + b"tQ",  # a key
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + DEEP + b"tQ",  # a count
        OPEN + STORED + DEEP + b"))" + REST,  # an offset
        OPEN + STORED + number(0) + DEEP + DEEP + REST,  # a size and a stride
        OPEN + DEEP + number(0) + b"))" + REST,  # a storage
        DEEP + b"(tR",  # a function
        DEEP + b"Q",  # a persistent id
        b"}" + DEEP + number(1) + b"s",  # a key of a dict
    ],
    ids=["value", "dtype", "storage", "count", "offset", "size", "tensor", "function", "id", "key"],
)
def test_nested_objects_are_not_printed_hashed_or_compared(tmp_path, code):
    path = archive(tmp_path / "a.pt", program(weight=code))
    assert path.stat().st_size < 2000
    refused(path)


def test_products_of_huge_sizes(tmp_path):
    huge = b"\x8a\xff" + b"\xff" * 254 + b"\x00"  # LONG1, 2^2032 - 1
    for size in (b"(" + huge * 3 + b"t", b"(" + number(2**30) * 20_000 + b"t"):
        path = archive(tmp_path / "a.pt", program(weight=OPEN + STORED + number(0) + size + size + REST))
        refused(path, "not a count|described wrongly")


def test_a_pickle_of_nothing_but_empty_dicts(tmp_path, monkeypatch):
    assert torch_archive.MAX_OPCODES <= 1 << 20
    monkeypatch.setattr(torch_archive, "MAX_OPCODES", 1 << 14)
    path = archive(tmp_path / "a.pt", b"\x80\x02" + b"}" * (1 << 20))
    tracemalloc.start()
    try:
        refused(path, "over 16,384 steps")
        assert tracemalloc.get_traced_memory()[1] < 4 * (1 << 20) + (1 << 14) * 200
    finally:
        tracemalloc.stop()


def test_long_names_are_shortened(tmp_path):
    name = "x" * 100_000
    refused(archive(tmp_path / "a.pt", program(**{name: tensor((6,), (1,))})))
    refused(archive(tmp_path / "b.pt", program(weight=b"c" + name.encode() + b"\nf\n")), "its pickle wants 'xxx")
    header = json.dumps({name: {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "c").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(tmp_path / "c")


def test_many_prefixes_of_many_words(tmp_path):
    names = {f"{'a.' * 400}{i}.blocks.0.attn.qkv.weight": tensor((6,), (1,)) for i in range(300)}
    path = archive(tmp_path / "a.pt", program(**names))
    with pytest.raises(UserError, match="no known kind of model"):
        load(path)


def test_a_header_larger_than_any_weights_need(tmp_path, monkeypatch):
    monkeypatch.setattr("rxrx_jax.weights.read.MAX_HEADER", 100)
    header = json.dumps({f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(5)}).encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(tmp_path / "a", "is refused: its header has")


def test_what_messages_say_of_a_value():
    assert shortened("a\nb") == "a b" and shortened(7) == "7" and shortened(2**100) == "a number beyond 64 bits"
    assert shortened([[]]) == "a list" and shortened(np.ones(3)) == "a ndarray"
    assert len(shortened("x" * 1000)) == 120 and shortened("x" * 1000).endswith("...")
