"""The fuzzer itself: a few trials of every reader, what it must notice, and what the page says of a long run."""

import json

import pytest
import run
import trials
from paths import ROOT

READERS = run.targets()
COSTLY = {"verify", "checkpoints", "parameters of a run", "prepared folder", "details of a folder", "exported run"}


@pytest.mark.parametrize("name", sorted(READERS.keys() - COSTLY))
def test_a_few_trials_of_every_reader(name, tmp_path):
    bench = trials.Bench(READERS[name], tmp_path)
    found = [bench.trial(1, number) for number in range(6)]
    assert not [about for outcome, about in found if outcome in run.FINDINGS]


@pytest.mark.parametrize(
    "count", [pytest.param(500, marks=pytest.mark.slow), pytest.param(2000, marks=pytest.mark.full)]
)
def test_many_trials_in_processes_of_their_own(count):
    found = run.run(list(READERS), seed=1, trials=count)
    assert found["findings"] == [] and found["trials"] == count, found["findings"]


def _target(read) -> trials.Target:
    def make(folder):
        (folder / "a.txt").write_text("12345678" * 20)

    return trials.Target("lines", make, lambda folder: trials.Found(read(folder / "a.txt")), whole=0)


def _bug(path):
    if path.read_bytes() != b"12345678" * 20:
        raise KeyError("a bug")
    return {}


@pytest.mark.parametrize(
    "read, outcome, said",
    [
        (lambda path: {1: path.read_bytes()}, "wrong", "wrong record"),
        (lambda path: {1: 1} if path.read_bytes() == b"12345678" * 20 else {}, "wrong", "silent loss"),
        (_bug, "traceback", "KeyError: 'a bug'"),
        (lambda path: bytearray(0 if path.stat().st_size == 160 else 2**26) and {}, "memory", "MiB"),
    ],
)
def test_what_a_reader_must_not_do_is_a_finding(read, outcome, said, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "MEMORY", 2**25)
    bench = trials.Bench(_target(read), tmp_path)
    found = [bench.trial(0, number) for number in range(12)]
    assert any(what == outcome and said in about for what, about in found), found


def test_a_trial_is_repeated_by_its_number(tmp_path):
    bench = trials.Bench(READERS["own TIFF"], tmp_path)
    assert [bench.trial(3, number) for number in range(5)] == [bench.trial(3, number) for number in range(5)]


def test_the_page_shows_what_the_long_run_printed():
    found = json.loads((ROOT / "docs/fuzz.json").read_text())
    text = " ".join((ROOT / "docs/safety.md").read_text().split())
    assert found["findings"] == [] and found["trials"] >= 20_000 and not found["outcomes"].keys() & set(run.FINDINGS)
    counts = {name: f"{count:,}" for name, count in found["outcomes"].items()}
    assert f"`python tests/fuzz/run.py --trials={found['trials']} --seed={found['seed']}`" in text
    assert f"{found['trials']:,} trials of {len(found['targets'])} readers" in text and found["commit"] in text
    refused = f"{counts['refused']} inputs were refused in one line, {counts['fewer']} gave fewer records"
    assert f"{refused}, {counts['same']} the same, and {counts['changed']} others" in text
