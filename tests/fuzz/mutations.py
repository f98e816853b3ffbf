"""Damage to bytes and to folders, drawn from a seeded generator: what disks, networks, editors and attackers leave."""

import os
import pathlib
import random
import re
import shutil

NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (b"", b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"9" * 5000, b"null", b"[" * 2000, b'"', b"\0", b"\xff", b"\r")
EDGE = 600  # bytes at both ends, where headers and footers are


def _place(rng: random.Random, data: bytes) -> int:
    """A position: often in what describes the rest."""
    n = len(data)
    near = rng.randrange(min(n, EDGE))
    return rng.choice([rng.randrange(n), rng.randrange(n), near, n - 1 - near])


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + rng.choice([1, 1, 2, 4, 8, 64, 512, 4096, rng.randrange(1, len(data) + 1)]))


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def put(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.randbytes(min(end - start, 64)) + data[min(end, start + 64) :]


def number(rng: random.Random, data: bytes) -> bytes:
    """An absurd binary number."""
    size, start = rng.choice([1, 2, 4, 8]), _place(rng, data)
    text = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, rng.choice(["little", "big"]))
    return data[:start] + text + data[start + size :]


def digits(rng: random.Random, data: bytes) -> bytes:
    """Something absurd in place of a number or a word of text."""
    found = list(re.finditer(rb"\d+|\w+", data[:100_000]))
    if not found:
        return number(rng, data)
    chosen = rng.choice(found)
    return data[: chosen.start()] + rng.choice(TEXTS) + data[chosen.end() :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def behead(rng: random.Random, data: bytes) -> bytes:
    return data[_place(rng, data) :]


def zero(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def delete(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def duplicate(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] + data[end:]


def swap(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted((_place(rng, data), _place(rng, data)))
    size = min(rng.choice([1, 8, 64, 512]), b - a, len(data) - b)
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def append(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice([b"\0" * 512, rng.randbytes(64), data[:64]])


def empty(rng: random.Random, data: bytes) -> bytes:
    return b""


BYTES = (flip, flip, flip, put, number, number, digits, cut, behead, zero, delete, duplicate, swap, append, empty)


def of_bytes(rng: random.Random, data: bytes) -> tuple[bytes, list[str]]:
    """Damages a file's content once or twice; returns it with the names of what was done."""
    names = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        if data:
            kind = rng.choice(BYTES)
            names.append(kind.__name__)
            data = kind(rng, data)
    return data, names


def of_folder(rng: random.Random, folder: pathlib.Path, paths: list[pathlib.Path]) -> list[str]:
    """Damages one of these files as a whole; those that are hard links are replaced, not written to."""
    path = rng.choice(paths)
    kind = rng.choice(["gone", "a folder", "a pipe", "a link to itself", "another's content"])
    content = rng.choice(paths).read_bytes() if kind == "another's content" else b""
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "another's content":
        path.write_bytes(content)
    return [f"{kind}: {path.relative_to(folder)}"]


def write(path: pathlib.Path, data: bytes) -> None:
    """Writes a file whose former content is also another folder's."""
    path.unlink()
    path.write_bytes(data)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a folder by hard links."""
    shutil.copytree(source, target, copy_function=os.link)
