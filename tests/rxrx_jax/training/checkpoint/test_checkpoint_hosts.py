"""Checkpoints of two hosts: both resume from the same one, whichever of them finds damage."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import checkpoint_hosts
import pytest

from rxrx_jax.base.sharding import make_mesh
from rxrx_jax.training.checkpoint.digests import digests


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
    """The folder, and what each host has said on stdout and on stderr."""
    folder = tmp_path_factory.mktemp("run")
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"localhost:{s.getsockname()[1]}"
    script = pathlib.Path(checkpoint_hosts.__file__)
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    hosts = [
        subprocess.Popen(
            [sys.executable, str(script), address, str(i), str(folder)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [host.communicate(timeout=100) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], said
    return folder, [out for out, _ in said], [error for _, error in said]


def test_both_restore_the_same_checkpoint(two_hosts):
    _, said, _ = two_hosts
    for out in said:
        restored = [line for line in out.splitlines() if line.startswith("restored")]
        assert restored == [f"restored {step} True" for step in (5, 4, 3, 2)]


def test_one_of_them_says_what_is_damaged_and_sets_it_aside(two_hosts):
    folder, _, errors = two_hosts
    lines = [line for line in errors[0].splitlines() if line.startswith("WARNING: checkpoint")]
    for line, step, why in zip(lines, (5, 4, 3), ("DATA_LOSS", "cannot be read (host 1)", "whole: digest differs)")):
        assert f"checkpoints/{step} is damaged (" in line and why in line
        assert line.endswith(f"set aside as {folder}/damaged-{step}; resuming from step {step - 1}")
    assert len(lines) == 3 and "WARNING: checkpoint" not in errors[1]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "damaged-3", "damaged-4", "damaged-5"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["1", "2"]


def test_parameters_that_one_cannot_read_stop_both(two_hosts):
    folder, said, _ = two_hosts
    for out in said:
        what, advice = out.splitlines()[-1].split(": ")
        assert what == f"error checkpoint {folder}/checkpoints/2 is damaged (cannot be read (host 1))"
        assert advice == f"give the one before, {folder}/checkpoints/1"


def test_digests_do_not_depend_on_how_arrays_are_spread(two_hosts):
    _, said, _ = two_hosts
    here = digests(checkpoint_hosts.make_state(1, make_mesh()).params)
    for out in said:
        line = next(line for line in out.splitlines() if line.startswith("digests"))
        assert json.loads(line.removeprefix("digests ").replace("'", '"')) == here
