"""What one host can show of agreeing, failing together, and leaving; test_hosts.py has several."""

import json

import jax
import pytest

from rxrx_jax.base import hosts
from rxrx_jax.base.errors import UserError


def others(monkeypatch, *replies):
    """Pretends that there are other hosts, which say these texts whenever they are asked."""
    monkeypatch.setattr(hosts, "exchange", lambda text: [text, *replies])
    monkeypatch.setattr(jax, "process_count", lambda: 1 + len(replies))


def test_one_host_agrees_with_itself():
    assert hosts.exchange("text") == ["text"] and hosts.on_any(True) and not hosts.on_any(False)
    hosts.check_equal_across_hosts({"config": "{}"})
    assert hosts.on_first_host(lambda: {"a": [1, None]}) == {"a": [1, None]} and hosts.on_all_hosts(lambda: 3) == 3


def test_the_key_that_differs_is_named(monkeypatch):
    mine = {"config": json.dumps({"optim": {"lr": 0.1, "name": "lion"}, "empty": {}}), "code": "1"}
    others(
        monkeypatch, json.dumps(mine), json.dumps(mine | {"config": json.dumps({"optim": {"lr": 0.2}, "empty": {}})})
    )
    with pytest.raises(UserError, match="^host 2 has another config than host 0: optim.lr is 0.2, not 0.1; start all"):
        hosts.check_equal_across_hosts(mine)
    others(monkeypatch, json.dumps(mine | {"code": "2"}))
    with pytest.raises(UserError, match="^host 1 has another code than host 0: 2, not 1;"):
        hosts.check_equal_across_hosts(mine)


def test_an_error_of_one_host_is_raised_on_all(monkeypatch):
    others(monkeypatch, "no dataset in /data")
    with pytest.raises(UserError, match="^host 1: no dataset in /data$"):
        hosts.on_all_hosts(lambda: 3)

    def fail():
        raise UserError("no dataset in /data")

    with pytest.raises(UserError, match="^no dataset in /data$"):  # on all of them
        hosts.on_all_hosts(fail)
    others(monkeypatch, "")
    with pytest.raises(UserError, match="^host 0: no dataset in /data$"):
        hosts.on_all_hosts(fail)


def test_only_the_first_host_does_what_the_first_does(monkeypatch):
    others(monkeypatch, "not JSON, and not read")
    assert hosts.on_first_host(lambda: 3) == 3
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(hosts, "exchange", lambda text: [json.dumps([4, ""]), text])
    assert hosts.on_first_host(lambda: pytest.fail("ran on the second host")) == 4
    monkeypatch.setattr(hosts, "exchange", lambda text: [json.dumps([None, "disk full"]), text])
    with pytest.raises(UserError, match="^disk full$"):
        hosts.on_first_host(lambda: 3)


@pytest.mark.parametrize(
    "variables, part",
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID=None"),
        ({"JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES=None"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "0 .. N-1"),
        ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES=two"),
        ({"JAX_NUM_PROCESSES": "\u00b2", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES=\u00b2"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "needs JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_variables_that_do_not_fit_together_are_refused(monkeypatch, variables, part):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=part):
        hosts.join(multihost=False)


STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}  # srun's, of each


@pytest.mark.parametrize(
    "variables, asked, joins",
    [
        ({}, False, False),
        ({}, True, True),
        ({"SLURM_NTASKS": "1"}, False, False),
        ({"SLURM_NTASKS": "2"}, False, False),  # a shell within a job
        (STEP | {"SLURM_NTASKS": "2"}, False, True),
        (STEP | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "1"}, False, False),  # an interactive step
        ({"TPU_WORKER_HOSTNAMES": "a"}, False, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, False, True),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, False, True),
    ],
)
def test_a_cluster_is_joined_where_the_environment_or_the_flag_says_so(monkeypatch, capsys, variables, asked, joins):
    for name in ("SLURM_NTASKS", "TPU_WORKER_HOSTNAMES", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **more: called.append(more))
    hosts.join(asked)
    assert called == ([{}] if joins else [])
    alone = variables.get("SLURM_NTASKS") == "2" and not joins
    assert ("this process is none of srun's, so it runs by itself" in capsys.readouterr().err) == alone


ALONE = ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES")


@pytest.mark.parametrize(
    "variables, asked, words",
    [
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1"},
            False,
            ["JAX_COORDINATOR_ADDRESS: ", "(Number of processes must be defined"],
        ),
        ({}, True, ["--multihost: ", "(coordinator_address should be defined"]),
        ({"SLURM_NTASKS": "4(x2)"}, False, ["SLURM_NTASKS=4(x2): expected a number of tasks"]),
        ({"SLURM_NTASKS": "-2"}, False, ["SLURM_NTASKS=-2: expected"]),
        (STEP | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "two"}, False, ["SLURM_STEP_NUM_TASKS=two: expected"]),
        (STEP | {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "x"}, False, ["SLURM_JOB_ID: "]),
    ],
)
def test_half_of_what_a_scheduler_says_is_one_line(monkeypatch, variables, asked, words):
    for name in ALONE:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)  # as when a command starts
    with pytest.raises(UserError) as told:
        hosts.join(asked)
    line = str(told.value)
    assert line.startswith(words[0]) and words[-1] in line and "\n" not in line


def test_an_empty_number_of_tasks_is_none(monkeypatch):
    for name in ALONE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "")
    hosts.join(False)


def test_a_host_by_itself_raises_as_usual():
    for error in (UserError("x"), OSError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), hosts.leaving():
            raise error


def test_what_jax_says_of_a_lost_host_is_known():
    gloo = "UNKNOWN: Gloo AllGather failed: Read error [127.0.0.1]:14550: Connection reset by peer"
    assert hosts.is_lost(ValueError(gloo)) and hosts.is_lost(jax.errors.JaxRuntimeError(gloo))
    assert not hosts.is_lost(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))
    assert not hosts.is_lost(OSError("connection"))


class HttpError(Exception):
    """As gcsfs raises it."""

    def __init__(self, code):
        super().__init__("Backend Error")
        self.code = code


def after(error):
    """Another error, raised while `error` was handled, as Orbax does."""
    other = ValueError("no handler fits")
    other.__context__ = error
    return other


@pytest.mark.parametrize("error", [
    ConnectionResetError("reset"), TimeoutError("60 s"), HttpError(503), HttpError("429"),
    ValueError("UNAVAILABLE: Error writing gs://b/x: CURL error"), after(HttpError(500)),
])  # fmt: skip
def test_a_storage_that_does_not_answer_is_worth_another_start(error, capsys):
    with pytest.raises(SystemExit) as stopped, hosts.leaving():
        raise error
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == hosts.AGAIN
    assert line == f"error: the storage does not respond ({error}): start again"


@pytest.mark.parametrize("error", [
    HttpError(403), OSError("Input/output error"), ValueError("no such bucket"), UserError("UNAVAILABLE"),
    jax.errors.JaxRuntimeError("UNAVAILABLE: socket closed"), KeyboardInterrupt(),
])  # fmt: skip
def test_another_error_is_not(error):
    with pytest.raises(type(error)), hosts.leaving():
        raise error
