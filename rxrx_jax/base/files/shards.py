"""Where the records of an array_record file are, read from its end, and records of files of which only some bytes are
here.

An array_record file is one of Riegeli's (github.com/google/riegeli, doc/riegeli_records_file_format.md): chunks, and
every 64 KiB a header of 24 bytes in between. Its last block says where a chunk with the index is: for every chunk of
records (here one record each) where it begins.
"""

import bisect
import itertools
import os
import threading
import typing
from collections.abc import Callable

import numpy as np

BLOCK, BLOCK_HEADER, CHUNK_HEADER = 65536, 24, 40  # bytes
LARGEST = 2**30  # of an index, unpacked
TAIL = 2 * BLOCK  # of a file, that is fetched first: its last block, and the index, unless it is large
OPTIONS = dict(options="readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32768)
TRIES = 5  # to read a record, whose bytes another process may take away again where the cache is small


def begins(get: Callable[[int, int], bytes], size: int) -> np.ndarray:
    """Where the records of a file begin, and where the last one ends: int64 [n + 1].

    Args: get(start, end), its bytes; size, of the file. Raises ValueError unless it is one with one record per chunk.
    """
    if size < 2 * BLOCK or size % BLOCK:
        raise ValueError(f"not an array_record file: {size} bytes")
    postscript, *_ = _records(get, size - BLOCK + BLOCK_HEADER, size)
    footer = _numbers(postscript).get(1, 0)
    if not 0 < footer < size - BLOCK:
        raise ValueError("its last block does not say where its index is")
    _, *chunks = _records(get, footer, size)  # the first describes the file
    found = [_numbers(chunk) for chunk in chunks]
    if any(chunk.get(3) != 1 for chunk in found):
        raise ValueError("it has more than one record per chunk; prepare the dataset again")
    places = np.array([*(chunk.get(1, 0) for chunk in found), footer], np.int64)
    if (np.diff(places) <= 0).any():
        raise ValueError("its index is damaged")
    return places


def _records(get: Callable[[int, int], bytes], at: int, size: int) -> list[bytes]:
    """The records of the chunk that begins at a place, which is a "simple" one: a byte that says how it is compressed,
    the length of the packed sizes, these, and the records."""
    at += 0 if at % BLOCK else BLOCK_HEADER
    header = _stripped(get, at, CHUNK_HEADER, size)
    length, kind = int.from_bytes(header[8:16], "little"), header[24:25]
    if kind != b"r" or not 0 < length < size:
        raise ValueError("no chunk where one should be")
    data = _stripped(get, at, CHUNK_HEADER + length, size)[CHUNK_HEADER:]
    packed, start = _varint(data, 1)
    sizes, rest = data[start : start + packed], data[start + packed :]
    if data[0:1] == b"z":
        sizes, rest = _unpacked(sizes), _unpacked(rest)
    elif data[0:1] != b"\0":
        raise ValueError(f"its index is compressed in a way that is not known here ({data[0:1]!r})")
    found, place, first = [], 0, 0
    while place < len(sizes):
        one, place = _varint(sizes, place)
        found.append(rest[first : first + one])
        first += one
    if first != len(rest):
        raise ValueError("its index is damaged")
    return found


def _unpacked(data: bytes) -> bytes:
    """What follows its unpacked size, by zstd."""
    import zstandard

    size, at = _varint(data, 0)
    try:
        return zstandard.ZstdDecompressor().decompress(data[at:], max_output_size=min(size, LARGEST))
    except zstandard.ZstdError as error:
        raise ValueError(f"its index is damaged ({error})") from error


def _stripped(get: Callable[[int, int], bytes], at: int, count: int, size: int) -> bytes:
    """`count` bytes of a chunk that begins at a place, without the headers of blocks in between."""
    end = at + count
    while (headers := (end - 1) // BLOCK - at // BLOCK) * BLOCK_HEADER != end - at - count:
        end = at + count + headers * BLOCK_HEADER
    if end > size:
        raise ValueError("a chunk ends after the file")
    raw, out = get(at, end), bytearray()
    for first in itertools.chain([at], range((at // BLOCK + 1) * BLOCK, end, BLOCK)):
        begin = first if first == at else first + BLOCK_HEADER
        out += raw[begin - at : min((first // BLOCK + 1) * BLOCK, end) - at]
    return bytes(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a number is cut short")
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def _numbers(message: bytes) -> dict[int, int]:
    """The numbers in a protobuf message, by field, as far as it has nothing else."""
    found, at = {}, 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7:
            break
        found[tag >> 3], at = _varint(message, at)
    return found


class Shards:
    """Records by their number, as of array_record's data source, of a `mirror.Mirror`: a record whose bytes are not
    here fails its checksum, and is fetched then. So nothing has to be kept of what is here, and what a stopped process,
    a full disk or a flipped bit left behind is fetched again.

    Args: mirror; files, TFDS's file instructions of a split, whole files.
    """

    def __init__(self, mirror: typing.Any, files: list):
        self._mirror = mirror
        self._names = [os.path.basename(file.filename) for file in files]
        self._lengths = [file.examples_in_shard for file in files]
        self._ends = list(itertools.accumulate(self._lengths))
        self._locks = [threading.Lock() for _ in files]
        self._open: list = [None] * len(files)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        """Raises ValueError, or RuntimeError, array_record's, where the record is damaged in the store; Unreachable."""
        shard = bisect.bisect_right(self._ends, index)
        position, name = index - (self._ends[shard - 1] if shard else 0), self._names[shard]
        reader, places = self._opened(shard)
        for left in reversed(range(TRIES)):
            try:
                if found := reader.read([position])[0]:
                    return found  # b"" is what it reads of a file that another thread is emptying
            except RuntimeError:
                if not left:
                    raise
            self._mirror.fetch(name, int(places[position]), int(places[position + 1]))
        raise ValueError(f"record {position} of {name} is emptied again and again; raise data.cache=DIR,SIZE")

    def _opened(self, shard: int) -> tuple:
        from array_record.python.array_record_module import ArrayRecordReader

        if self._open[shard] is None:
            with self._locks[shard]:  # of this one: others are fetched beside it
                name = self._names[shard]
                for _ in range(TRIES):
                    if self._open[shard] is not None:
                        break
                    places = self._mirror.places(name)
                    reader = ArrayRecordReader(str(self._mirror.folder / name), **OPTIONS)
                    if reader.num_records() == len(places) - 1:
                        if len(places) - 1 != self._lengths[shard]:
                            raise ValueError(f"{name} holds {len(places) - 1} records, not {self._lengths[shard]}")
                        self._open[shard] = reader, places
                if self._open[shard] is None:
                    raise ValueError(f"{name}: its index is damaged")
        return self._open[shard]
