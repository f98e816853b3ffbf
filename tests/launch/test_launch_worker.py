"""launch.worker: a run that stopped after a checkpoint is not a finished one, and only the first host says so."""

import os
import subprocess
import sys

import pytest
from launch_tools import make_clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("launch") / "clone")


@pytest.mark.parametrize(
    "plan, host, code",
    [("done", 0, 0), ("0", 0, 85), ("0", 1, 0), ("2", 0, 2), ("75", 1, 75), ("-9", 0, -9), ("word", 0, 1)],
)
def test_the_exit_code(plan, host, code, clone, tmp_path):
    command = [sys.executable, "-m", "launch.worker", "--config=x.py", f"--workdir={tmp_path}", f"--plan={plan}"]
    environment = os.environ | {"SLURM_PROCID": str(host), "SLURM_NTASKS": "0"}  # it waits for no other
    result = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    assert f"host {host} start 1" in result.stdout
