"""The command line: what it finds, what it says, what it imports."""

import json
import re
import sys

import pytest
from commands import python
from paths import ROOT

from rxrx_jax.base import config_flag
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import noise
from rxrx_jax.main import LONGEST_NAME, default_name
from rxrx_jax.training import describe


def main(*arguments, cwd=ROOT):
    return python("-m", "rxrx_jax.main", *arguments, cwd=cwd)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "pass --config=mae_vit.py"),
        (["--config=mea_vit.py"], "--config=mea_vit.py: no such file here or in"),
        (["--config=mae_vit.py:foo=1"], "config argument 'foo' is unknown; this config takes data"),
        (["--config=mae_vit.py:seed=x"], "config argument 'seed=x': expected seed=int"),
        (
            ["--config=mae_vit.py", "--config.optim.lrr=1"],
            "optim.lrr: no such key; did you mean optim.lr?",
        ),
        (["--config=mae_vit.py", "--config.optim.lr=x"], "could not convert string to float"),
        (["--config=mae_vit.py", "--confg.seed=1"], "Unknown command line flag 'confg"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    result = main(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1 and not result.stdout
    assert not list(tmp_path.iterdir())


def test_a_bare_name_is_found_from_anywhere_and_a_path_wins(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rxrx_jax.base.errors import UserError\ndef get_config(a): raise UserError(f'mine {a}')\n"
    )
    assert "error: mine 1,b\n" == main("--config=mine.py:1,b", cwd=tmp_path).stderr
    assert "error: mine 2\n" == main(f"--config={tmp_path / 'mine.py'}:2").stderr
    assert "error: mine 3\n" == main("--config", "mine.py:3", cwd=tmp_path).stderr


@pytest.mark.full
def test_the_main_command_trains_and_is_idempotent(tmp_path):
    """The real command on a shortened run of the embedded default, with overrides, twice."""
    arguments = [
        "--config=mae_vit.py:layout=reshuffled,variant=XXS/16",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.folder={tmp_path / 'data'}",
        "--config.total_epochs=0.08",
        "--config.data.minibatch=16",
        "--config.data.builder.seed=3",
        "--config.mirror=tensorboard",
    ]
    first = main(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "ETA" in first.stderr and "images/s" in first.stderr and "data wait" in first.stderr
    assert first.stdout.startswith("done: ")
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "tensorboard",
    }
    assert (tmp_path / "data" / "rxrx_sim" / "layout_reshuffled-seed_3").is_dir()
    second = main(*arguments, cwd=tmp_path)
    assert second.returncode == 0 and "is finished; nothing to do" in second.stderr


def test_import_is_quick_and_touches_no_device_and_no_tensorflow():
    code = """
import sys, time
begin = time.perf_counter()
import rxrx_jax
seconds = time.perf_counter() - begin
assert seconds < 2, seconds
import rxrx_jax.main, rxrx_jax.training.train, rxrx_jax.reproduce, tfds_builders.prepare, rxrx_jax.report.page
bad = [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "torch", "tensorboard")]
assert not bad, bad
import jax
assert not jax._src.xla_bridge._backends, "a device was touched"
"""
    result = python("-W", "error", "-c", code)
    assert result.returncode == 0, result.stderr


def test_nothing_in_the_project_imports_tensorflow():
    for folder in ("rxrx_jax", "tfds_builders", "configs", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                assert not (words[:1] in (["import"], ["from"]) and words[1].split(".")[0] == "tensorflow"), (
                    path,
                    line,
                )


@pytest.mark.parametrize(
    "arguments, name",
    [
        (["--config=/a/configs/mae_vit.py"], "mae_vit"),
        (["--config=mae_vit.py:rxrx1,variant=B/16"], "mae_vit-rxrx1-variant=B_16"),
        (["--config=mae_vit.py", "--config.optim.lr=0.001"], "mae_vit-optim.lr=0.001"),
        (["--config=mae_vit.py", "--config.seed=2", "--config.optim.lr=1"], "mae_vit-optim.lr=1-seed=2"),
        (
            ["--config=mae_vit.py", "--config.optim.lr=1", "--config.seed=1", "--config.seed=2"],
            "mae_vit-optim.lr=1-seed=2",
        ),
        (["--config=probe.py", "--config.init.path=runs/a b"], "probe-init.path=runs_a_b"),
        (["--config=mae_vit.py", "--noconfig.guard.rollback", "--multihost"], "mae_vit-noconfig.guard.rollback"),
        (["--config=mae_vit.py", "--config.measure=loader"], "mae_vit-measure=loader"),
    ],
)
def test_it_is_named_by_the_config_and_its_overrides(arguments, name):
    assert default_name(["main", *arguments]) == name


def test_long_names_stay_apart_and_within_what_file_systems_take():
    names = {default_name(["main", "--config=a.py", f"--config.init.path={'x' * 300}{i}"]) for i in range(3)}
    assert len(names) == 3 and all(len(name) < LONGEST_NAME + 10 for name in names)


def test_print_config_prints_what_is_resolved_and_what_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main"])
    values = config_flag.values(
        ["--config=mae_vit.py:rxrx1", "--config.total_steps=7", f"--config.data.folder={tmp_path}"]
    )
    text = describe.text(values)
    stored, _, line = text.strip().rpartition("\n")
    assert json.loads(stored)["total_steps"] == 7 and json.loads(stored)["data"]["name"] == "rxrx1"
    assert line.startswith(
        "7 steps of 2,048 images, 40,612 per epoch (the published training split; it is not prepared"
    )
    assert " M parameters | " in line and " GiB per chip of parameters, optimiser state and gradients" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", noise.KNOWN)
def test_what_a_published_dataset_gives_is_known_before_it_is_prepared(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main"])
    values = config_flag.values([f"--config=convnet.py:data={name}", f"--config.data.folder={tmp_path}"])
    line = describe.figures(values)
    assert "it is not prepared here" in line
    assert ("its number of experiments and plates is not published" in line) == (
        name in ("rxrx2", "rxrx19a", "rxrx19b")
    )


@pytest.mark.parametrize("key, near", [("cell_typs", "did you mean cell_types? "), ("colour", "")])
def test_a_misspelled_criterion_of_the_selection_is_told(key, near, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main"])
    folder, select = f"--config.data.folder={tmp_path}", f"--config.data.select.{key}=HUVEC"
    words = f"data.select.{key}: no such key; {near}data.select has experiments, cell_types, well_types, sites"
    with pytest.raises(UserError, match=f"^{re.escape(words)}$"):
        describe.figures(config_flag.values(["--config=convnet.py:rxrx1", folder, select]))


def test_the_least_memory_is_of_one_chip(tmp_path, monkeypatch):
    """Lion's moments and the gradients are as large as the parameters, and split as they are."""
    monkeypatch.setattr(sys, "argv", ["main"])

    def gib(*changes):
        folder = f"--config.data.folder={tmp_path}"
        line = describe.figures(config_flag.values(["--config=mae_vit.py:rxrx1,variant=B/16", folder, *changes]))
        return float(re.search(r"([\d.]+) M parameters", line)[1]), float(re.search(r"([\d.]+) GiB per chip", line)[1])

    million, whole = gib()
    assert whole == pytest.approx(3 * 4e6 * million / 2**30, rel=0.02)  # Lion has one moment
    assert gib("--config.mesh.fsdp=4")[1] == pytest.approx(whole / 4, rel=0.05)
