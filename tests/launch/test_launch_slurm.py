"""launch.slurm: the batch script with stubs of SLURM's commands, and the whole of it on a real SLURM where one runs."""

import re
import shutil
import signal
import subprocess

import pytest
from launch_tools import HERE, Stubs, finish, interrupt, launch, make_clone, until

TRAIN = ["--", "--config=x.py"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("launch") / "clone")


@pytest.fixture
def slurm(tmp_path):
    return Stubs(tmp_path / "stubs", "srun", "scontrol", "scancel", "sbatch", "squeue")


# The script


def batch(tmp_path, slurm, answers, restarts_before=0) -> subprocess.Popen:
    """Runs the script as SLURM would."""
    script = re.search(r"<<'END'\n(#!.*?)END$", (HERE / "stored" / "slurm.txt").read_text(), re.S | re.M)[1]
    commit = re.search("commit=(.*)", script)[1]
    (tmp_path / "run" / "code" / commit).mkdir(parents=True)
    script = script.replace("'/shared/run 1'", str(tmp_path / "run")).replace("restarts=100", "restarts=3")
    slurm.answer(answers)
    environment = slurm.environment() | {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts_before)}
    return subprocess.Popen(["bash", "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def ended(tmp_path) -> str | None:
    path = tmp_path / "run" / "slurm.code"
    return path.read_text().strip() if path.exists() else None


@pytest.mark.parametrize("code", [75, 85, 137, 143])
def test_the_script_puts_a_lost_or_preempted_job_back_in_the_queue(code, tmp_path, slurm):
    process = batch(tmp_path, slurm, [["^srun", [code]]], restarts_before=2)
    process.communicate()
    assert process.returncode == 0 and ended(tmp_path) is None
    assert slurm.calls()[-1] == "scontrol requeue 7"
    assert "--kill-on-bad-exit=1" in slurm.calls()[0] and "-m launch.worker --config=mae_vit.py" in slurm.calls()[0]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_script_ends_with_a_finished_or_wrong_run(code, tmp_path, slurm):
    process = batch(tmp_path, slurm, [["^srun", [code]]])
    process.communicate()
    assert process.returncode == code and ended(tmp_path) == str(code) and len(slurm.calls()) == 1


def test_restarts_come_to_an_end(tmp_path, slurm):
    process = batch(tmp_path, slurm, [["^srun", [75]]], restarts_before=3)
    process.communicate()
    assert process.returncode == 75 and ended(tmp_path) == "75" and len(slurm.calls()) == 1


@pytest.mark.parametrize("said, code", [("2", 2), ("1", 1)])
def test_what_a_task_said_counts_where_srun_reports_the_tasks_it_killed(said, code, tmp_path, slurm):
    """As SLURM 22.05 does it: the first task exits with 2, the others are killed, and srun exits with 143."""
    (slurm.folder / "srun").write_text(
        f"#!/bin/bash\necho 'srun: error: n: task 1: Exited with exit code {said}' >&2\n"
        "echo 'srun: error: n: tasks 0,2-7: Terminated' >&2\nexit 143\n"
    )
    process = batch(tmp_path, slurm, [])
    out, _ = process.communicate()
    assert process.returncode == code and slurm.calls() == [] and b"Terminated" in out


@pytest.mark.parametrize("said, code", [(85, 0), (75, 143)])
def test_usr1_asks_the_tasks_for_a_checkpoint_and_ends_the_job(said, code, tmp_path, slurm):
    (slurm.folder / "srun").write_text(
        f"#!/bin/bash\necho up > {tmp_path}/up\nwhile [ ! -e {tmp_path}/stop ]; do read -rt 0.05 <> <(:); done\n"
        f"echo 'srun: error: n: tasks 0-1: Exited with exit code {said}' >&2\nexit 143\n"
    )
    (slurm.folder / "scancel").write_text(f'#!/bin/bash\necho "$*" > {tmp_path}/stop\n')
    process = batch(tmp_path, slurm, [])
    until(lambda: (tmp_path / "up").exists())
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=20)
    assert (tmp_path / "stop").read_text() == "--signal=TERM 7\n"
    assert process.returncode == code and ended(tmp_path) == str(code) and slurm.calls() == []


# The launcher


def start(clone, slurm, workdir, answers):
    slurm.answer(answers)
    return launch("slurm", f"--workdir={workdir}", *TRAIN, clone=clone, environment=slurm.environment())


def test_a_job_is_submitted_followed_and_its_code_returned(tmp_path, clone, slurm):
    queue = [["^squeue", ["12", "12", 1, "13"]], ["^sbatch", ["12;cluster"]]]
    code, _, err = finish(start(clone, slurm, tmp_path / "run", queue))
    assert code == 143  # the job left the queue without a word
    assert (tmp_path / "run" / "slurm.job").read_text() == "12\n"
    (commit,) = (tmp_path / "run" / "code").iterdir()
    assert (commit / "launch" / "slurm.py").exists()
    calls = slurm.calls()
    assert calls[0] == f"sbatch --parsable {tmp_path}/run/slurm.sh" and calls.count("sleep 5") == 3


def test_a_job_that_cannot_be_submitted_is_named(tmp_path, clone, slurm):
    code, _, err = finish(start(clone, slurm, tmp_path / "run", [["^sbatch", [1]]]))
    assert code == 2 and "error: submit it" in err


def test_ctrl_c_tells_the_script_and_waits_for_the_job(tmp_path, clone, slurm):
    process = start(clone, slurm, tmp_path / "run", [["^squeue", ["wait", "12", ""]], ["^sbatch", ["12"]]])
    until(lambda: any(c.startswith("squeue") for c in slurm.calls()))
    (tmp_path / "run" / "slurm.code").write_text("0\n")
    interrupt(process)
    assert finish(process)[0] == 0
    cancels = [c for c in slurm.calls() if c.startswith("scancel")]
    assert cancels == ["scancel --quiet --state=PENDING 12", "scancel --quiet --batch --signal=USR1 12"]


# The real thing. A controller and a node on one machine suffice: CPUs=2, JobRequeue=1, AuthInfo=cred_expire=5 (a job
# waits that long in the queue after it was put back; the default is 120 s). docs/launch.md has the configuration.

real = pytest.mark.skipif(
    not shutil.which("scontrol") or subprocess.run(["scontrol", "ping"], capture_output=True).returncode != 0,
    reason="needs a running SLURM",
)


def submit(clone, workdir, plan, *options):
    options = ["--tasks=2", f"--workdir={workdir}", *options]
    return launch("slurm", *options, "--", "--config=x.py", f"--plan={plan}", clone=clone)


@real
@pytest.mark.slow
@pytest.mark.parametrize(
    "plan, code, times",
    [("done", 0, 1), ("1:75,0:0,-9,done", 0, 4), ("1:2", 2, 1), ("1:1", 1, 1)],
)
def test_slurm_starts_again_what_it_should(plan, code, times, tmp_path, clone):
    found, out, err = finish(submit(clone, tmp_path / "run 1", plan), seconds=240)
    log = (tmp_path / "run 1" / "slurm.log").read_text()
    assert found == code, err + log
    assert len((tmp_path / "run 1" / "starts1").read_text()) == times and "host 0 start 1" in out


@real
@pytest.mark.slow
@pytest.mark.parametrize("how", ["requeue", "limit"])
def test_slurm_continues_a_job_that_is_put_back_or_reaches_its_limit(how, tmp_path, clone):
    process = submit(clone, tmp_path / "run", "train,done", "--time=00:02:00")
    if how == "requeue":
        until(lambda: (tmp_path / "run" / "starts1").exists())
        subprocess.run(["scontrol", "requeue", (tmp_path / "run" / "slurm.job").read_text().strip()], check=True)
    code, out, err = finish(process, seconds=240)
    assert code == 0 and "checkpoint" in out and "host 0 start 2: done" in out, err


@real
@pytest.mark.slow
def test_slurm_stops_on_ctrl_c_after_a_checkpoint(tmp_path, clone):
    process = submit(clone, tmp_path / "run", "train")
    log = tmp_path / "run" / "hosts" / "0.log"
    until(lambda: log.exists() and "start 1" in log.read_text())
    interrupt(process)
    code, _, err = finish(process, seconds=60)
    assert code == 0, err + (tmp_path / "run" / "slurm.log").read_text()
    assert "checkpoint" in log.read_text() and len((tmp_path / "run" / "starts0").read_text()) == 1
