"""Prepared datasets in emulated stores: prepared there, opened, verified and trained on as on a disk."""

import json
import re

import numpy as np
import pytest
import tiny
from builders_tools import SCREEN_FIELDS, digests

from rxrx_jax import datasets
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import mirror, stores
from rxrx_jax.data import dataset as data
from rxrx_jax.data.minibatches import evaluation_minibatches
from rxrx_jax.training import train
from tfds_builders import prepare, verify
from tfds_builders.common import build, settings
from tfds_builders.own.spec import Spec

ONE = {"train": ("SIMA-01",), "val": ("SIMA-02",), "test": ("SIMB-02",), "plates": 1}
FIELDS = SCREEN_FIELDS | ONE | {"image_size": 64}
TILES = {"s3": 32, "gs": 0}  # whole images there


@pytest.fixture(scope="module")
def both(store, tmp_path_factory):
    """(the folder of a screen on this disk, its address in the store)."""
    folder, settings = tmp_path_factory.mktemp("data"), FIELDS | {"tile": TILES[store.scheme]}
    here = prepare.prepare("rxrx_sim", out=folder / "here", workers=1, progress=False, **settings)
    out, staging = f"{store.scheme}://bucket/data", folder / "staging"
    there = prepare.prepare("rxrx_sim", out=out, workers=1, progress=False, staging=staging, **settings)
    assert str(there) == f"{out}/{here.relative_to(folder / 'here')}"
    assert [path for path in staging.rglob("*") if path.is_file() and ".config" not in path.parts] == []
    return here, str(there)


def test_the_same_files_are_uploaded_and_nothing_twice(store, both, tmp_path):
    here, there = both
    (tmp_path / "copy").mkdir()
    for name in stores.listed(there):
        stores.download(f"{there}/{name}", tmp_path / "copy" / name)
    assert digests(tmp_path / "copy") == digests(here)
    assert {path.name for path in here.iterdir()} == set(stores.listed(there))
    out, settings = there.rpartition("/rxrx_sim/")[0], FIELDS | {"tile": TILES[store.scheme]}
    store.breaks = [["^(PUT|POST)", "denied", 99]]
    prepare.prepare("rxrx_sim", out=out, progress=False, staging=tmp_path / "staging", **settings)
    assert not store.broken and not (tmp_path / "staging").exists()


def test_minibatches_are_those_of_the_disk(store, both, tmp_path):
    here, there = both
    kinds = "503", "reset", "", "cut", "429", "", ""
    store.breaks = [["GET .*array_record", kind, 1] for kind in kinds * 2]
    near, far = datasets.open(here), datasets.open(there, cache=f"{tmp_path}/cache,1GB")
    assert data.fingerprint(near) == data.fingerprint(far) and far.address == there
    rows = np.random.default_rng(0).permutation(len(near.sites))
    for crop in (None, 24):
        for one, other in zip(*(evaluation_minibatches(x, rows, 16, crop) for x in (near, far)), strict=True):
            assert all(np.array_equal(one[key], other[key]) for key in one)
    assert all(store.broken[kind] == 2 for kind in kinds if kind)


def test_a_denial_while_training_stops_in_one_line(store, both, tmp_path):
    far = datasets.open(both[1], cache=f"{tmp_path}/cache,1GB")
    store.breaks = [["GET .*array_record", "denied", 10**6]]
    with pytest.raises(stores.Unreachable, match=f"array_record-.* in bucket {store.scheme}://bucket is denied"):
        list(evaluation_minibatches(far, np.arange(8), 8, go_on=True))


def test_verify_reads_it_where_it_lies(store, both, tmp_path, capsys):
    here, there = both
    assert verify.main([there, "--workers=1"]) == 0
    assert f"{there}: " in capsys.readouterr().out
    assert not list((tmp_path / "usual").rglob("*whole*"))
    name = sorted(name for name in stores.listed(there) if "-train.array_record" in name)[0]
    damaged = bytearray((here / name).read_bytes())
    damaged[300] ^= 1
    (tmp_path / name).write_bytes(damaged)
    stores.upload(tmp_path / name, f"{there}/{name}")
    try:
        assert verify.main([there, "--workers=1"]) == 1
        assert f"{name} record 0 (" in capsys.readouterr().out
        far = datasets.open(there, cache=f"{tmp_path}/new,1GB")
        first = np.flatnonzero((far.sites.split == "train") & (far.sites.index == 0))
        with pytest.raises(UserError, match=f"record 0 of train in {re.escape(there)}\\) cannot be read: .*mismatch"):
            list(evaluation_minibatches(far, first, 1))
    finally:
        stores.upload(here / name, f"{there}/{name}")


def test_what_is_not_there_or_not_for_a_store(store, both, tmp_path):
    with pytest.raises(UserError, match=f"no dataset in {store.scheme}://bucket/none/rxrx1/.* --out={store.scheme}:"):
        data.open_dataset("rxrx1", {}, f"{store.scheme}://bucket/none")
    with pytest.raises(UserError, match=f"no prepared dataset in {store.scheme}://bucket/none"):
        datasets.open(f"{store.scheme}://bucket/none")
    with pytest.raises(UserError, match=r"^data.cache=/a: expected DIR,SIZE"):
        datasets.open(both[1], cache="/a")


def test_a_pipeline_builds_in_the_staging_folder(store, tmp_path, monkeypatch):
    """Of Beam: what a runner is given, a stand-in here, is on a disk; Beam itself is in test_builders_beam.py."""
    given = []

    def run(task, names, options):
        given.append((task.folder, options))
        build.run(task, names, 1, "", False)

    monkeypatch.setattr(build, "run_on_beam", run)
    how = {"workers": 1, "progress": False, "beam": ["--runner=X"], "staging": tmp_path / "staging"}
    made = prepare.prepare("rxrx_sim", out=f"{store.scheme}://bucket/beam", **how, **FIELDS)
    assert given[0][0].is_relative_to(tmp_path / "staging") and given[0][1] == ["--runner=X"]
    assert mirror.exists(made)


def test_the_command_says_where_the_dataset_is(store, tmp_path, capsys):
    out, fields = f"{store.scheme}://bucket/command", (*(f"{k}={','.join(v)}" for k, v in ONE.items() if v != 1),)
    argv = ["rxrx_sim", f"--out={out}", "--workers=1", *(f"--set={field}" for field in (*fields, "plates=1"))]
    argv += ["--set=image_size=32", "--set=treatments=2"]
    prepare.main(argv)
    said = capsys.readouterr().out
    assert f"preparing {out}/rxrx_sim/" in said and f"uploading  {tmp_path}/staging/rxrx_sim/" in said
    assert f"report     {out}/rxrx_sim/" in said and said.count("staging") == 1
    prepare.main(argv)
    assert "exists and is left as it is\nsource " in capsys.readouterr().out


def test_plates_of_ones_own_are_found_by_their_name(store, tmp_path):
    spec = Spec("mine", "table.csv", "{plate}/{well}_{channel}.tif", "1=DNA")
    (tmp_path / "metadata.json").write_text(json.dumps({"settings": settings.as_json((spec,))}))
    stores.upload(tmp_path / "metadata.json", f"{store.scheme}://bucket/own/mine/default/1.0.0/metadata.json")
    assert prepare.builder_class("mine", f"{store.scheme}://bucket/own").name == "mine"
    with pytest.raises(UserError, match="no dataset is called 'yours'"):
        prepare.builder_class("yours", f"{store.scheme}://bucket/own")


@pytest.mark.slow
def test_a_run_from_the_store_is_that_of_the_disk(store, tmp_path):
    """With a cache that holds a part of the records, and faults all along."""
    out = f"{store.scheme}://bucket/world"
    changes = {"total_steps": 4, "evaluators": {"accuracy": {}}}
    here = tiny.values("convnet.py", tmp_path / "here", **changes)
    there = tiny.values("convnet.py", out, **changes, **{"data.cache": f"{tmp_path}/cache,1MB"})
    kinds = "503", "", "reset", "", "cut", "", "429", ""
    store.breaks = [["GET .*array_record", kind, 1] for kind in kinds * 4]
    expected = train.run(here, tmp_path / "run_here")["parameters_sha256"]
    found = train.run(there, tmp_path / "run_there")
    assert found["parameters_sha256"] == expected and found["done"]
    assert all(store.broken[kind] == 4 for kind in kinds if kind)
    files = [path.stat() for path in (tmp_path / "cache").rglob("*.array_record-*")]
    held, size = sum(file.st_blocks * 512 for file in files), sum(file.st_size for file in files)
    assert len(set(store.asked)) >= len(files) and held < 2**20 < size / 3  # all were read, most are empty again
    elsewhere = there | {"data": there["data"] | {"cache": f"{tmp_path}/other,1GB"}}
    assert train.run(elsewhere, tmp_path / "run_there")["parameters_sha256"] == expected  # the same run, which is done
