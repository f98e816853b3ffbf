"""launch.local and launch.host: processes of this machine that live and die together, and when they start again."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import tiny
from launch_tools import HERE, alive, finish, launch, until

from launch import common, local


def start(workdir, plan, *options, processes=2):
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    arguments = [f"--processes={processes}", "--devices=2", "--module=trainer", f"--workdir={workdir}", *options]
    return launch("local", *arguments, "--", "--config=x.py", f"--plan={plan}", environment=environment)


def starts(workdir, host=0):
    return len((workdir / f"starts{host}").read_text())


def pids(workdir, processes=2):
    until(lambda: all((workdir / "hosts" / f"{i}.log").exists() for i in range(processes)))
    until(lambda: all((workdir / "hosts" / f"{i}.log").read_text() for i in range(processes)))
    return [int((workdir / f"pid{i}").read_text()) for i in range(processes)]


@pytest.mark.parametrize(
    "plan, restarts, code, times",
    [
        ("done", 3, 0, 1),
        ("0,done", 3, 0, 2),  # stopped after a checkpoint by somebody else: seen through
        ("0", 0, 0, 1),
        ("1:2", 3, 2, 1),
        ("1:1", 3, 1, 1),
        ("1:75,done", 3, 0, 2),
        ("0:-9,1:134,1:75,1:75", 2, 75, 3),
        ("1:-9", 0, 137, 1),
    ],
)
def test_the_exit_code_decides_whether_a_run_starts_again(plan, restarts, code, times, tmp_path):
    found, out, err = finish(start(tmp_path, plan, f"--restarts={restarts}"))
    assert (found, starts(tmp_path)) == (code, times), err
    assert err.count("starting again") == times - 1
    assert out.startswith("host 0 start 1") and out.count("host 0 start 1") == 1 and "host 1" not in out
    assert f"host 1 start {times}" in (tmp_path / "hosts" / "1.log").read_text()


def test_code_2_of_any_host_counts_and_of_others_the_first_to_fail(tmp_path):
    def wait(*commands):
        return local.wait([subprocess.Popen(["bash", "-c", c]) for c in commands], grace=5)

    assert wait("trap 'exit 2' TERM; sleep 3 & wait", "sleep 0.3; exit 75") == 2
    assert wait("trap 'exit 1' TERM; sleep 3 & wait", "sleep 0.3; exit 75") == 75
    assert wait("trap 'exit 75' TERM; sleep 3 & wait", "sleep 0.3; exit 1") == 1
    assert wait("exit 0", "exit 0") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_passed_on_as_sigterm_and_the_run_is_not_started_again(number, tmp_path):
    process = start(tmp_path, "train", "--restarts=3")
    pids(tmp_path)
    os.killpg(process.pid, number)  # a terminal sends it to all that share it
    code, out, err = finish(process)
    assert code == 0 and starts(tmp_path) == 1 and "checkpoint" in out, err
    assert "checkpoint" in (tmp_path / "hosts" / "1.log").read_text()


def test_a_second_signal_kills(tmp_path):
    process = start(tmp_path, "deaf", "--restarts=3")
    found = pids(tmp_path)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 137
    assert not any(map(alive, found))


def test_when_one_fails_the_others_are_ended_even_when_they_are_stopped_or_deaf(tmp_path):
    process = start(tmp_path, "deaf", "--grace=0.5", processes=3)
    found = pids(tmp_path, 3)
    os.kill(found[2], signal.SIGSTOP)
    os.kill(found[1], signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 137 and "host 1 ended with code -9" in err
    assert not any(map(alive, found))


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs util-linux")
def test_a_killed_launcher_leaves_no_orphans(tmp_path):
    process = start(tmp_path, "deaf")
    found = pids(tmp_path)
    process.kill()
    process.communicate()
    until(lambda: not any(map(alive, found)))


def test_hosts_are_told_of_each_other(tmp_path):
    show = "import os; print({k: v for k, v in os.environ.items() if k.startswith('JAX_')})"
    hosts = [(e, [sys.executable, "-c", show]) for e, _ in local.commands(2, 3, [], port=1234)]
    assert local.wait(local.spawn(hosts, tmp_path)) == 0
    for i in range(2):
        found = eval((tmp_path / "hosts" / f"{i}.log").read_text())
        assert (
            found.items()
            >= {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "3",
                "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(i),
            }.items()
        )


def test_one_host_is_one_process_that_starts_again(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    options = ["--module=trainer", f"--workdir={tmp_path}", "--", "--config=x.py", "--plan=-9,0,done"]
    code, out, err = finish(launch("host", *options, environment=environment))
    assert code == 0 and starts(tmp_path) == 3 and err.count("starting again") == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--processes=1", "--devices=1", "--", "--config=mae_vit.py"], "pass --workdir=DIR"),
        (["--processes=1", "--devices=1", "--workdir=a"], "pass the trainer's arguments after --"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message):
    code, _, err = finish(launch("local", *arguments))
    assert code == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_only_the_last_line_of_the_metrics_says_that_a_run_is_finished(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    for text, expected in [("", False), ('{"done": true}\n{"step": 3}\n', False), ('{"a": 1}\n{"done": tr', False)]:
        assert not common.finished(str(tmp_path / "none"))
        metrics.write_text(text)
        assert common.finished(str(tmp_path)) is expected
    metrics.write_text('{"step": 3}\n{"step": 3, "done": true}\n')
    assert common.finished(str(tmp_path))


@pytest.mark.slow
def test_the_real_trainer_runs_on_two_emulated_hosts(tmp_path):
    values = tiny.values("mae_vit.py:variant=XXS/16", tmp_path / "data", evaluators={})
    environment = os.environ | {"TINY": repr(values)}
    arguments = [
        "--processes=2",
        "--devices=1",
        f"--workdir={tmp_path}",
        "--",
        "--config=tests/tools/processes/tiny_config.py",
    ]
    code, out, err = finish(launch("local", *arguments, environment=environment), seconds=300)
    assert code == 0, (tmp_path / "hosts" / "1.log").read_text() + out + err
    assert "done: " in out and common.finished(str(tmp_path))
