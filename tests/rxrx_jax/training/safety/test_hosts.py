"""Runs on two and on four real hosts, compared with one: the same numbers, one writer, stops and restarts."""

import json

import numpy as np
import pytest
from hosts_tools import finish, values

from rxrx_jax.base import embeddings
from rxrx_jax.base.sharding import named_leaves
from rxrx_jax.training import checkpoint, metrics

RUNS = {  # name: config and changes; what each is to show is another kind of state or of evaluation
    "erm": ("convnet.py", {"evaluate_steps": 4}),
    "adabn": ("convnet.py:method=adabn", {}),
    "mae": ("mae_vit.py", {"mesh.fsdp": 2, "optim.ema_decay": 0.5}),
}


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """{(name, hosts): workdir} of runs on four devices: one host of four, two of two, four of one."""
    root = tmp_path_factory.mktemp("runs")

    def make(name, count):
        config, changes = RUNS[name]
        workdir = root / f"{name}-{count}"
        if not workdir.exists():
            codes, hosts = finish(workdir, values(folder, config, **changes), processes=count, devices=4 // count)
            assert codes == [0] * count, "\n".join(hosts.log(i) for i in range(count))
        return workdir

    return make


def parameters(workdir):
    return named_leaves(checkpoint.stored_parameters(str(workdir)))


def evaluation(workdir):
    return next(line for line in metrics.read(workdir / "metrics.jsonl") if line.get("final"))


CASES = [pytest.param(*case, marks=pytest.mark.slow) for case in (("erm", 4), ("adabn", 2))]
CASES += [pytest.param(*case, marks=pytest.mark.full) for case in (("erm", 2), ("mae", 4))]  # mae: split over hosts


@pytest.mark.parametrize("name, count", CASES)
def test_several_hosts_compute_what_one_does(runs, name, count):
    one, several = parameters(runs(name, 1)), parameters(runs(name, count))
    assert one.keys() == several.keys()
    # Adam makes whole steps of gradients that are nothing but rounding, as those of the keys' bias.
    atol = 2e-4 if name == "mae" else 2e-5
    for key in one:
        np.testing.assert_allclose(several[key], one[key], atol=atol, err_msg=key)
    lines = [metrics.read(runs(name, n) / "metrics.jsonl") for n in (1, count)]
    losses = [{line["step"]: line["loss"] for line in each if "loss" in line} for each in lines]
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) > 8
    np.testing.assert_allclose(list(losses[1].values()), list(losses[0].values()), rtol=1e-4)


@pytest.mark.parametrize("name, count", CASES)
def test_evaluation_sees_each_site_once_over_hosts(runs, name, count):
    one, several = evaluation(runs(name, 1)), evaluation(runs(name, count))
    assert one.keys() == several.keys()
    for key, value in one.items():
        if key.endswith(("/sites", "/wells")):
            assert several[key] == value, key
    tables = [embeddings.read(runs(name, n) / "embeddings.parquet") for n in (1, count)]
    ids = [list(columns["site_id"]) for columns, _ in tables]
    assert ids[0] == ids[1] and len(set(ids[0])) == len(ids[0])
    np.testing.assert_allclose(tables[1][1], tables[0][1], atol=1e-3)


@pytest.mark.slow
def test_one_host_writes(runs):
    lines = metrics.read(runs("erm", 4) / "metrics.jsonl")
    keys = [(line["step"], "loss" in line, "final" in line) for line in lines]
    assert len(keys) == len(set(keys)) and [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert sorted(p.name for p in runs("erm", 4).iterdir()) == [
        "checkpoints", "config.json", "embeddings.parquet", "held_out_curves.jsonl", "hosts", "metrics.jsonl",
        "predictions.parquet", "seen.parquet",
    ]  # fmt: skip


@pytest.mark.full
def test_a_run_resumes_with_the_same_bits_on_the_same_hosts_and_nearly_on_others(runs, folder, tmp_path):
    config, changes = RUNS["erm"]
    run = values(folder, config, **changes)
    kill = [(0, "faults:at_minibatch", 8, "send", "SIGKILL")]
    for name, first, then in (("same", 2, 2), ("other", 2, 1), ("more", 1, 4)):
        workdir = tmp_path / name
        codes, hosts = finish(workdir, run, processes=first, devices=4 // first, faults=kill)
        assert codes[0] == -9
        codes, hosts = finish(workdir, run, processes=then, devices=4 // then)
        assert codes == [0] * then and "from step" in hosts.log(), hosts.log()
        whole = runs("erm", first)
        if first == then:
            ends = [metrics.read(w / "metrics.jsonl")[-1] for w in (whole, workdir)]
            assert ends[0]["parameters_sha256"] == ends[1]["parameters_sha256"]
            best = [{k: v for k, v in end.items() if k.startswith("best/")} for end in ends]
            assert best[0] == best[1] and best[0]
        a, b = parameters(whole), parameters(workdir)
        for key in a:
            np.testing.assert_allclose(b[key], a[key], atol=2e-5, err_msg=key)


@pytest.mark.slow
def test_hours_and_evaluations_carry_over_a_stop(folder, tmp_path):
    run = values(folder, total_steps=20, evaluate_steps=4, checkpoint_steps=4)
    codes, hosts = finish(tmp_path / "run", run, faults=[(0, "faults:at_minibatch", 9, "send", "SIGTERM")])
    before = metrics.read(tmp_path / "run/metrics.jsonl")
    assert codes == [0]
    codes, hosts = finish(tmp_path / "run", run)
    after = metrics.read(tmp_path / "run/metrics.jsonl")
    assert after[: len(before)] == before
    seconds = [line["train_seconds"] for line in after if "train_seconds" in line]
    assert seconds == sorted(seconds) and seconds[-1] > max(line.get("train_seconds", 0) for line in before) > 0
    scores = {line["step"]: line["validation/site_accuracy"] for line in after if "final" in line}
    assert scores.keys() == {4, 8, 12, 16, 20} and after[-1]["best/validation/site_accuracy"] == max(scores.values())
    assert scores[after[-1]["best/validation/site_accuracy/step"]] == max(scores.values())


@pytest.mark.slow
def test_an_evaluation_that_was_cut_off_is_made_up_for(folder, tmp_path):
    run = values(folder, evaluate_steps=4, checkpoint_steps=4)
    codes, _ = finish(tmp_path / "run", run, faults=[(0, "faults:in_evaluation", "SIGKILL")])
    assert codes == [-9] and not any("final" in line for line in metrics.read(tmp_path / "run/metrics.jsonl"))
    codes, hosts = finish(tmp_path / "run", run)
    lines = metrics.read(tmp_path / "run/metrics.jsonl")
    assert codes == [0] and [line["step"] for line in lines if "final" in line] == [4, 8, 12], hosts.log()


@pytest.mark.slow
def test_sigterm_in_an_evaluation_stops_there_and_loses_nothing(folder, tmp_path):
    run = values(folder, evaluate_steps=5, checkpoint_steps=100)
    codes, hosts = finish(tmp_path / "run", run, processes=2, faults=[(1, "faults:in_evaluation", "SIGTERM")])
    assert codes == [0, 0] and "stopped at step 5 of 12" in hosts.log(), hosts.log(1)
    assert (tmp_path / "run/checkpoints/5").is_dir()
    codes, hosts = finish(tmp_path / "run", run, processes=2)
    assert codes == [0, 0]
    evaluated = [line["step"] for line in metrics.read(tmp_path / "run/metrics.jsonl") if "final" in line]
    assert evaluated == [5, 10, 12]


@pytest.mark.parametrize(
    "name, fsdp", [pytest.param("erm", 1, marks=pytest.mark.slow), pytest.param("mae", 2, marks=pytest.mark.full)]
)
def test_the_config_of_every_host_is_written_once(runs, name, fsdp):
    stored = json.loads((runs(name, 4) / "config.json").read_text())
    assert stored["mesh"] == {"fsdp": fsdp, "tensor": 1} and stored["resolved"]["total_steps"] == 12
