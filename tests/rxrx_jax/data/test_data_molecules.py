"""The source of molecules: buckets, epochs, what a minibatch holds, hosts, provenance; on random trees."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import molecules
from rxrx_jax.data.molecules import library
from rxrx_jax.data.molecules.noise import trees
from rxrx_jax.data.sampler import BucketSampler

LIBRARY = trees(100, atoms=(3, 60))


def source(size=8, seed=0, of=LIBRARY):
    rows = of.roles.fit
    return molecules.Molecules(of, BucketSampler(rows, of.atoms[rows], size, molecules.BUCKETS, seed))


def test_an_epoch_has_every_row_and_few_twice():
    rows, length = np.arange(10, 61), np.random.default_rng(0).integers(1, 97, 51)
    sampler = BucketSampler(rows, length, 8, molecules.BUCKETS)
    assert sampler.steps_per_epoch == 7
    for epoch in range(3):
        drawn = np.concatenate([sampler.rows(7 * epoch + i) for i in range(7)])
        assert set(drawn.tolist()) == set(rows.tolist()) and len(drawn) == 56
    again = BucketSampler(rows, length, 8, molecules.BUCKETS)
    np.testing.assert_array_equal(again.rows(12), sampler.rows(12))
    assert (BucketSampler(rows, length, 8, molecules.BUCKETS, 1).rows(12) != sampler.rows(12)).any()


def test_minibatches_are_of_one_bucket_but_for_what_is_left_of_each():
    rows, length = np.arange(300), np.random.default_rng(0).integers(1, 97, 300)
    sampler = BucketSampler(rows, length, 10, molecules.BUCKETS)
    bucket = np.searchsorted(molecules.BUCKETS, length)
    mixed = sum(len(set(bucket[sampler.rows(step)])) > 1 for step in range(sampler.steps_per_epoch))
    assert mixed <= 3 and sampler.steps_per_epoch == 30
    order = [bucket[sampler.rows(step)].max() for step in range(30)]
    assert order != sorted(order)  # buckets take turns at random


def test_a_minibatch_holds_its_records():
    found = source()
    for step, minibatch in enumerate(found.minibatches(0, 6)):
        columns, rows = minibatch["train"], found.sampler.rows(step)
        n = columns["tokens"].shape[1]
        assert n - 1 == molecules.bucket_of(LIBRARY, rows) and columns["valid"].all()
        assert (columns["tokens"][:, 0] == LIBRARY.cls).all()
        assert not columns["distances"][:, 0].any() and not columns["distances"][:, :, 0].any()
        for lane, record in enumerate(LIBRARY.read(rows)):
            a = len(record.tokens) + 1
            np.testing.assert_array_equal(columns["tokens"][lane, 1:a], record.tokens)
            np.testing.assert_array_equal(columns["labels"][lane, 1:a], record.labels)
            np.testing.assert_array_equal(columns["distances"][lane, 1:a, 1:a], record.distances)
            np.testing.assert_array_equal(columns["targets"][lane], record.targets)
            assert not columns["tokens"][lane, a:].any() and not columns["distances"][lane, a:].any()
        shapes = [{k: (x.shape, x.dtype) for k, x in spec["train"].items()} for _, spec in found.shapes]
        assert {k: (x.shape, x.dtype) for k, x in columns.items()} in shapes
    assert sum(share for share, _ in found.shapes) == pytest.approx(1)
    assert [s["train"]["tokens"].shape[1] for _, s in found.shapes] == [97, 49, 33]  # the largest first


def test_only_training_molecules_are_drawn():
    found = source()
    drawn = {row["row"] for step in range(2 * found.sampler.steps_per_epoch) for row in found.rows(step)}
    assert drawn == set(np.flatnonzero(LIBRARY.split == "train").tolist())
    roles = LIBRARY.roles
    assert len(roles.fit) + sum(map(len, roles.scored.values())) == 100 and set(roles.scored) == {"validation", "test"}


def test_two_hosts_hold_the_parts_of_one_minibatch(monkeypatch):
    whole, parts = list(source().minibatches(3, 5)), []
    for host in range(2):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts.append([x["train"] for x in map(molecules._Steps(LIBRARY, source().sampler, 5).__getitem__, (3, 4))])
    for one, first, second in zip(whole, *parts):
        for name, values in one["train"].items():
            np.testing.assert_array_equal(values, np.concatenate([first[name], second[name]]))


def test_a_minibatch_can_be_left_out():
    found = source()
    without = found.without(2, instead=40)
    np.testing.assert_array_equal(without.sampler.rows(2), found.sampler.rows(40))
    np.testing.assert_array_equal(without.sampler.rows(3), found.sampler.rows(3))
    assert without.shapes[0][1] == found.shapes[0][1]


def test_evaluation_reads_each_row_once():
    rows = LIBRARY.roles.scored["test"][::-1]
    places, sizes = [], set()
    for where, columns in molecules.evaluation_minibatches(LIBRARY, rows, 4):
        places += where.tolist()
        sizes.add(columns["tokens"].shape[1])
        assert columns["valid"].sum() == len(where) and len(columns["valid"]) == 4
        for lane, record in enumerate(LIBRARY.read(rows[where])):
            np.testing.assert_array_equal(columns["tokens"][lane, 1 : len(record.tokens) + 1], record.tokens)
    assert sorted(places) == list(range(len(rows))) and len(sizes) > 1


def test_molecules_that_others_score_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(molecules, "open_library", lambda name, settings, folder, cache: trees(40, atoms=(3, 5)))
    config = dict(name="molecules", builder={}, minibatch=8, leave_out=("esol",))
    found = molecules.make(Config(dict(data=config, seed=0)), LIBRARY)  # of 40 trees those from number 32 are scored
    assert set(found.sampler.drawn_from.tolist()) == set(range(32)) | set(range(40, 80))
    assert "8 training molecules are scored in None and left out" in capsys.readouterr().err


def test_what_was_prepared_beside_it_is_left_out_too(tmp_path, monkeypatch, capsys):
    digests = {"mine": "trees 12 40", "esol": "trees 12 40", "other": "trees 9 40"}
    for name, digest in digests.items():
        (tmp_path / name / "1.0.0").mkdir(parents=True)
        (tmp_path / name / "1.0.0" / "vocabulary.json").write_text(json.dumps({"digest": digest}))
    mine = dataclasses.replace(LIBRARY, folder=tmp_path / "mine" / "1.0.0")
    assert mine.vocabulary == "trees 12 40" and library.beside(mine) == [tmp_path / "esol" / "1.0.0"]
    assert library.beside(LIBRARY) == []
    monkeypatch.setattr(molecules, "read_library", lambda path, cache: trees(40, atoms=(3, 5)))
    config = dict(name="molecules", builder={}, minibatch=8, leave_out=("*",))
    found = molecules.make(Config(dict(data=config, seed=0)), mine)
    assert len(found.sampler.drawn_from) == 80 - 8 and "8 training molecules" in capsys.readouterr().err
    whole = molecules.make(Config(dict(data=config | {"leave_out": ()}, seed=0)), mine)
    assert whole.fingerprint == mine.digest and found.fingerprint.startswith(f"{mine.digest} rows ")
    assert molecules.make(Config(dict(data=config, seed=1)), mine).fingerprint == found.fingerprint


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match="longer than the largest bucket, 256"):
        BucketSampler(np.arange(2), np.array([3, 257]), 2, molecules.BUCKETS)
    with pytest.raises(UserError, match="split train is empty"):
        BucketSampler(np.arange(0), np.zeros(0), 2, molecules.BUCKETS)
    twice = LIBRARY.inchikey.copy()
    twice[-1] = twice[0]
    with pytest.raises(UserError, match="TREE-0-0 is in train and in test"):
        dataclasses.replace(LIBRARY, inchikey=twice)
    with pytest.raises(UserError, match="the split 'valid' of a molecule"):
        dataclasses.replace(LIBRARY, split=np.where(LIBRARY.split == "test", "valid", LIBRARY.split))


def test_a_molecule_is_known_by_its_inchikey():
    digests = LIBRARY.digests
    assert digests.dtype == np.uint64 and len(set(digests.tolist())) == 100
    np.testing.assert_array_equal(digests[:50], trees(50, atoms=(3, 5)).digests)
