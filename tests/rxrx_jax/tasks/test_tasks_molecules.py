"""Masked environments and properties: which atoms are hidden, losses against formulas, runs on random trees."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from parameters import random_variables
from step_tools import batch

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import molecules
from rxrx_jax.data.molecules.noise import trees
from rxrx_jax.evaluate.molecules import MoleculeContext, most_frequent, properties
from rxrx_jax.tasks import make_task

LIBRARY = trees(60, atoms=(3, 30))
MODEL = dict(name="molecule", width=16, depth=1, mlp=32, heads=2, dropout=0.1, dtype="float32", remat="none")
TASKS = {"environments": dict(mask_share=0.15), "properties": dict(dropout=0.1)}


def task(name, library=LIBRARY, **changes):
    config = Config(dict(task=dict(name=name) | TASKS[name] | changes, model=MODEL))
    rows = library.roles.fit
    sampler = molecules.BucketSampler(rows, library.atoms[rows], 4, molecules.BUCKETS)
    return make_task(config, molecules.Molecules(library, sampler))


def columns(rows=(0, 1, 2, 3), atoms=32):
    return molecules.collate(LIBRARY, np.array(rows), atoms)


def test_of_every_molecule_a_share_of_its_atoms_is_hidden():
    one, found = task("environments"), columns()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(400))
    hide = jax.jit(jax.vmap(one.hide, (0, None)))
    for tokens, row in zip(found["tokens"], (0, 1, 2, 3)):
        atoms = LIBRARY.atoms[row]
        at, used, hidden = map(np.asarray, hide(keys, tokens))
        assert (used.sum(1) == max(round(0.15 * atoms), 1)).all()
        assert at[used].min() >= 1 and at[used].max() <= atoms and not hidden[:, atoms + 1 :].any()
        assert (hidden[:, 0] == LIBRARY.cls).all()
        changed = hidden != tokens
        assert (changed.sum(1) <= used.sum(1)).all()
        of_used = np.take_along_axis(hidden, at, 1)[used]
        masked, kept = (of_used == one.mask).mean(), (~np.take_along_axis(changed, at, 1)[used]).mean()
        assert masked == pytest.approx(0.8, abs=0.08)
        assert kept == pytest.approx(0.1 + 0.1 / (one.mask - 1), abs=0.07)  # some are replaced by themselves
        chosen = np.bincount(at[used], minlength=atoms + 1)[1:] / used.sum()
        np.testing.assert_allclose(chosen, 1 / atoms, atol=0.15)
    again = hide(keys, found["tokens"][0])
    np.testing.assert_array_equal(again[2], hide(keys, found["tokens"][0])[2])


def test_the_loss_is_the_mean_over_hidden_atoms_with_a_known_label():
    one, found = task("environments"), columns()
    found["labels"][0] = 0  # of these none is known
    found["labels"][1, 1:3] = 0
    views = {name: found[name] for name in ("tokens", "distances")}
    params = random_variables(one.init, views)["params"]
    keys = jax.random.split(jax.random.key(0), 4)
    run = jax.jit(lambda p: one._run(p, views, found["labels"], keys))(params)
    given = batch(views, keys, labels=found["labels"])
    plain = jax.jit(lambda p: one.__class__(one.encoder, one.head, one.mask, one.share, "").loss(p, {}, given, None, 0))
    logits, expected = np.asarray(run["logits"], np.float64), []
    for lane, place in np.argwhere(np.asarray(run["chosen"])):
        if label := int(run["labels"][lane, place]):
            x = logits[lane, place]
            expected.append(math.log(np.exp(x - x.max()).sum()) + x.max() - x[label])
    assert len(expected) == int(run["known"].sum()) > 3 and not run["known"][0].any()
    no_dropout = MODEL | dict(dropout=0.0)
    config = Config(dict(task=dict(name="environments", mask_share=0.15), model=no_dropout))
    exact = make_task(config, task_source())
    loss, (_, metrics) = jax.jit(lambda p: exact.loss(p, {}, given, None, 0))(params)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)
    right = (np.asarray(run["right"]) & np.asarray(run["known"])).sum() / len(expected)
    assert float(metrics["masked_accuracy"]) == pytest.approx(right)
    assert float(plain(params)[0]) != pytest.approx(np.mean(expected), rel=1e-5)  # with dropout


def task_source(library=LIBRARY):
    rows = library.roles.fit
    return molecules.Molecules(library, molecules.BucketSampler(rows, library.atoms[rows], 4, molecules.BUCKETS))


def test_losses_of_properties_leave_out_what_is_missing():
    one, random = task("properties"), np.random.default_rng(0)
    outputs, targets = random.normal(size=(5, 2)), np.array([[4.0, 1], [np.nan, 0], [6, np.nan], [np.nan] * 2, [5, 0]])
    losses, known = one.losses(outputs.astype(np.float32), targets.astype(np.float32))
    np.testing.assert_array_equal(known, ~np.isnan(targets))
    mean, std = one.mean[0], one.std[0]
    assert one.classes == (False, True) and one.mean[1:] == (0.0,) and one.std[1:] == (1.0,)
    values = LIBRARY.targets_of(LIBRARY.roles.fit)[:, 0]
    assert (mean, std) == pytest.approx((np.nanmean(values), np.nanstd(values)))
    for i, (y, t) in enumerate(zip(outputs, targets)):
        number = 0 if np.isnan(t[0]) else (y[0] - (t[0] - mean) / std) ** 2
        p = 1 / (1 + math.exp(-y[1]))
        of_class = 0 if np.isnan(t[1]) else -math.log(p if t[1] else 1 - p)
        np.testing.assert_allclose(losses[i], (number, of_class), rtol=1e-5)


def test_predictions_are_in_the_units_of_the_targets_and_do_not_depend_on_minibatches(tmp_path):
    one = task("properties")
    views = {name: columns()[name] for name in ("tokens", "distances")}
    params = random_variables(one.init, views)["params"]
    rows, found = LIBRARY.roles.fit[:9], []
    for size in (4, 9):
        context = MoleculeContext(one, LIBRARY, mesh(), size, tmp_path, 0)
        context.network = type("Network", (), {"params": params})
        found.append(context.scored(rows))
    for name, values in found[0].items():
        np.testing.assert_allclose(values, found[1][name], atol=1e-5, rtol=1e-5)
    outputs = np.asarray(one._outputs(params, {k: molecules.collate(LIBRARY, rows, 32)[k] for k in views}))
    np.testing.assert_allclose(found[0]["predicted"][:, 0], outputs[:, 0] * one.std[0] + one.mean[0], rtol=1e-4)
    np.testing.assert_allclose(found[0]["predicted"][:, 1], 1 / (1 + np.exp(-outputs[:, 1])), rtol=1e-4)


def test_a_metric_that_is_undefined_is_null_and_named(tmp_path, capsys):
    """Of a class that is one value in a split, of numbers that are constant there, and of what is not measured."""
    constant, gone = [[5, 1]] * 3 + [[np.nan] * 2] * 3, [[5, np.nan]] * 6
    targets = np.tile(np.array(constant, np.float32), (10, 1))
    targets[LIBRARY.roles.scored["test"]] = np.array(gone, np.float32)
    read = lambda rows: [record._replace(targets=targets[row]) for row, record in zip(rows, LIBRARY.read(rows))]  # noqa: E731
    library = dataclasses.replace(LIBRARY, read=read)
    one = task("properties", library)
    views = {name: columns()[name] for name in ("tokens", "distances")}
    context = MoleculeContext(one, library, mesh(), 6, tmp_path, 0)
    context.network = type("Network", (), {"params": random_variables(one.init, views)["params"]})
    found = dict(properties(context))
    for name in ("validation/auroc", "validation/spearman", "test/auprc"):
        assert math.isnan(found[name]), name  # and not 0
    assert found["validation/mae"] > 0 and found["test/rmse"] > 0
    said = capsys.readouterr().err
    assert "validation/auroc is undefined and left out of the mean for 1 targets (many: every value is 1)" in said
    assert "validation/spearman is undefined and left out of the mean for 1 targets (mean: every value is the" in said
    assert "test/auprc is undefined and left out of the mean for 1 targets (many: no value is known)" in said
    dict(properties(context))
    assert "undefined" not in capsys.readouterr().err  # once


def mesh():
    from rxrx_jax.base import sharding

    return sharding.make_mesh()


def test_the_most_frequent_label_of_each_token():
    found = most_frequent(LIBRARY, 0)
    pairs = [(t, y) for r in LIBRARY.read(LIBRARY.roles.fit) for t, y in zip(r.tokens.tolist(), r.labels.tolist())]
    for token in {t for t, _ in pairs}:
        counts = np.bincount([y for t, y in pairs if t == token])
        assert counts[found[token]] == counts.max()
    assert not found[[0, LIBRARY.mask, LIBRARY.cls]].any()


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match="task.mask_share=1.0"):
        task("environments", mask_share=1.0)
    config = Config(dict(task=dict(name="environments", mask_share=0.1), model=MODEL, accumulate=2))
    with pytest.raises(UserError, match="accumulate=2: task.name=environments needs whole minibatches"):
        make_task(config, task_source())
    with pytest.raises(UserError, match="needs data.source=molecules"):
        make_task(Config(dict(task=dict(name="properties", dropout=0.1), model=MODEL)), object())
