"""Prepared molecules in an emulated store: prepared there, opened, left out and verified as on a disk."""

import numpy as np
import pytest

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import stores
from rxrx_jax.data import molecules
from rxrx_jax.data.molecules import library
from rxrx_jax.molecules import records
from tfds_builders import prepare, verify

pytest.importorskip("rdkit", reason="RDKit is not installed: pip install 'rxrx_jax[molecules]'")
MANY = 250


def made(out, **settings):
    return prepare.prepare("molecules", out=out, workers=1, progress=False, **settings)


@pytest.fixture(scope="module")
def both(store, tmp_path_factory):
    """(the folder of molecules on this disk, its address in the store)."""
    folder = tmp_path_factory.mktemp("molecules")
    here = made(folder / "here", count=MANY)
    out = f"{store.scheme}://bucket/data"
    there = made(out, count=MANY, staging=folder / "staging")
    assert str(there) == f"{out}/{here.relative_to(folder / 'here')}" and not list((folder / "staging").iterdir())
    return here, str(there)


def equal(one, other):
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) else a == b
               for a, b in zip(one, other, strict=True))  # fmt: skip


def test_records_are_those_of_the_disk(store, both, tmp_path, monkeypatch):
    here, there = both
    assert {path.name for path in here.iterdir()} == set(stores.listed(there))
    kinds = "503", "reset", "cut", "429"
    store.breaks = [["GET .*array_record", kind, 1] for kind in kinds]
    near, far = library.read_library(here), library.read_library(there, f"{tmp_path}/cache,1GB")
    assert near.digest == far.digest and far.where == there and near.where == str(here)
    rows = np.random.default_rng(0).permutation(MANY)
    assert all(map(equal, near.read(rows), far.read(rows)))
    assert all(store.broken[kind] == 1 for kind in kinds)
    asked, whole = len(store.asked), next(here.glob("*-train.array_record*")).stat().st_size
    again = library.read_library(there, f"{tmp_path}/cache,1GB")
    assert all(map(equal, near.read(rows), again.read(rows))) and len(store.asked) == asked  # all of it is here
    # a split that is too large for memory, or for the cache, is read record by record
    few = np.flatnonzero(near.split == "train")[:3]
    for name, size, most in (("memory", "1GB", 1), ("small", "1MB", 2**28)):
        monkeypatch.setattr(records, "IN_MEMORY", most)
        store.asked.clear()
        alone = library.read_library(there, f"{tmp_path}/{name},{size}")
        assert all(map(equal, near.read(few), alone.read(few)))
        ends = [of.removeprefix("bytes=").split("-") for _, of in store.asked]
        assert len(ends) == 4 and sum(int(end) - int(start) for start, end in ends) < 200_000 < whole


def test_a_source_opens_them_by_name_and_leaves_out_what_others_score(store, both, tmp_path, capsys):
    out = both[1].partition("/molecules/")[0]
    (tmp_path / "few.csv").write_text("smiles,y\n" + "".join(f"{'C' * n}O,{n}\n" for n in range(1, 21)))
    beside = made(out, source=tmp_path / "few.csv", targets=("y",), vocabulary=both[1])
    mine = library.open_library("molecules", {"count": MANY}, out, f"{tmp_path}/cache,1GB")
    assert mine.address == both[1] and [str(path) for path in library.beside(mine)] == [str(beside)]
    named = library.open_library("few", {}, out)
    assert named.vocabulary == mine.vocabulary and named.address == str(beside)
    settings = {"name": both[1], "builder": {}, "minibatch": 8, "leave_out": ("*",), "cache": f"{tmp_path}/cache,1GB"}
    source = molecules.make(Config({"data": settings, "seed": 0}))
    assert f"are scored in {beside} and left out" in capsys.readouterr().err
    assert next(source.minibatches(0, 1))["train"]["valid"].all()
    with pytest.raises(UserError, match=f"data.name=none: no such molecules in {out}/molecules; make them"):
        library.open_library("none", {}, out)
    with pytest.raises(UserError, match=f"no prepared dataset in {out}/molecules/none"):
        library.open_library(f"{out}/molecules/none", {}, None)


def test_the_command_and_what_is_there_already(store, both, tmp_path, capsys):
    here, there = both
    out = there.partition("/molecules/")[0]
    store.breaks = [["^(PUT|POST)", "denied", 99]]
    prepare.main(["molecules", f"--out={out}", f"--count={MANY}", "--workers=1"])
    said = capsys.readouterr().out
    assert f"{there} exists and is left as it is\nsource     simulated" in said and not store.broken
    assert f"report     {there}/report.html" in said and not (tmp_path / "staging").exists()
    (tmp_path / "simulated.csv").write_text("smiles\nCCO\n")
    with pytest.raises(UserError, match=rf"^{out}/molecules/simulated.* was prepared of something else \("):
        made(out, source=tmp_path / "simulated.csv", name=here.parent.name)


def test_verify_compares_every_file(store, both, tmp_path, capsys):
    here, there = both
    assert verify.main([there]) == 0 and f"{there}: " in capsys.readouterr().out
    (name,) = (path.name for path in here.glob("*-train.array_record*"))
    damaged = bytearray((here / name).read_bytes())
    damaged[300] ^= 1
    (tmp_path / name).write_bytes(damaged)
    stores.upload(tmp_path / name, f"{there}/{name}")
    try:
        assert verify.main([there]) == 1 and name in capsys.readouterr().out
    finally:
        stores.upload(here / name, f"{there}/{name}")
