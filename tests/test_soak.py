"""benchmarks/soak.py, with two kills."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_with_the_same_parameters(tmp_path):
    command = [sys.executable, "benchmarks/soak.py", "--kills=2", "--steps=60", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"] is True and found["kills"] == 2
    assert sum(found["killed_while"].values()) == 2 and found["damaged_checkpoints"] == 0


def test_the_page_shows_what_the_soak_of_fifty_kills_printed():
    found, page = json.loads((ROOT / "docs/soak.json").read_text()), (ROOT / "docs/safety.md").read_text()
    assert found["same"] is True and found["kills"] >= 50 and found["damaged_checkpoints"] == 0
    while_doing = ", ".join(f"{count} while {doing}" for doing, count in found["killed_while"].items())
    assert f"{found['kills']} kills ({while_doing})" in " ".join(page.split())
