"""benchmarks/soak.py, with one kill."""

import json
import subprocess
import sys

import pytest
from paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import soak  # noqa: E402


@pytest.mark.full
def test_a_run_that_is_killed_ends_with_the_same_parameters(tmp_path):
    command = [sys.executable, "benchmarks/soak.py", "--kills=1", "--steps=30", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"] is True and found["kills"] == 1
    assert sum(found["killed_while"].values()) == 1 and found["damaged_checkpoints"] == 0
    assert found["most_steps_lost"] <= 2 * soak.CHECKPOINT_STEPS


def test_what_a_restart_lost_is_read_off_the_log():
    log = "step 5/60\nstep 10/60\nresuming /x from step 5\nstep 10/60\nresuming /x from step 10\nstep 15/60\n"
    assert soak.most_lost(log) == 5
    assert soak.most_lost(log + "step 20/60\nresuming /x from step 10\nstep 15/60\n") == 10
    assert soak.most_lost("step 5/60\n") == 0  # killed before its first checkpoint, started over


def test_the_page_shows_what_the_soak_of_fifty_kills_printed():
    found, page = json.loads((ROOT / "docs/soak.json").read_text()), (ROOT / "docs/safety.md").read_text()
    assert found["same"] is True and found["kills"] >= 50 and found["damaged_checkpoints"] == 0
    assert found["most_steps_lost"] <= 2 * found["checkpoint_steps"]
    text = " ".join(page.split())
    while_doing = ", ".join(f"{count} while {doing}" for doing, count in found["killed_while"].items())
    assert f"{found['kills']} kills ({while_doing})" in text
    assert f"went back {found['most_steps_lost']} steps at most" in text
