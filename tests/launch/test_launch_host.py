"""launch.host --ssh and launch.remote: a run on another host outlives the connection. ssh is a stub that runs bash."""

import os
import signal
import sys

import pytest
from launch_tools import Stubs, finish, interrupt, launch, make_clone, until

# Stands for uv: the Python of its virtual environments is this one.
UV = """#!/bin/bash
[ "$1" = venv ] || exit 0
mkdir -p .venv/bin
printf '#!/bin/bash\\nexec {python} "$@"\\n' > .venv/bin/python
chmod +x .venv/bin/python
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("launch") / "clone")


@pytest.fixture
def ssh(tmp_path):
    stubs = Stubs(tmp_path / "stubs", "ssh")
    stubs.answer([["^ssh", ["run"]]])
    uv = tmp_path / "stubs" / "home" / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(UV.format(python=sys.executable))
    uv.chmod(0o755)
    return stubs


def start(clone, ssh, workdir, plan):
    arguments = ["--ssh=me@server", "--restarts=1", f"--workdir={workdir}", "--", "--config=x.py", f"--plan={plan}"]
    return launch("host", *arguments, clone=clone, environment=ssh.environment())


@pytest.mark.parametrize("plan, code, times", [("done", 0, 1), ("75,done", 0, 2), ("2", 2, 1), ("-9,-9,done", 137, 2)])
def test_a_run_on_another_host_gives_its_log_and_exit_code(plan, code, times, clone, ssh, tmp_path):
    found, out, err = finish(start(clone, ssh, tmp_path / "run", plan))
    assert found == code, err
    assert "host 0 start 1" in out and len((tmp_path / "run" / "starts0").read_text()) == times
    assert (tmp_path / "stubs" / "home" / "rxrx_jax" / "run.code").read_text() == f"{code}\n"


def test_a_lost_connection_is_made_again_and_loses_nothing(clone, ssh, tmp_path):
    ssh.answer([["tail --pid", [255, 255, "run"]], ["^ssh", ["run"]]])
    code, out, _ = finish(start(clone, ssh, tmp_path / "run", "done"))
    assert code == 0 and "host 0 start 1" in out
    assert ssh.calls().count("sleep 10") == 2


def test_ctrl_c_asks_the_other_host_for_a_checkpoint_and_waits_for_it(clone, ssh, tmp_path):
    process = start(clone, ssh, tmp_path / "run", "train")
    until(lambda: (tmp_path / "run" / "starts0").exists() and any("tail" in c for c in ssh.calls()))
    log = tmp_path / "run" / "hosts" / "0.log"
    until(lambda: log.exists() and log.read_text())
    interrupt(process)
    code, out, err = finish(process)
    assert code == 0 and "checkpoint" in log.read_text(), (out, err)
    assert len((tmp_path / "run" / "starts0").read_text()) == 1


def test_a_second_ctrl_c_does_not_wait(clone, ssh, tmp_path):
    ssh.answer([["tail --pid", ["wait"]], ["^ssh", ["run"]]])
    process = start(clone, ssh, tmp_path / "run", "deaf")
    until((tmp_path / "run" / "pid0").exists)
    for times in (1, 2):
        until(lambda times=times: sum("tail --pid" in c for c in ssh.calls()) == times)
        interrupt(process)
    assert finish(process)[0] == 143
    pid = int((tmp_path / "run" / "pid0").read_text())
    os.kill(pid, signal.SIGKILL)


def test_a_launcher_that_was_lost_follows_the_run_when_it_is_started_again(clone, ssh, tmp_path):
    log = tmp_path / "run" / "hosts" / "0.log"
    first = start(clone, ssh, tmp_path / "run", "train")
    until(lambda: log.exists() and log.read_text())
    first.kill()
    first.wait()
    first.stdout.close()  # what it ran holds the other ends until the run ends
    first.stderr.close()
    until(lambda: any("tail" in c for c in ssh.calls()))
    second = start(clone, ssh, tmp_path / "run", "train")
    until(lambda: sum("tail" in c for c in ssh.calls()) == 2)
    interrupt(second)
    assert finish(second)[0] == 0
    assert len((tmp_path / "run" / "starts0").read_text()) == 1


def test_what_fails_before_the_run_is_named(clone, ssh, tmp_path):
    ssh.answer([["uv pip install", [7]], ["^ssh", ["run"]]])
    code, _, err = finish(start(clone, ssh, tmp_path / "run", "done"))
    assert code == 2 and "error: install it: its command ended with code 7" in err
    assert not (tmp_path / "run").exists()
