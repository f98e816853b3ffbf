"""What a launcher refuses before anything is asked for, and text that stays text in what it prints."""

import re
import shlex
import subprocess

import pytest
from launch_tools import COMMIT

from launch import common, gke, host, local, slurm, tpu_pod
from rxrx_jax.base.errors import UserError

PARTS = {
    local: ["--processes=1", "--devices=1", "--workdir=/a"],
    slurm: [f"--commit={COMMIT}", "--workdir=/a"],
    tpu_pod: ["--zone=a", "--type=b", "--runtime=c", f"--commit={COMMIT}", "--workdir=gs://a/b"],
    gke: ["--image=a", "--gpu=b", f"--commit={COMMIT}", "--workdir=gs://a/b"],
}


@pytest.mark.parametrize("given", [True, False], ids=["options", "no options"])
@pytest.mark.parametrize("module", [*PARTS, host], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    "trainer, words",
    [
        (["--config=mae_vti.py"], "--config=mae_vti.py: no such file here or in"),
        (["--config=convnet.py", "--config.optim.lrr=3"], "--config.optim.lrr: no such key; did you mean optim.lr?"),
        (["--config=convnet.py:methd=dann"], "config argument 'methd' is unknown"),
    ],
)
def test_a_mistake_in_the_config_is_told_before_anything_is_asked_for(
    module, given, trainer, words, capsys, monkeypatch
):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(UserError, match=re.escape(words)):
        module.main([*PARTS.get(module, []) * given, "--", *trainer])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("option", ["--workdir=/a\nid", "--name=a\nid", "--time=1\nid", "--sbatch=--comment=a\nid"])
def test_a_line_break_does_not_get_into_the_script(option):
    with pytest.raises(UserError, match="leave line breaks out"):
        slurm.main([*PARTS[slurm], option, "--dry-run", "--", "--config=convnet.py"])


def test_a_value_with_the_line_that_ends_the_text_stays_in_it(tmp_path, monkeypatch):
    values = ["--config=convnet.py", "--config.init.path=a\nEND\ntouch broken-out\nEND_\n"]
    plan = {}
    monkeypatch.setattr(common, "show", lambda steps: plan.update(enumerate(steps)))
    monkeypatch.setattr("rxrx_jax.main.figures", lambda values: "")
    slurm.main([*PARTS[slurm][:1], f"--workdir={tmp_path}/run", "--dry-run", "--", *values])
    (tmp_path / "run").mkdir()
    write = next(step for step in plan.values() if step.why == "write the script")
    subprocess.run(["bash", "-c", write.command], cwd=tmp_path, check=True)
    script = (tmp_path / "run" / "slurm.sh").read_text()
    assert script.endswith('exit "$code"\n') and shlex.quote(values[1]) in script
    assert not (tmp_path / "broken-out").exists()


def test_no_predictable_name_in_the_temporary_folder(monkeypatch):
    plan = {}
    monkeypatch.setattr(common, "show", lambda steps: plan.update(enumerate(steps)))
    monkeypatch.setattr("rxrx_jax.main.figures", lambda values: "")
    tpu_pod.main([*PARTS[tpu_pod], "--dry-run", "--", "--config=convnet.py"])
    assert not any("/tmp/" in step.command for step in plan.values())
