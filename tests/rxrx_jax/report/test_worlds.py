"""Simulated worlds of a table: which they are, and differences over them, with their p and Holm's adjustment."""

import dataclasses
import types

import numpy as np
import pytest
import scipy.stats

from rxrx_jax import reproduce, tables
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import intervals
from rxrx_jax.report import columns, runs
from rxrx_jax.report.columns import Found
from rxrx_jax.tables import FINAL, Column, Row, Run, Table

CROSS = Column("cross-batch", "cross_batch/site_accuracy", format="+.3f")


def found(worlds, name="", baseline=None, cpu=(1.0,)):
    """A row with these accuracies by experiment in each world."""
    lines = []
    for of in worlds:
        line = {f"{CROSS.metric}/{experiment}": value for experiment, value in of.items()}
        line |= {CROSS.metric: float(np.mean(list(of.values()))), "cross_batch/experiments": '{"A": ["A-1", "A-2"]}'}
        lines.append([line])
    return Found(Row((name or "x",), "x", name=name), lines, [], list(cpu), True, baseline=baseline)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    base = [{"A-1": a, "A-2": b} for a, b in rng.uniform(0.2, 0.4, (5, 2))]
    ours = [{name: value + 0.05 + 0.05 * rng.normal() for name, value in world.items()} for world in base]
    return ours, base


def test_a_difference_over_worlds_is_the_t_test_of_their_means(pair):
    ours, base = pair
    row = found(ours, baseline=found(base, "ERM"))
    means = [np.mean([world[name] - of[name] for name in world]) for world, of in zip(ours, base)]
    expected = scipy.stats.ttest_1samp(means, 0)
    low, high = expected.confidence_interval()
    cell = columns.difference(row, CROSS)
    assert [cell.values[key] for key in ("", "_low", "_high", "_p")] == pytest.approx(
        [np.mean(means), low, high, expected.pvalue], rel=1e-9
    )
    assert cell.text.endswith(f", p {expected.pvalue:.3f}") and cell.how == "t over 5 worlds; p: t test over 5 worlds"
    one = found(ours[:1], baseline=found(base[:1], "ERM"))  # says nothing of other worlds
    assert "_p" not in columns.difference(one, CROSS).values
    assert columns.holm(dataclasses.replace(one, compared=[one]), CROSS).text == ""


def test_a_t_test_of_equal_rows_has_no_p():
    assert np.isnan(intervals.t_test([0.0, 0.0, 0.0])[0]) and np.isnan(intervals.t_test([1.0])[0])
    assert intervals.t_test([0.1, 0.1])[0] == 0.0


def test_holms_adjustment_by_hand(monkeypatch, pair):
    """p .01, .04, .03, .005 of four rows: times 3, 1, 2, 4, and the last at least the one before; a row without p does
    not count."""
    rows = [dataclasses.replace(found(pair[0], str(p)), unit=str(p)) for p in (0.01, 0.04, 0.03, 0.005, float("nan"))]
    monkeypatch.setattr(columns, "p_value", lambda row, metric: (float(row.unit), ""))
    cells = [columns.holm(dataclasses.replace(row, compared=rows), CROSS) for row in rows]
    assert [cell.values.get("") for cell in cells] == pytest.approx([0.03, 0.06, 0.06, 0.02, None])
    assert cells[0].how == "Holm's adjustment for 4 rows"
    large = [dataclasses.replace(row, unit="0.6") for row in rows[:2]]
    assert columns.holm(dataclasses.replace(large[0], compared=large), CROSS).values[""] == 1.0


def test_seconds_are_relative_to_the_baselines(pair):
    base = found(pair[1], "ERM", cpu=(2.0, 4.0))
    column = Column("seconds", format=".1f")
    assert columns.relative_seconds(found(pair[0], baseline=base, cpu=(6.0, 9.0)), column).text == "2.5"
    assert columns.relative_seconds(base, column).text == "1.0"
    assert columns.relative_seconds(found(pair[0]), column).text == ""


def made(**more):
    return Table(title="T", labels=(), columns=(), rows=(), runs=(), **more)


def test_worlds_are_named_by_their_seeds():
    table = made(worlds=(200, 201, 7), final=True)
    assert (
        table.choose() == (200, 201, 7) and table.choose(2) == (200, 201) and table.choose(None, (5, 201)) == (5, 201)
    )
    assert (
        made(seeds=3).choose() == (0, 1, 2) and made(seeds=3).choose(2) == (0, 1) and made().choose(4) == (0, 1, 2, 3)
    )
    for table, given, words in (
        (made(worlds=(4, 5)), (3, None), r"--seeds=3: the table has the worlds 4, 5; name more of them with --worlds"),
        (made(seeds=3), (None, (1,)), r"--worlds=1: the table is of one dataset and has no simulated worlds"),
        (made(worlds=(4,)), (1, (4,)), r"--worlds=4: use it without --seeds"),
        (made(worlds=(4,)), (None, (4, 4)), r"--worlds=4,4: name each world once"),
    ):
        with pytest.raises(UserError, match=words):
            table.choose(*given)


def test_worlds_of_the_final_comparison_are_refused_elsewhere(tmp_path, capsys):
    assert list(FINAL) == [200, 201, 202, 203, 204]
    with pytest.raises(UserError, match="table 'T': world 203 is kept for the final comparison"):
        made(worlds=(1, 203))
    with pytest.raises(UserError, match="--worlds=100,204: world 204 is kept for the final comparison"):
        made(worlds=(100,)).choose(None, (100, 204))
    with pytest.raises(UserError, match="--worlds=200: world 200 is kept"):
        reproduce.main(["demo", f"--out={tmp_path}", "--worlds=200", "--status"])
    with pytest.raises(SystemExit):
        reproduce.main(["demo", f"--out={tmp_path}", "--worlds=1-3"])
    assert "'1-3' is not made of seeds and commas" in capsys.readouterr().err


def test_worlds_are_rendered_once_and_for_the_runs_that_are_missing(monkeypatch, tmp_path):
    made = []
    prepare = lambda name, out, **settings: made.append((name, settings["seed"], settings["layout"]))  # noqa: E731
    monkeypatch.setattr(runs, "builders", lambda: types.SimpleNamespace(prepare=prepare))
    todo = [(Run(name, f"convnet.py:{of}"), seed) for seed in (3, 4) for name, of in
            (("a", "normalisation=plate"), ("b", "method=adabn"), ("c", "layout=reshuffled"))]  # fmt: skip
    runs.prepare_worlds([*todo[:4], (tables.load("map_demo").runs[0], 0)], tmp_path)
    assert made == [("rxrx_sim", 3, "fixed"), ("rxrx_sim", 3, "reshuffled"), ("rxrx_sim", 4, "fixed")]


def test_the_worlds_of_a_command_are_those_of_its_runs(tmp_path, capsys):
    reproduce.main(["demo", f"--out={tmp_path}", "--worlds=11,3", "--dry-run", "--rows=1"])
    lines = capsys.readouterr().out.splitlines()
    assert ["seed=11" in lines[0], "seed=3" in lines[1], len(lines)] == [True, True, 2]
    assert len(tables.load("demo").choose()) == 5
