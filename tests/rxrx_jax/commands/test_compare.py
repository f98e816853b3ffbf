"""Runs side by side, from made-up workdirs: what differs, paired differences by hand, and what is refused."""

import json

import pytest
import scipy.stats

from rxrx_jax import compare
from rxrx_jax.base import command

CROSS = "cross_batch/site_accuracy"
EXPERIMENTS = ("A-01", "A-02", "A-03", "A-04")


def write(folder, accuracies=(0.1, 0.2, 0.3, 0.4), final=(), done=(), **config):
    """A finished run whose config differs in these keys, and last evaluation and last line in those."""
    names = EXPERIMENTS[: len(accuracies)]
    line = {CROSS: sum(accuracies) / len(accuracies), "cross_batch/sites": 9, "marks/cross_batch": ""}
    line |= {f"{CROSS}/{name}": value for name, value in zip(names, accuracies)}
    line |= {"cross_batch/experiments": json.dumps({"A": names}), "in_batch/balanced_accuracy": 0.9} | dict(final)
    lines = [{"step": 1, "loss": 1.0}, {"step": 1, "final": True} | line]
    lines += [{"step": 1, "done": True, "data": "fingerprint 1"} | dict(done)]
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stored = {
        "seed": 0, "adapt": {"name": "erm"}, "protocol": {"name": "wilds_ood"}, "resolved": {"code": str(folder)},
        "data": {"name": "rxrx_sim", "folder": str(folder), "builder": {"layout": "fixed"}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(stored | config))
    return folder


def test_configs_metrics_and_paired_differences(tmp_path, capsys):
    one = write(tmp_path / "one")
    two = write(tmp_path / "two", (0.2, 0.4, 0.2, 0.6), {"marks/cross_batch": "T"}, adapt={"name": "dann", "weight": 1})
    found = compare.compare([one, two])
    assert found["config"] == {"adapt.name": ["erm", "dann"], "adapt.weight": [None, 1]}
    assert list(found["metrics"]) == [CROSS, "in_batch/balanced_accuracy"]
    of = found["metrics"][CROSS]
    assert of["values"] == pytest.approx([0.25, 0.35]) and of["marks"] == ["", "T"]
    (difference,) = of["differences"]
    pairs = [0.1, 0.2, -0.1, 0.2]
    low, high = scipy.stats.t.interval(0.95, 3, 0.1, scipy.stats.sem(pairs))
    assert [difference[key] for key in ("difference", "low", "high")] == pytest.approx([0.1, low, high])
    # Sums of +-1 +-2 +-1 +-2 as far from 0 as 4: +-6 once each, +-4 in two ways each, of 16.
    assert difference["p"] == 6 / 16
    assert difference["how"] == "t over 4 experiments; exact sign-flip test over 4 experiments"
    assert found["metrics"]["in_batch/balanced_accuracy"]["differences"] == [{}]

    assert not command.run(compare.main, [str(one), str(two)])
    said = capsys.readouterr().out
    assert 'adapt.name: A "erm", B "dann"' in said and f"{CROSS}: A 0.250, B 0.350 T" in said
    assert f"  B less A +0.100 ({low:+.3f} to {high:+.3f}), p 0.375" in said
    assert not command.run(compare.main, ["--json", str(one), str(two)])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found))


def test_one_experiment_has_an_empty_interval_and_not_nan(tmp_path, capsys):
    runs = [str(write(tmp_path / name, (value,))) for name, value in (("one", 0.25), ("two", 0.5))]
    assert not command.run(compare.main, ["--json", *runs])
    text = capsys.readouterr().out
    (difference,) = json.loads(text)["metrics"][CROSS]["differences"]
    assert "NaN" not in text and difference == {
        "difference": 0.25, "low": None, "high": None, "p": None, "how": "t over 1 experiments: no interval"
    }  # fmt: skip
    assert not command.run(compare.main, runs)
    assert "B less A +0.250 (no interval)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"protocol": {"name": "separated"}}, "their protocol differs, 'wilds_ood' and 'separated'"),
        ({"data": {"name": "rxrx_sim", "builder": {"layout": "reshuffled"}}}, "their layout differs, 'fixed' and"),
        ({"data": {"name": "rxrx1", "builder": {"layout": "fixed"}}}, "their dataset differs, 'rxrx_sim' and 'rxrx1'"),
        ({"done": {"data": "fingerprint 2"}}, "their data differs, 'fingerprint 1' and 'fingerprint 2'"),
        ({"done": {"partial": "fit is 3"}}, "their partial dataset differs, 'none' and 'fit is 3'"),
        ({"accuracies": (0.1, 0.2, 0.3)}, f"cannot be compared by {CROSS}: experiments differ: A-04"),
        ({"done": {"done": False}}, "the run did not finish"),
    ],
)
def test_runs_that_are_not_comparable_are_refused_in_one_line(tmp_path, capsys, changes, words):
    runs = [str(write(tmp_path / "one")), str(write(tmp_path / "two", **changes))]
    assert command.run(compare.main, runs) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_single_run_and_none_there(tmp_path, capsys):
    one = str(write(tmp_path / "one"))
    assert command.run(compare.main, [one]) == 2 and "at least two runs" in capsys.readouterr().err
    assert command.run(compare.main, [one, str(tmp_path / "gone")]) == 2
    assert "gone: the run was never started (no workdir)" in capsys.readouterr().err
