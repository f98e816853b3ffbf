"""A run over two emulated slices: parameters are not split over them, and a lost one restarts from the checkpoint."""

import pytest
from hosts_tools import finish, values

from rxrx_jax.training import metrics

SLICES = [(host, "faults:slices", 2) for host in range(2)]


def last(workdir):
    return metrics.read(workdir / "metrics.jsonl")[-1]


@pytest.mark.full  # four runs of two hosts
def test_a_lost_slice_restarts_from_the_checkpoint(folder, tmp_path):
    config = values(folder)
    run = lambda name, *faults, **more: finish(  # noqa: E731
        tmp_path / name, config | more, processes=2, devices=2, faults=[*SLICES, *faults]
    )
    codes, hosts = run("lost", (1, "faults:at_minibatch", 10, "send", "SIGKILL"))
    assert codes == [75, -9], hosts.log(0)
    codes, hosts = run("lost")
    assert codes == [0, 0], hosts.log(0) + hosts.log(1)
    steps = [line["step"] for line in metrics.read(tmp_path / "lost" / "metrics.jsonl") if "loss" in line]
    assert steps == sorted(set(steps)) and last(tmp_path / "lost")["done"] is True
    assert run("whole")[0] == [0, 0]
    assert last(tmp_path / "lost")["parameters_sha256"] == last(tmp_path / "whole")["parameters_sha256"]

    codes, hosts = run("split", mesh={"fsdp": 4, "tensor": 1})
    assert codes == [2, 2]
    assert "mesh.fsdp=4 times mesh.tensor=1 does not divide the 2 devices of each of the 2 slices" in hosts.log(0)
