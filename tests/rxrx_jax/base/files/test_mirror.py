"""A folder in an emulated store, and the local one that stands for it."""

import concurrent.futures
import json
import types

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from store_tools import emulated

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import mirror, shards, stores

FILES, RECORDS, SIZE = 6, 20, 12_000
NAMES = [f"x-train.array_record-{i:05d}-of-{FILES:05d}" for i in range(FILES)]


@pytest.fixture(scope="module")
def store():
    with emulated("s3") as proxy:
        yield proxy


@pytest.fixture
def there(store, tmp_path, monkeypatch):
    """The records of a folder that looks as a prepared one, and was uploaded."""
    monkeypatch.setattr(stores, "time", types.SimpleNamespace(sleep=lambda _: None))
    store.reset()
    return made(tmp_path / "made", f"s3://bucket/{tmp_path.name}/x/default/1.0.0")


def made(folder, address, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    records = [rng.bytes(SIZE) for _ in range(FILES * RECORDS)]
    for i, name in enumerate(NAMES):
        writer = ArrayRecordWriter(str(folder / name), "group_size:1,uncompressed")
        for record in records[i * RECORDS : (i + 1) * RECORDS]:
            writer.write(record)
        writer.close()
    (folder / "sites.csv").write_text(f"a,{seed}\n")
    (folder / "report.html").write_text("<p>")
    (folder / mirror.MARK).write_text(json.dumps({"seed": seed}))
    files.write_sums(folder, ["sites.csv", "report.html", mirror.MARK])
    stores.upload_folder(folder, address, mirror.MARK)
    total = sum((folder / name).stat().st_size for name in NAMES)
    return types.SimpleNamespace(address=address, records=records, total=total, folder=folder)


def opened(there, cache):
    """The mirror, and its records."""
    found = mirror.Mirror(there.address, cache)
    found.place(NAMES, there.total)
    files = [types.SimpleNamespace(filename=found.folder / name, examples_in_shard=RECORDS) for name in NAMES]
    return found, shards.Shards(found, files)


def test_tables_are_there_whole_and_records_as_they_are_read(store, there, tmp_path):
    found, records = opened(there, f"{tmp_path}/cache,1GB")
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(
        [*NAMES, files.SUMS, mirror.MARK, "sites.csv"]
    )
    assert found.folder.parts[-3:] == ("x", "default", "1.0.0") and not store.asked
    assert records[25] == there.records[25]
    sizes = [
        int(end) - int(start) + 1 for _, of in store.asked for start, end in [of.removeprefix("bytes=").split("-")]
    ]
    assert sizes[0] == shards.TAIL and SIZE < sizes[1] < SIZE + 200 and len(sizes) == 2
    again, records = opened(there, f"{tmp_path}/cache,1GB")
    assert again.folder == found.folder and records[25] == there.records[25] and len(store.asked) == 2


def test_the_cache_is_bounded_and_every_record_is_right(store, there, tmp_path):
    """Half of the records fit; threads read them in another order three times."""
    limit = 2**20
    _, records = opened(there, f"{tmp_path}/cache,1MiB")
    assert there.total > 1.5 * limit
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(len(records)), 3)).tolist()
    held = []

    def read(i):
        held.append(sum(path.stat().st_blocks * 512 for path in (tmp_path / "cache").rglob("*") if path.is_file()))
        return records[i] == there.records[i]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, order))
    assert limit / 2 < max(held) <= limit


def test_a_record_of_a_file_that_is_being_emptied_is_fetched_again(there, tmp_path):
    found, records = opened(there, f"{tmp_path}/cache,1GB")
    assert records[25] == there.records[25]
    path = found.folder / NAMES[1]
    with path.open("r+b") as file:
        file.truncate(0)  # and not yet of its size again
    assert records[25] == there.records[25] and records[26] == there.records[26]


def test_faults_on_the_way_change_nothing(store, there, tmp_path):
    found, records = opened(there, f"{tmp_path}/cache,1GB")
    kinds = "503", "reset", "", "429", "cut", ""
    store.breaks = [["GET .*array_record", kind, 1] for kind in kinds * 3]
    assert [records[i] for i in range(0, len(records), 3)] == there.records[::3]
    assert all(store.broken[kind] == 3 for kind in kinds if kind)
    store.breaks = [[NAMES[1], "expired", 100]]
    with pytest.raises(stores.Unreachable, match=rf"object .*/{NAMES[1]} in bucket s3://bucket is denied .* renew"):
        records[RECORDS + 2]


def test_a_listing_that_is_behind_is_not_believed(store, there, tmp_path):
    store.breaks = [["GET .*list-type", "behind", 100]]
    found, records = opened(there, f"{tmp_path}/cache,1GB")
    assert store.broken["behind"] and found.records() == [] and records[3] == there.records[3]
    stores.client("s3").rm(f"{there.address}/{NAMES[2]}")
    with pytest.raises(UserError, match=f"{NAMES[2]} is not there: upload the folder again"):
        opened(there, f"{tmp_path}/cache,1GB")


def test_another_content_is_another_mirror(store, there, tmp_path):
    before, _ = opened(there, f"{tmp_path}/cache,1GB")
    other = made(tmp_path / "other", there.address, seed=1)
    found, records = opened(other, f"{tmp_path}/cache,1GB")
    assert found.folder != before.folder and records[0] == other.records[0] != there.records[0]
    assert (found.folder / "sites.csv").read_text() == "a,1\n"


def test_a_table_that_was_damaged_here_is_fetched_again(there, tmp_path):
    found, _ = opened(there, f"{tmp_path}/cache,1GB")
    (found.folder / "sites.csv").write_text("b")
    whole = mirror.Mirror(there.address, f"{tmp_path}/cache,1GB", whole=True)
    assert (found.folder / "sites.csv").read_text() == "a,0\n" and (whole.folder / "report.html").exists()


def test_what_is_not_complete_is_not_opened(there, tmp_path):
    assert mirror.exists(there.address) and not mirror.exists(f"{there.address}0") and mirror.exists(there.folder)
    stores.client("s3").rm(f"{there.address}/{mirror.MARK}")
    with pytest.raises(UserError, match=f"no prepared dataset in {there.address} \\(it has no dataset_info.json\\)"):
        mirror.Mirror(there.address, f"{tmp_path}/cache,1GB")


@pytest.mark.parametrize("text", ["/a", "/a,", ",1GB", "/a,0GB", "/a,1", "/a,1KB", "/a,-1GB"])
def test_a_cache_that_cannot_be_read(text):
    with pytest.raises(UserError, match=f"^data.cache={text}: expected DIR,SIZE such as"):
        mirror.cache(text)


def test_a_cache_is_its_folder_and_its_size(tmp_path):
    found = mirror.cache(f"{tmp_path}/a,b,1.5GiB")
    assert (str(found.folder), found.size) == (f"{tmp_path}/a,b", 3 * 2**29) and mirror.cache("").size == 16 * 10**9
