"""The table of what was seen: its size, its union, and the pixels by which a site is known."""

import dataclasses
import time
import types

import numpy as np
import pytest
import tiny

from rxrx_jax import data
from rxrx_jax.base import seen
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import Seen, of_rows, unite
from rxrx_jax.training.provenance import facts
from rxrx_jax.training.provenance.marks import Ledger


def table(n, start=0):
    """A stand-in for a dataset of n sites, named as those of RxRx3, and their digests."""
    ids = np.char.add("gene-001_12_AA", np.char.zfill(np.arange(start, start + n).astype(str), 8))
    digests = np.random.default_rng(0).integers(0, 2**63, start + n, dtype=np.uint64)[start:]
    return types.SimpleNamespace(sites=types.SimpleNamespace(site_id=ids)), digests


def test_all_sites_of_rxrx3_take_little_room_and_seconds():
    n = 2_200_000
    dataset, digests = table(n)
    begin = time.process_time()
    found = of_rows(dataset, digests, "run (classify)", labels=np.arange(n // 2), images=np.arange(n))
    content = unite(found, found).to_bytes()
    assert len(content) < 40e6 and len(found.to_bytes(names=False)) < 20e6
    back = seen.from_bytes(content)
    assert (back.count("labels"), back.count("images"), back.count("controls")) == (n // 2, n, 0)
    assert back.hits("labels", digests).sum() == n // 2
    assert time.process_time() - begin < 60  # some 10 s


def test_a_union_keeps_the_stage_that_used_a_label():
    dataset, digests = table(6)
    first = of_rows(dataset, digests, "mae (mae)", images=np.arange(6))
    second = of_rows(dataset, digests, "a (classify)", labels=np.array([1, 2]), images=np.array([1, 2, 3]))
    third = of_rows(dataset, digests, "b (classify)", labels=np.array([2, 4]), controls=np.array([5]))
    whole = unite(first, second, Seen(unknown=("x.safetensors",)), third)
    assert whole.hits("labels", digests).tolist() == [False, True, True, False, True, False]
    assert whole.hits("images", digests).all() and whole.hits("controls", digests).tolist() == [False] * 5 + [True]
    assert [whole.stage(digests[i]) for i in (1, 2, 4)] == ["a (classify)", "a (classify)", "b (classify)"]
    back = seen.from_bytes(whole.to_bytes())
    assert back.rows.equals(whole.rows) and back.unknown == ("x.safetensors",)
    assert len(back.rows) == 6 and unite(whole, back).rows.equals(whole.rows)
    assert seen.in_words(whole) == (
        "seen: the labels of 3 sites, the images of 6 sites, the control labels of 1 sites; unknown, what "
        "x.safetensors had seen before"
    )
    assert not Seen().hits("labels", digests).any() and seen.in_words(Seen()) == "seen: nothing"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The tiny screen, its copy with train and test exchanged in another encoding, and another world."""
    folder = tmp_path_factory.mktemp("worlds")
    exchanged = {"train": tiny.SCREEN["test"], "test": tiny.SCREEN["train"], "encoding": "delta"}
    opened = [data.open_dataset("rxrx_sim", tiny.SCREEN | more, folder) for more in ({}, exchanged, {"seed": 1})]
    return [tiny.under_protocol(dataset) for dataset in opened]


def test_pixels_know_a_site_under_any_encoding_and_split_and_in_no_other_world(worlds):
    by_name = [dict(zip(d.sites.site_id.tolist(), data.pixel_digests(d).tolist())) for d in worlds]
    plain, exchanged, other = by_name
    assert plain == exchanged and plain.keys() & other.keys()
    assert len({*plain.values(), *other.values()}) == 2 * len(plain)  # no two share one


def test_a_manifest_that_does_not_fit_is_named(worlds, tmp_path):
    (tmp_path / "manifest.csv").write_text("split,mean_w1\ntrain,1\n")
    moved = dataclasses.replace(worlds[0], folder=tmp_path)
    with pytest.raises(UserError, match="manifest.csv cannot be read"):
        data.pixel_digests(moved)
    lines = (worlds[0].folder / "manifest.csv").read_text().splitlines(keepends=True)
    (tmp_path / "manifest.csv").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="manifest.csv has 199 rows and sites.csv 200; rebuild the dataset"):
        data.pixel_digests(moved)


def test_an_image_on_both_sides_of_a_split_is_not_a_leak(worlds):
    """A blank image that lies in train and in test says nothing about earlier stages."""
    dataset, digests = worlds[0], data.pixel_digests(worlds[0])
    train, test = (np.flatnonzero(dataset.sites.split == name) for name in ("train", "test"))
    before = of_rows(dataset, digests, "a (classify)", labels=train, images=train)
    digests = digests.copy()
    digests[test[0]] = digests[train[0]]
    doubled = Ledger(before, dataset, digests, train, "image")
    assert doubled.marks("cross_batch") == "" and not doubled.transductive
    leaked = dataclasses.replace(doubled, fitted=train[1:])
    assert leaked.marks("cross_batch") == "TX" and leaked.marks("in_batch") == ""


def test_marks_are_in_order_and_once():
    assert seen.join("?T", "", "XT", "C") == "TCX?" and seen.join() == ""


def test_the_code_version_is_that_of_the_source_files(monkeypatch, tmp_path):
    ours, builders = tmp_path / "rxrx_jax", tmp_path / "other" / "any_builders"
    for folder in (ours, builders / "sub"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(facts.rxrx_jax, "__file__", str(ours / "__init__.py"))
    monkeypatch.setattr(facts, "builders", lambda: types.SimpleNamespace(__file__=str(builders / "prepare.py")))
    found = [facts.code_version()]
    for path, text in ((ours / "a.py", "1"), (ours / "a.py", "2"), (builders / "sub/b.py", "2")):
        path.write_text(text)
        found.append(facts.code_version())
    (ours / "notes.txt").write_text("3")
    assert len(set(found)) == 4 and facts.code_version() == found[-1]
