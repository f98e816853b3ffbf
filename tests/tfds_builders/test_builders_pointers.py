"""What a clone without Git LFS holds in place of every kind of file is named as such."""

import types

import pytest

from rxrx_jax.base import embeddings, files
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import records, sites
from rxrx_jax.weights.read import read_tensors
from tfds_builders import verify_shard
from tfds_builders.common import decode
from tfds_builders.common.rows import tables
from tfds_builders.common.sources import parquet, tars
from tfds_builders.common.types import BadSite
from tfds_builders.embeddings import vectors
from tfds_builders.own import decode as own

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
READERS = {
    "weights": read_tensors,
    "a table": lambda path: tables.header(path, ["a"]),
    "sites.csv": lambda path: sites.read_sites(path.parent),
    "published embeddings": lambda path: list(vectors.read([path], lambda n: None)),
    "embeddings.parquet": embeddings.read,
    "records": lambda path: records.check_files([types.SimpleNamespace(filename=path)], 12345),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_pointer_in_place_of_a_file(tmp_path, kind):
    path = tmp_path / "sites.csv"
    path.write_bytes(POINTER)
    with pytest.raises(UserError, match=r"sites.csv is a Git LFS pointer and not the file itself; .*git lfs pull"):
        READERS[kind](path)


def test_a_pointer_in_place_of_images(tmp_path):
    with pytest.raises(BadSite, match="a Git LFS pointer, not the image"):
        decode.decode(POINTER, (2, 2), 8)
    with pytest.raises(BadSite, match="a Git LFS pointer, not the image: run `git lfs pull`"):
        own.planes(POINTER)
    (tmp_path / "a.tar").write_bytes(POINTER)
    with open(tmp_path / "a.tar", "rb") as archive:
        assert list(tars._members(archive)) == ["a Git LFS pointer, not the tar: run `git lfs pull`"]
    with pytest.raises(BadSite, match="a Git LFS pointer, not the file"), parquet._open(tmp_path / "a.tar"):
        pass


def test_a_pointer_in_place_of_records_is_named_by_verify(tmp_path, monkeypatch):
    monkeypatch.setattr(verify_shard, "read_features", lambda folder: None)
    (tmp_path / "x.array_record-0").write_bytes(POINTER)
    found = verify_shard.compare(tmp_path, tmp_path / "x.array_record-0", 0, [], [], {})["wrong"]
    assert found == ["x.array_record-0: cannot be read (a Git LFS pointer, not the file: run `git lfs pull`)"]


def test_files_that_only_begin_alike(tmp_path):
    (tmp_path / "a").write_bytes(b"version 1")
    files.check_pointer(tmp_path / "a")
    files.check_pointer(tmp_path / "none")  # for its reader to say
