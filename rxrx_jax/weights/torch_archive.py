"""Reads the files of torch.save without PyTorch, and without running anything in them.

From PyTorch 1.6 on such a file is a zip of NAME/data.pkl, a pickle of containers and tensor descriptions, and
NAME/data/KEY, the raw bytes of each storage; before, pickles one after the other, and then these bytes. A pickle is a
program that may call anything. Here its opcodes are interpreted one by one: the few that build containers, and calls of
the few names that describe tensors, which are answered with numpy views. Nothing is imported or called by name;
anything else is refused.
"""

import functools
import io
import math
import pathlib
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError, shortened

STORAGES = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": jnp.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}
REBUILD_TENSOR, REBUILD_PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ORDERED_DICT = "collections.OrderedDict"
INERT = {f"torch.{name}" for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "uint8")}
NAMES = {*STORAGES, *INERT, REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT}
# Of one data.pkl: that of a thousand tensors has 10^5 bytes and 5 * 10^4 opcodes. With so few no program makes much of
# nothing, and nothing here walks through what it has made: containers may hold each other any number of times.
MAX_PICKLE, MAX_OPCODES = 1 << 24, 1 << 20
MAX_TEXT, MAX_DIMENSIONS, MAX_COUNT = 1024, 32, 1 << 62
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
MAGIC_CODE = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."  # its opcodes, in the first HEAD bytes
HEAD = 32
DAMAGE = (zipfile.BadZipFile, OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, EOFError,
          MemoryError, AttributeError)  # fmt: skip


class Name(str):
    """A name of NAMES that the pickle mentions; never the thing itself."""


def read(path: pathlib.Path):
    """What was saved: dicts, lists, tuples, numbers, text, and tensors as numpy views into the file's bytes.

    Raises UserError for a damaged file, false sizes, and any other name or opcode.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(path, archive)
            pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise UserError(f"{path} is a zip file but not an archive of torch.save: it has no data.pkl")
            folder = pickles[0].removesuffix("data.pkl")
            if entries.get(f"{folder}byteorder") and archive.read(f"{folder}byteorder") != b"little":
                raise UserError(f"{path} was not written on a little-endian machine; save it again on one")
            if entries[pickles[0]].file_size > MAX_PICKLE:
                raise UserError(f"{path}: data.pkl is larger than {MAX_PICKLE:,} bytes, which no weights need")
            read_storage = functools.partial(_of_entry, path, archive, entries, folder)
            return _Reader(path, read_storage).run(io.BytesIO(archive.read(pickles[0])))
    except UserError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error) from error


def read_former(path: pathlib.Path):
    """As `read`, of a file that torch.save wrote before PyTorch 1.6: the pickles of MAGIC, of the format's version, of
    the machine, of what was saved and of its storages' keys, then the length and the bytes of each of these."""
    size, storages = path.stat().st_size, {}

    def read_storage(key, dtype, count):  # filled below: its bytes come after the last pickle
        claimed = count * dtype.itemsize + sum(array.nbytes for array in storages.values())
        if claimed > size:
            raise UserError(f"{path} is refused: its storages claim {claimed:,} bytes and the file has {size:,}")
        storages[key] = np.empty(count, dtype)
        return storages[key]

    try:
        with open(path, "rb") as file:
            reader = _Reader(path, read_storage)
            magic, _, machine, saved, keys = (reader.run(file) for _ in range(5))
            if magic != MAGIC:
                raise ValueError("it does not begin as one")
            if machine.get("little_endian") is not True:
                raise UserError(f"{path} was not written on a little-endian machine; save it again on one")
            if sorted(keys) != sorted(storages):
                raise ValueError("its storages are not those that it names")
            for key in keys:
                count, array = int.from_bytes(file.read(8), "little"), storages[key]
                if count != len(array):
                    raise UserError(f"{path} is refused: storage {key} claims {len(array)} values and has {count}")
                if file.readinto(array.view(np.uint8)) != array.nbytes:
                    raise UserError(f"{path} is damaged: storage {key} is cut short")
            if file.read(1):
                raise ValueError("there is more after its last storage")
            return saved
    except UserError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error) from error


def _damaged(path, error: Exception) -> UserError:
    reason = shortened(str(error)) or type(error).__name__
    return UserError(f"{path} is damaged or not an archive of torch.save: {reason}")


def _of_entry(path, archive, entries, folder, key: str, dtype: np.dtype, count: int) -> np.ndarray:
    """The values of a storage of an archive."""
    name = f"{folder}data/{key}"
    if name not in entries:
        raise UserError(f"{path} is damaged: storage {key} is missing")
    size = entries[name].file_size
    if size != count * dtype.itemsize:
        raise UserError(f"{path} is refused: storage {key} claims {count} {dtype} and has {size} bytes")
    return np.frombuffer(archive.read(name), dtype)


def _entries(path: pathlib.Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of the archive by name; they are stored as they are, so that none can be larger than the file."""
    entries = {}
    for entry in archive.infolist():
        if entry.filename in entries:
            raise UserError(f"{path} is refused: it holds {shortened(entry.filename)!r} twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise UserError(
                f"{path} is refused: {shortened(entry.filename)!r} is compressed or encrypted; torch.save does neither"
            )
        entries[entry.filename] = entry
    total, there = sum(entry.file_size for entry in entries.values()), path.stat().st_size
    if total > there:
        raise UserError(f"{path} is refused: it claims to hold {total:,} bytes and has {there:,}")
    return entries


class _Reader:
    """The interpreter of pickles. read_storage(key, dtype, count) -> the flat array [count] of a storage."""

    def __init__(self, path: pathlib.Path, read_storage: Callable[[str, np.dtype, int], np.ndarray]):
        self.path, self.read_storage = path, read_storage
        self.storages = {}

    def run(self, program: BinaryIO):
        """What the next pickle of a file makes."""
        stack: list[Any] = []
        marks, memo = [], {}

        def since_mark():
            start = marks.pop()
            found = stack[start:]
            del stack[start:]
            return found

        for number, (op, value, _) in enumerate(pickletools.genops(program)):
            name = op.name
            if number == MAX_OPCODES:
                raise UserError(
                    f"{self.path} is refused: its pickle has over {MAX_OPCODES:,} steps; no weights need so many"
                )
            if name in ("PROTO", "FRAME"):
                pass
            elif name == "STOP":
                (result,) = stack
                return result
            elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"):
                stack.append(value)
            elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            elif name == "MARK":
                marks.append(len(stack))
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[value] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[value])
            elif name in ("SETITEM", "SETITEMS"):
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                self.set_items(stack[-1], items)
            elif name in ("APPEND", "APPENDS"):
                items = since_mark() if name == "APPENDS" else [stack.pop()]
                list.extend(stack[-1], items)  # pyright: ignore[reportArgumentType], which raises TypeError
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                parts = str(value).split(" ", 1) if name == "GLOBAL" else [stack.pop(-2), stack.pop()]
                stack.append(self.known(".".join(parts)))
            elif name == "BINPERSID":
                stack.append(self.storage(*stack.pop()))
            elif name == "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self.call(called, *arguments))
            elif name == "BUILD":  # attributes of an OrderedDict, where a state_dict keeps its version
                if not isinstance(stack.pop(), dict) or not isinstance(stack[-1], dict):
                    raise UserError(f"{self.path} is refused: it sets the state of what is not an OrderedDict")
            else:
                about = f" {shortened(value)!r}" if isinstance(value, str) else ""
                raise UserError(f"{self.path} is refused: its pickle uses {name}{about}, which no weights need")
        raise ValueError("the pickle has no end")

    def known(self, name: str) -> Name:
        if name not in NAMES:
            raise UserError(
                f"{self.path} is refused: its pickle wants {shortened(name)!r}, which no weights need (nothing in it "
                "was run); with software that you trust save the state_dict alone"
            )
        return Name(name)

    def call(self, called, *arguments):
        """The result of calling a name of the archive."""
        if not isinstance(called, Name):
            raise ValueError("it calls what is not a name")
        if called == ORDERED_DICT:
            () = arguments
            return {}
        if called == REBUILD_PARAMETER:
            tensor, _, _ = arguments
            return tensor
        if called == REBUILD_TENSOR:
            return self.tensor(*arguments[:4])
        raise UserError(f"{self.path} is refused: its pickle calls {str(called)!r}")

    def set_items(self, target, items):
        if not isinstance(target, dict):
            raise ValueError("it sets items of what is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)) or (isinstance(key, str) and len(key) > MAX_TEXT):
                raise ValueError("a key is neither a name nor a number")
            if key in target:
                raise UserError(f"{self.path} is refused: it holds {shortened(key)!r} twice")
            target[key] = value

    def storage(self, kind, type_name, key, _, count, view=None) -> np.ndarray:
        """The flat array behind some tensors; its bytes are read once. Args: view, of files before PyTorch 1.6, which
        part of another storage it is."""
        if kind != "storage" or not isinstance(type_name, Name) or type_name not in STORAGES or view is not None:
            raise ValueError(f"unknown storage {shortened(type_name)!r}")
        if not isinstance(key, str) or len(key) > MAX_TEXT or not _is_count(count):
            raise ValueError("a storage is described wrongly")
        if key not in self.storages:
            self.storages[key] = type_name, self.read_storage(key, np.dtype(STORAGES[type_name]), count)
        stored, array = self.storages[key]
        if stored != type_name:
            raise UserError(f"{self.path} is refused: storage {key} is of two types")
        return array

    def tensor(self, storage, offset, size, stride) -> np.ndarray:
        """A view of `storage`; every element must lie inside and, expanded ones aside, occur once."""
        shapes = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= MAX_DIMENSIONS
        if not isinstance(storage, np.ndarray) or not shapes:
            raise ValueError("a tensor is described wrongly")
        if not all(map(_is_count, (offset, *size, *stride))):
            raise UserError(f"{self.path} is refused: a tensor has a size, stride or offset that is not a count")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if count else 0
        if count > storage.size or (count and last >= storage.size):
            raise UserError(f"{self.path} is refused: a tensor of size {tuple(size)} reaches outside of its storage")
        if not count:
            return np.zeros(size, storage.dtype)
        steps = [step * storage.itemsize if n > 1 else 0 for n, step in zip(size, stride)]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _is_count(number) -> bool:
    return type(number) is int and 0 <= number < MAX_COUNT
