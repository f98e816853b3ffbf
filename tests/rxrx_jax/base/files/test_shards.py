"""Where records are in an array_record file, and records of files of which only some bytes are here."""

import pathlib
import threading
import types

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from rxrx_jax.base.files import mirror, shards


def written(path: pathlib.Path, count: int, most: int, options: str) -> list[bytes]:
    rng = np.random.default_rng(count)
    records = [rng.bytes(int(rng.integers(1, most))) for _ in range(count)]
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return records


@pytest.mark.parametrize("options", ["group_size:1,uncompressed", "group_size:1,zstd:3", "group_size:1"])
@pytest.mark.parametrize("count, most", [(1, 10), (40, 90_000), (12_000, 30)])
def test_a_record_is_between_two_places(tmp_path, options, count, most):
    """A file of holes but for its end and one record's bytes gives that record, and no other."""
    records = written(tmp_path / "whole", count, most, options)
    content = (tmp_path / "whole").read_bytes()
    places = shards.begins(lambda start, end: content[start:end], len(content))
    assert len(places) == count + 1
    for chosen in {0, count // 2, count - 1}:
        sparse = bytearray(len(content))
        sparse[places[-1] :] = content[places[-1] :]
        sparse[places[chosen] : places[chosen + 1]] = content[places[chosen] : places[chosen + 1]]
        (tmp_path / "sparse").write_bytes(sparse)
        reader = ArrayRecordReader(str(tmp_path / "sparse"), **shards.OPTIONS)
        assert reader.read([chosen])[0] == records[chosen]
        for other in {0, count - 1} - {chosen}:
            with pytest.raises(RuntimeError, match="hash mismatch"):
                reader.read([other])


def test_another_file_is_refused_in_words(tmp_path):
    written(tmp_path / "whole", 30, 9000, "group_size:1,zstd:3")
    written(tmp_path / "groups", 30, 9000, "group_size:4")
    content, grouped = (tmp_path / "whole").read_bytes(), (tmp_path / "groups").read_bytes()
    with pytest.raises(ValueError, match="more than one record per chunk; prepare the dataset again"):
        shards.begins(lambda start, end: grouped[start:end], len(grouped))
    with pytest.raises(ValueError, match="not an array_record file: 5 bytes"):
        shards.begins(lambda start, end: b"12345", 5)
    with pytest.raises(ValueError, match="no chunk where one should be"):
        shards.begins(lambda start, end: bytes(end - start), len(content))
    footer = int(shards.begins(lambda start, end: content[start:end], len(content))[-1])
    rng, found = np.random.default_rng(0), 0
    for _ in range(300):  # whatever is flipped, it is right or a ValueError
        damaged = bytearray(content)
        damaged[int(rng.integers(footer, footer + 300))] ^= 1 << int(rng.integers(8))
        try:
            shards.begins(lambda start, end, data=bytes(damaged): data[start:end], len(damaged))
        except ValueError:
            found += 1
    assert found > 50


class Near(mirror.Mirror):
    """A mirror of a file on this disk, in place of a store."""

    def __init__(self, folder: pathlib.Path, content: bytes):
        self.folder, self.content, self.fetched, self.lock = folder, content, [], threading.Lock()
        self.sizes = {"x": len(content)}
        with (folder / "x").open("wb") as file:
            file.truncate(len(content))

    def fetch(self, name, start, end):
        with self.lock, (self.folder / name).open("r+b") as file:
            self.fetched.append((start, end))
            file.seek(start)
            file.write(self.content[start:end])


@pytest.fixture
def near(tmp_path):
    records = written(tmp_path / "whole", 30, 9000, "group_size:1,uncompressed")
    near = Near(tmp_path, (tmp_path / "whole").read_bytes())
    near.records = records
    near.files = [types.SimpleNamespace(filename=tmp_path / "x", examples_in_shard=30)]
    return near


def test_a_record_is_fetched_when_it_is_wanted_and_once(near):
    found = shards.Shards(near, near.files)
    assert len(found) == 30 and near.fetched == []
    assert found[7] == near.records[7] == found[7]
    tail, record = near.fetched
    assert tail == (len(near.content) - shards.TAIL, len(near.content))
    assert len(near.records[7]) < record[1] - record[0] < len(near.records[7]) + 100
    again = shards.Shards(near, near.files)  # another process, later
    assert again[7] == near.records[7] and len(near.fetched) == 2


def test_what_is_damaged_or_taken_away_here_is_fetched_again(near):
    found = shards.Shards(near, near.files)
    assert [found[i] for i in range(30)] == near.records
    damaged = bytearray((near.folder / "x").read_bytes())
    damaged[near.fetched[5][0] + 60] ^= 4
    (near.folder / "x").write_bytes(damaged)
    count = len(near.fetched)
    assert [found[i] for i in range(30)] == near.records and len(near.fetched) == count + 1
    (near.folder / "x").write_bytes(bytes(len(damaged)))
    assert [found[i] for i in range(30)] == near.records and len(near.fetched) == count + 31


def test_what_is_damaged_there_is_said(near):
    damaged = bytearray(near.content)
    damaged[9000] ^= 1
    near.content = bytes(damaged)
    found = shards.Shards(near, near.files)
    errors = []
    for i in range(30):
        try:
            assert found[i] == near.records[i]
        except RuntimeError as error:
            errors.append(str(error))
    assert len(errors) == 1 and "data hash mismatch" in errors[0]
    near.files[0].examples_in_shard = 29
    with pytest.raises(ValueError, match="x holds 30 records, not 29"):
        shards.Shards(near, near.files)[0]
    near.content = bytes(len(near.content))
    (near.folder / "x").write_bytes(near.content)
    with pytest.raises(ValueError, match="x: no chunk where one should be"):
        shards.Shards(near, near.files)[0]
