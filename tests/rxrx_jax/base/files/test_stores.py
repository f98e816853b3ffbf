"""Objects in emulated stores, and what goes wrong on the way: every fault passes, or is one line."""

import importlib
import types

import pytest
from store_tools import emulated

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import stores

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request):
    with emulated(request.param) as proxy:
        stores.tried(f"{request.param}://bucket/a", lambda client: client.pipe_file("bucket/a/x.bin", CONTENT))
        yield proxy


@pytest.fixture(autouse=True)
def quick(store, monkeypatch):
    """Without waits, ours and gcsfs's own."""
    store.reset()
    waits = []
    monkeypatch.setattr(stores, "TRIES", 4)
    monkeypatch.setattr(stores, "time", types.SimpleNamespace(sleep=waits.append))
    if store.scheme == "gs":

        async def sleep(_):
            waits.append(0)

        retry = importlib.import_module("gcsfs.retry")
        monkeypatch.setattr(retry, "asyncio", types.SimpleNamespace(sleep=sleep))
    return waits


def test_what_is_read_written_and_listed(store, tmp_path):
    folder = f"{store.scheme}://bucket/a"
    assert stores.read(f"{folder}/x.bin") == CONTENT
    assert stores.read(f"{folder}/x.bin", 100, 300) == CONTENT[100:300]
    assert stores.size(f"{folder}/x.bin") == len(CONTENT) and stores.size(f"{folder}/y.bin") is None
    assert stores.listed(folder) == {"x.bin": len(CONTENT)} and stores.listed(f"{folder}/none") == {}
    (tmp_path / "y.bin").write_bytes(CONTENT[:7])
    stores.upload(tmp_path / "y.bin", f"{folder}/b/y.bin")
    stores.download(f"{folder}/b/y.bin", tmp_path / "z.bin")
    assert (tmp_path / "z.bin").read_bytes() == CONTENT[:7]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.bin", "z.bin"]


@pytest.mark.parametrize("kind", ["503", "429", "reset", "cut", "short"])
def test_what_passes_is_tried_again(store, quick, tmp_path, kind):
    address = f"{store.scheme}://bucket/a/x.bin"
    store.breaks = [["GET .*x.bin", kind, 2]]
    assert stores.read(address, 10, 9000) == CONTENT[10:9000]
    assert store.broken[kind] == 2 and quick  # aiohttp may have tried a reset connection itself
    store.breaks = [["GET .*x.bin", kind, 1]]
    stores.download(address, tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and store.broken[kind] == 3


def test_a_store_that_stays_away_is_one_line(store, quick):
    store.breaks = [["x.bin", "503", 10**6]]
    with pytest.raises(
        stores.Unreachable, match=rf"^object a/x.bin in bucket {store.scheme}://bucket cannot be had after"
    ):
        stores.read(f"{store.scheme}://bucket/a/x.bin", 0, 10)
    if store.scheme == "s3":  # gcsfs tries by itself, too
        assert len(quick) == stores.TRIES - 1 == store.broken["503"] - 1
        assert all(0 <= wait <= stores.FIRST * 2**i for i, wait in enumerate(quick)) and len(set(quick)) > 1


@pytest.mark.parametrize("kind, advice", [("denied", "check who is logged in"), ("expired", "renew the credentials")])
def test_a_denial_names_bucket_and_object_at_once(store, quick, kind, advice):
    store.breaks = [["x.bin", kind, 10**6]]
    line = rf"^object a/x.bin in bucket {store.scheme}://bucket is denied \(.*\): {advice}"
    with pytest.raises(stores.Unreachable, match=line) as found:
        stores.read(f"{store.scheme}://bucket/a/x.bin", 0, 10)
    assert "\n" not in str(found.value) and store.broken[kind] == 1 and not quick


def test_what_is_not_there_or_not_a_store(store, quick):
    with pytest.raises(stores.Unreachable, match="object a/none in bucket .* is not there"):
        stores.read(f"{store.scheme}://bucket/a/none", 0, 10)
    with pytest.raises(UserError, match="ftp:// is not a store that is read here: use gs:// or s3://"):
        stores.read("ftp://host/x")


def test_an_upload_leaves_the_mark_to_the_end_and_resumes(store, quick, tmp_path):
    folder, address = tmp_path / "made", f"{store.scheme}://bucket/up"
    folder.mkdir()
    for name in ("a", "mark", "z"):
        (folder / name).write_text(name)
    put = "PUT .*/up/z" if store.scheme == "s3" else "POST .*name=up%2Fz|POST /upload"
    store.breaks = [[put, "denied", 1]]
    with pytest.raises(stores.Unreachable, match="is denied"):
        stores.upload_folder(folder, address, "mark")
    assert store.broken["denied"] == 1 and stores.size(f"{address}/mark") is None
    stores.upload_folder(folder, address, "mark")
    assert stores.listed(address) == {"a": 1, "mark": 4, "z": 1} and not list(tmp_path.glob("*.uploaded"))
