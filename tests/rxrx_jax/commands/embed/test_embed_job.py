"""Embedding as a job: a file of each plate, rows of tiles, records that cannot be read, counts, kills and hosts."""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import time
import types

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath
from launch_tools import finish, launch
from weights_tools import embed_into

from launch import common
from rxrx_jax import data, embed
from rxrx_jax.base import embeddings, files
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.records import Encoded, Tiles
from rxrx_jax.embedding import job, pace, work
from rxrx_jax.maps import table
from rxrx_jax.maps.build import make
from rxrx_jax.training import metrics
from rxrx_jax.training.safety.preemption import Stopped


@dataclasses.dataclass(frozen=True)
class Quarters:
    """The tiles of whole images of 32 pixels, as records."""

    images: object
    dtype = np.dtype(np.uint8)

    def __len__(self):
        return 4 * len(self.images)

    def __getitem__(self, index):
        y, x = divmod(index % 4, 2)
        tile = self.images[index // 4][16 * y : 16 * (y + 1), 16 * x : 16 * (x + 1)]
        return Encoded(types.SimpleNamespace(np_dtype=np.uint8, shape=tile.shape), tile.tobytes())


def in_tiles(dataset):
    """The dataset as if it were stored in tiles."""
    sources = {split: Tiles(Quarters(images), dataset.image_shape, 16) for split, images in dataset.sources.items()}
    return dataclasses.replace(dataset, sources=sources)


class Damaged:
    """Images of which one cannot be read."""

    def __init__(self, images, index):
        self.images, self.index = images, index

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.index:
            raise ValueError("Corrupted")
        return self.images[index]


@pytest.fixture(scope="module")
def model(folder):
    return embed.open_model(str(folder / "plain"), 6)


@pytest.fixture(scope="module")
def plates(folder, dataset):
    """The plain run's embeddings, a file of each plate."""
    out = folder / "plates.v1"
    assert embed_into(folder / "plain", dataset.folder, out / "made") == 0
    return out / "made"


def test_a_folder_holds_a_file_of_each_plate(plain, plates, folder, dataset, capsys):
    (columns, whole), (expected_columns, expected) = embeddings.read(plates), embeddings.read(plain)
    np.testing.assert_array_equal(whole, expected)
    for name in expected_columns:
        np.testing.assert_array_equal(columns[name], expected_columns[name])
    assert sorted(path.name for path in (plates / "plates").iterdir())[0].startswith("000000-SIM")
    assert not list((plates / "parts").iterdir()) and not (plates / "lock").exists()
    assert embeddings.read_provenance(plates) == embeddings.read_provenance(plain)
    profiles = table.read(plates)
    np.testing.assert_array_equal(profiles.features, expected)
    assert make._provenance(profiles.path, "")[1] == "T"
    some, _ = embeddings.read(plates, plates=dataset.plates[1:3])
    assert {f"{e}/{p}" for e, p in zip(some["experiment"], some["plate"])} == {*dataset.plates[1:3]}
    with pytest.raises(UserError, match="has no plate 'SIMA-01/9'"):
        embeddings.read(plates, plates=["SIMA-01/9"])
    last = metrics.read(epath.Path(plates / "metrics.jsonl"))[-1]
    assert last["done"] is True and last["rows"] == last["step"] == len(whole) and last["unreadable"] == 0
    assert embed_into(folder / "plain", dataset.folder, plates) == 0
    assert "is finished; nothing to do" in capsys.readouterr().err
    assert embed_into(folder / "plain", dataset.folder, plates, "--block=1") == 2
    assert "holds plates of other embeddings" in capsys.readouterr().err


def test_the_plan_is_printed_and_then_the_speed(folder, dataset, tmp_path, capsys):
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "out") == 0
    said = capsys.readouterr().err
    sites, wells = len(dataset.sites), len(set(dataset.sites.well_id))
    assert f"plan: {len(dataset.plates)} plates, {wells} wells, {sites} sites, 4 tiles of 16 pixels each, on 1 " in said
    assert "wells/s per chip, measured over" in said and " hours to go" in said


def test_hours_are_of_the_host_that_has_most(monkeypatch):
    now = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(now))
    found = pace.Pace(left=3612, wells_per_site=0.5, chips=4)
    assert found.add(4, False) == ""  # compiles
    monkeypatch.setattr(pace, "MEASURED", 2)
    assert found.add(4, False) == ""
    line = found.add(4, False)  # 8 images in 4 s: 1 well/s on 4 chips, 3600 images to go
    assert line.startswith("plan: 0.25 wells/s per chip, measured over 2 minibatches")
    assert line.endswith("0.5 hours to go") and found.rate == 0.25


def test_rows_of_tiles_are_parts_that_are_not_done_again(plain, model, dataset, tmp_path, monkeypatch):
    cut, kept, written = in_tiles(dataset), job._Host._keep, []

    def keep(self, plate, unit, whole):
        kept(self, plate, unit, whole)
        written.append((plate.number, unit))
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(job._Host, "_keep", keep)
    with pytest.raises(KeyboardInterrupt):
        embed.embed_dataset(model, cut, tmp_path / "out", minibatch=16)
    assert [path.name for path in (tmp_path / "out" / "parts").iterdir()] == ["000001-row-0000.npz"]
    with pytest.raises(UserError, match="is not finished"):
        embeddings.read(tmp_path / "out")
    embed.embed_dataset(model, cut, tmp_path / "out", minibatch=16)
    assert len(written) == 2 * len(dataset.plates) == len({(plate, *unit) for plate, unit in written})
    found, expected = embeddings.read(tmp_path / "out"), embeddings.read(plain)
    np.testing.assert_array_equal(found[0]["site_id"], expected[0]["site_id"])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)
    assert not list((tmp_path / "out" / "parts").iterdir())


@pytest.mark.parametrize("per", ["site", "well"])
def test_a_record_that_cannot_be_read_is_named_and_counted(per, model, dataset, tmp_path, capsys):
    split = dataset.sites.split[0]
    row = int(np.flatnonzero(dataset.sites.split == split)[5 + (per == "well")])  # each is named once in a process
    name, index = dataset.sites.site_id[row], int(dataset.sites.index[row])
    broken = dataclasses.replace(dataset, sources=dataset.sources | {split: Damaged(dataset.sources[split], index)})
    wrong = rf"^1 records cannot be read and embedded, among them {name} .* allow more than --unreadable=0$"
    with pytest.raises(UserError, match=wrong):
        embed.embed_dataset(model, broken, tmp_path / "out", minibatch=16, per=per)
    assert f"{name} (experiment " in capsys.readouterr().err
    embed.embed_dataset(model, broken, tmp_path / "out", minibatch=16, per=per, unreadable=1)
    assert "1 records could not be read" in capsys.readouterr().err
    about = json.loads((tmp_path / "out" / "embeddings.json").read_text())
    assert (
        about["unreadable"] == [name]
        and metrics.read(epath.Path(tmp_path / "out/metrics.jsonl"))[-1]["unreadable"] == 1
    )
    columns, embedding = embeddings.read(tmp_path / "out")
    if per == "site":
        assert {*dataset.sites.site_id} - {*columns["site_id"]} == {name} and len(embedding) == len(dataset.sites) - 1
    else:
        well = dataset.sites.well_id[row]  # of its other site
        assert (dataset.sites.well_id == well).sum() == 2 and well in columns["well_id"]
    assert np.isfinite(embedding).all()


def test_a_manifest_of_another_count_is_refused(folder, dataset, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(dataset.folder, copy)
    lines = (copy / "manifest.csv").read_text().splitlines(keepends=True)
    (copy / "manifest.csv").write_text("".join(lines[:-1]))
    named = [line[66:] for line in (copy / "SHA256SUMS").read_text().splitlines()]
    files.write_sums(copy, named)
    assert embed_into(folder / "plain", copy, tmp_path / "out") == 2
    said = capsys.readouterr().err
    count = (dataset.sites.plate == dataset.sites.plate[-1]).sum()
    title = dataset.plates[dataset.sites.plate[-1]]
    assert f"manifest.csv has {count - 1} sites of plate {title} and sites.csv {count}; rebuild" in said
    assert not (tmp_path / "out").exists()


def test_a_plate_with_other_rows_than_the_manifest_is_refused(plates, model, dataset, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(plates, out)
    for name in ("embeddings.json", "metrics.jsonl"):
        (out / name).unlink()
    first, *_ = sorted((out / "plates").iterdir())
    pq.write_table(pq.read_table(first).slice(1), first)
    with pytest.raises(UserError, match=f"{first} has 9 rows and manifest.csv 10; delete it and start again"):
        embed.embed_dataset(model, dataset, out, minibatch=16)


def test_a_plate_that_was_changed_afterwards_is_noticed(plates, dataset, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(plates, out)
    first, second, *_ = sorted((out / "plates").iterdir())
    pq.write_table(pq.read_table(first).slice(1), first)
    with pytest.raises(UserError, match=f"^{first} has 9 rows and embeddings.json says 10; copy it again"):
        embeddings.read(out)
    assert len(embeddings.read(out, plates=[dataset.plates[1]])[1]) == 10  # another plate is read
    about = json.loads((out / "embeddings.json").read_text())
    about["plates"][second.name]["plate"] = about["plates"][first.name]["plate"]
    (out / "embeddings.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="is damaged .it does not name each plate once"):
        embeddings.read(out)


def test_asked_to_stop_it_keeps_what_is_finished(plain, model, dataset, tmp_path, capsys):
    asked = iter([False] * 3 + [True] * 2)
    with pytest.raises(Stopped):
        embed.embed_dataset(model, dataset, tmp_path / "out", minibatch=16, stopping=lambda: next(asked))
    assert "stopped: what is finished is kept; the same command resumes" in capsys.readouterr().err
    assert len(list((tmp_path / "out" / "plates").iterdir())) == 3 and not common.finished(str(tmp_path / "out"))
    embed.embed_dataset(model, dataset, tmp_path / "out", minibatch=16)
    np.testing.assert_array_equal(embeddings.read(tmp_path / "out")[1], embeddings.read(plain)[1])
    assert common.finished(str(tmp_path / "out"))  # as launchers ask


def test_a_folder_of_something_else_is_left_alone(folder, dataset, capsys):
    before = sorted((folder / "plain").iterdir())
    assert embed_into(folder / "agnostic", dataset.folder, folder / "plain") == 2
    assert "plain holds something else than embeddings by plates" in capsys.readouterr().err
    assert sorted((folder / "plain").iterdir()) == before


def test_plates_are_dealt_out_evenly():
    dealt = work.deal([5, 9, 1, 1, 8, 3], 2)
    assert sorted(sum(dealt, [])) == list(range(6)) and dealt == work.deal([5, 9, 1, 1, 8, 3], 2)
    assert abs(sum([5, 9, 1, 1, 8, 3][i] for i in dealt[0]) - 27 / 2) <= 1
    assert work.deal([], 2) == [[], []]


def slowly(arguments, data_folder, out):
    """What a process does: embeds, with time to be killed before and after a file is written."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    jax.config.update("jax_compilation_cache_dir", f"{out}.cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    write = files.write

    def slow(path, content):
        time.sleep(0.03)
        write(path, content)
        time.sleep(0.03)

    job.files.write = slow
    model = embed.open_model(arguments, 6)
    embed.embed_dataset(model, in_tiles(data.read_dataset(epath.Path(data_folder))), out, minibatch=16)


@pytest.mark.slow
def test_ten_kills_at_random_end_with_the_same_files(folder, dataset, tmp_path):
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["hosts_preload", "rxrx_jax.embed"])
    draw, expected, out = random.Random(0), tmp_path / "expected", tmp_path / "out"
    embed.embed_dataset(
        embed.open_model(str(folder / "plain"), 6),
        in_tiles(data.read_dataset(epath.Path(dataset.folder))),
        expected,
        minibatch=16,
    )
    for _ in range(10):
        before = listing(out)
        process = forks.Process(target=slowly, args=(str(folder / "plain"), str(dataset.folder), str(out)))
        process.start()
        end = time.monotonic() + 60
        while listing(out) == before and process.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -9 and not (out / "embeddings.json").exists(), listing(out)
    process = forks.Process(target=slowly, args=(str(folder / "plain"), str(dataset.folder), str(out)))
    process.start()
    process.join()
    found = [path.name for path in sorted((expected / "plates").iterdir())]
    assert [path.name for path in sorted((out / "plates").iterdir())] == found
    for name in ("embeddings.json", *(f"plates/{name}" for name in found)):
        assert (out / name).read_bytes() == (expected / name).read_bytes()
    assert not list((out / "parts").iterdir())


def listing(out):
    return sorted(str(path) for path in out.rglob("*.npz")) + sorted(str(path) for path in out.rglob("*.parquet"))


@pytest.mark.slow
def test_two_emulated_hosts_of_a_launcher_write_what_one_does(plates, folder, dataset, tmp_path):
    weights = ["embed", f"--checkpoint={folder / 'plain'}", f"--data={dataset.folder}", "--minibatch=16"]
    local = ["--processes=2", "--devices=1", f"--workdir={tmp_path / 'out.v2'}"]
    code, out, err = finish(launch("local", *local, "--", *weights), seconds=240)
    assert code == 0, err + out + (tmp_path / "out.v2/hosts/1.log").read_text()
    assert "on 2 hosts of 1 chips" in out
    for path in sorted((plates / "plates").iterdir()):
        assert path.read_bytes() == (tmp_path / "out.v2" / "plates" / path.name).read_bytes()
    assert metrics.read(epath.Path(tmp_path / "out.v2/metrics.jsonl"))[-1]["done"] is True
