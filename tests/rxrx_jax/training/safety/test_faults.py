"""Faults put into real processes of real runs: the line that each is told in, and the code that they end with."""

import json
import pathlib
import re
import shutil
import signal

import pytest
import tiny
from hosts_tools import finish, start, values

from rxrx_jax.training import metrics

pytestmark = pytest.mark.slow
FIX, AGAIN = 2, 75  # exit codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared datasets; the run that makes one is as good as any."""
    where = tmp_path_factory.mktemp("data")
    codes, hosts = finish(where / "run", values(where, total_steps=2, evaluators={}))
    assert codes == [0], hosts.log()
    return where


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The parameters of an uninterrupted run of `quiet`."""
    codes, hosts = finish(tmp_path_factory.mktemp("whole") / "run", quiet(folder))
    assert codes == [0], hosts.log()
    return last(hosts)["parameters_sha256"]


def quiet(folder, **changes):
    return values(folder, evaluators={}, **changes)


def last(hosts):
    return metrics.read(hosts.workdir / "metrics.jsonl")[-1]


def rows_of(folder, step):
    """The rows that the minibatch of a step of `quiet` is made of."""
    from rxrx_jax.base.config import Config

    source = tiny.source(Config(quiet(folder)))
    return [int(row) for row in source.samplers["train"].rows(step - 1)]


# One process


def test_a_loss_that_is_nan_stops_with_the_images_kept(folder, tmp_path):
    rows = rows_of(folder, 5)
    codes, hosts = finish(tmp_path / "run", quiet(folder), faults=[(0, "faults:bad_images", rows[2])])
    kept = json.loads((tmp_path / "run/diverged-5.json").read_text())
    assert codes == [FIX] and [image["row"] for image in kept["images"]] == rows
    line = hosts.log().splitlines()[-1]
    assert re.match("error: (loss|gradient_norm) is nan at step 5: its images are in ", line)  # XLA's ReLU may hide it
    assert "guard.rollback=True" in line
    assert (tmp_path / "run/checkpoints/3").is_dir() and not (tmp_path / "run/checkpoints/6").exists()


def test_asked_to_go_back_it_does_once_and_ends(folder, tmp_path, whole):
    bad = next(row for row in rows_of(folder, 5) if row not in rows_of(folder, 6))  # number 6 stands in for number 5
    fault, changes = [(0, "faults:bad_images", bad)], {"guard.rollback": True, "total_steps": 5}
    codes, hosts = finish(tmp_path / "run", quiet(folder, **changes), faults=fault)
    assert codes == [0] and last(hosts)["rolled_back"] == 5
    said = "WARNING: (loss|gradient_norm) is nan at step 5; going back to the last checkpoint, once"
    assert re.search(said, hosts.log())
    assert "from step 3" in hosts.log()
    again, other = finish(tmp_path / "again", quiet(folder, **changes), faults=fault)  # and the same way each time
    assert last(other)["parameters_sha256"] == last(hosts)["parameters_sha256"]


def test_a_second_bad_minibatch_stops_it(folder, tmp_path):
    fault = [(0, "faults:bad_images", rows_of(folder, 5)[2], rows_of(folder, 8)[0])]
    codes, hosts = finish(tmp_path / "run", quiet(folder, **{"guard.rollback": True}), faults=fault)
    assert codes == [FIX] and re.search("error: (loss|gradient_norm) is nan at step", hosts.log())
    assert "again after going back once" in hosts.log().splitlines()[-1]


def test_a_diverging_loss_stops(folder, tmp_path):
    changes = {"optim.lr": 1e4, "total_steps": 60, "optim.clip_norm": 0.0}
    codes, hosts = finish(tmp_path / "run", quiet(folder, **changes))
    assert codes == [FIX]
    line = hosts.log().splitlines()[-1]
    assert line.startswith("error: ") and (" times its usual " in line or " is nan " in line or " is inf " in line)


def test_sigterm_stops_with_a_checkpoint_and_the_same_bits_in_the_end(folder, tmp_path, whole):
    fault = [(0, "faults:at_minibatch", 4, "send", "SIGTERM")]
    codes, hosts = finish(tmp_path / "run", quiet(folder), faults=fault)
    assert codes == [0] and "stopped at step" in hosts.log().splitlines()[-1] and "done" not in last(hosts)
    codes, hosts = finish(tmp_path / "run", quiet(folder))
    assert codes == [0] and last(hosts)["parameters_sha256"] == whole


def test_data_that_never_comes_ends_with_75_and_the_place(folder, tmp_path, whole):
    fault = [(0, "faults:at_minibatch", 4, "sleep", 600)]
    run = quiet(folder, watchdog_timeout_seconds=20.0)
    codes, hosts = finish(tmp_path / "run", run, faults=fault)
    assert codes == [AGAIN] and "has been reading data at step 4 for" in hosts.log().splitlines()[-1]
    assert "faults.py" in (tmp_path / "run/hosts/0.stack").read_text()
    codes, hosts = finish(tmp_path / "run", run)
    assert codes == [0] and last(hosts)["parameters_sha256"] == whole


@pytest.mark.parametrize("every", [True, False])
def test_damaged_checkpoints_are_noticed_and_the_one_before_is_used(folder, tmp_path, whole, every):
    fault = [(0, "faults:at_minibatch", 8, "send", "SIGTERM")]
    codes, hosts = finish(tmp_path / "run", quiet(folder), faults=fault)
    assert codes == [0]
    folders = sorted(
        (p for p in (tmp_path / "run/checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
    )
    assert len(folders) == 2
    for one in folders if every else folders[-1:]:
        biggest = max((p for p in one.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        content = bytearray(biggest.read_bytes())
        content[len(content) // 2] ^= 1
        biggest.write_bytes(content)
    codes, hosts = finish(tmp_path / "run", quiet(folder))
    if every:
        assert codes == [FIX] and "damaged" in hosts.log().splitlines()[-1]
    else:
        assert codes == [0] and last(hosts)["parameters_sha256"] == whole
        assert f"WARNING: checkpoint {folders[-1]} is damaged" in hosts.log()
        assert f"from step {folders[0].name}" in hosts.log()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_last_checkpoint_without_room_fails_the_run(folder, tmp_path, stopped):
    faults = [(0, "faults:full_disk_after", 1)] + [(0, "faults:at_minibatch", 4, "send", "SIGTERM")] * stopped
    codes, hosts = finish(tmp_path / "run", quiet(folder, checkpoint_steps=100), faults=faults)
    error = [line for line in hosts.log().splitlines() if line.startswith("error: ")]
    assert codes == [FIX] and len(error) == 1 and error[0].startswith("error: no room for "), hosts.log()
    assert "done" not in last(hosts) and "stopped at step" not in hosts.log()


def test_a_workdir_of_another_config_is_refused(folder, tmp_path):
    finish(tmp_path / "run", quiet(folder, total_steps=2))
    codes, hosts = finish(tmp_path / "run", quiet(folder, total_steps=3))
    assert codes == [FIX] and "holds a run with another config" in hosts.log().splitlines()[-1]


@pytest.fixture
def copy(folder, tmp_path):
    """A folder of prepared datasets to break."""
    return pathlib.Path(shutil.copytree(folder, tmp_path / "data", ignore=shutil.ignore_patterns("run*")))


def damage(folder):
    """Flips a bit in one record of each of two train shards."""
    for shard in sorted(p for p in folder.rglob("*train*array_record*") if p.is_file())[:2]:
        content = bytearray(shard.read_bytes())
        content[10_000] ^= 1  # they are 6 kB each and begin near the start
        shard.write_bytes(content)


def test_a_damaged_record_stops_the_run_and_is_named(copy, tmp_path):
    damage(copy)
    codes, hosts = finish(tmp_path / "run", quiet(copy))
    assert codes == [FIX] and "host 0: SIMA-0" in hosts.log()
    error = next(line for line in hosts.log().splitlines() if line.startswith("error: "))
    assert error.startswith("error: 1 images could not be read by step ") and "data.unreadable=0" in error


def test_within_the_budget_it_is_left_out_and_counted(copy, tmp_path):
    damage(copy)
    codes, hosts = finish(tmp_path / "run", quiet(copy, **{"data.unreadable": 2}))
    assert codes == [0], hosts.log()
    named = {line for line in hosts.log().splitlines() if "cannot be read" in line}
    assert 0 < len(named) <= last(hosts)["unreadable"] <= 2 * 3  # epochs


def test_a_shard_that_was_cut_off_is_refused(copy, tmp_path):
    for shard in (p for p in copy.rglob("*train*array_record*") if p.is_file()):
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    codes, hosts = finish(tmp_path / "run", quiet(copy))
    assert codes == [FIX] and hosts.log().splitlines()[-1].startswith("error: ")


# Two hosts


def test_another_config_on_one_host_stops_both(folder, tmp_path):
    both = [quiet(folder), quiet(folder, **{"optim.lr": 0.25})]
    codes, hosts = finish(tmp_path / "run", both, processes=2)
    assert codes == [FIX, FIX]
    for i in range(2):
        assert "host 1 has another config than host 0: optim.lr is 0.25, not" in hosts.log(i)


@pytest.mark.parametrize("what", ["code", "data"])
def test_another_code_or_other_data_on_one_host_stops_both(folder, tmp_path, what):
    codes, hosts = finish(tmp_path / "run", quiet(folder), processes=2, faults=[(1, f"faults:other_{what}")])
    assert codes == [FIX, FIX] and f"host 1 has another {what} than host 0" in hosts.log()


def test_a_dataset_that_one_host_lacks_stops_both(folder, tmp_path):
    codes, hosts = finish(tmp_path / "run", quiet(folder), processes=2, faults=[(1, "faults:no_data", "no dataset")])
    assert codes == [FIX, FIX] and "error: host 1: no dataset" in hosts.log()


def test_a_workdir_that_the_hosts_do_not_share_stops_both(folder, tmp_path):
    fault = [(1, "faults:own_workdir", str(tmp_path / "elsewhere"))]
    codes, hosts = finish(tmp_path / "run", quiet(folder), processes=2, faults=fault)
    assert codes == [FIX, FIX] and "give a --workdir on a disk that all hosts share" in hosts.log()


@pytest.mark.parametrize("host", [0, 1])
def test_sigterm_to_one_host_stops_both_at_the_same_step(folder, tmp_path, host):
    hosts = start(tmp_path / "run", quiet(folder, total_steps=100_000, checkpoint_steps=1000), processes=2)
    hosts.until("step 5/")
    hosts.signal(host, signal.SIGTERM)
    assert hosts.wait(30) == [0, 0]
    stopped = int(hosts.log().partition("stopped at step ")[2].split()[0])
    assert (tmp_path / f"run/checkpoints/{stopped}").is_dir()


def test_a_host_that_is_killed_ends_the_other_for_a_restart(folder, tmp_path):
    fault = [(1, "faults:at_minibatch", 5, "send", "SIGKILL")]
    codes, hosts = finish(tmp_path / "run", quiet(folder), processes=2, faults=fault)
    assert codes == [AGAIN, -signal.SIGKILL] and "error: another host is lost" in hosts.log()


def test_a_host_that_stands_still_is_named_by_the_other(folder, tmp_path):
    fault = [(1, "faults:at_minibatch", 5, "send", "SIGSTOP")]
    hosts = start(tmp_path / "run", quiet(folder, watchdog_timeout_seconds=24.0), processes=2, faults=fault)
    hosts.processes[0].join(300)
    assert hosts.kill() == [AGAIN, -signal.SIGKILL]
    assert "has not reported for more than 12 s (told by host 0)" in hosts.log().splitlines()[-1]
    assert "error: host 1" in hosts.log()


def test_a_host_whose_data_never_comes_is_named(folder, tmp_path):
    faults = [(1, "faults:at_minibatch", 5, "sleep", 600), (1, "faults:slow_to_stop", 2)]
    codes, hosts = finish(tmp_path / "run", quiet(folder, watchdog_timeout_seconds=24.0), processes=2, faults=faults)
    assert codes == [AGAIN, AGAIN]
    assert any(
        "error: host 1 (" in hosts.log(i) and ") has been reading data at step 5" in hosts.log(i) for i in (0, 1)
    )


@pytest.mark.parametrize("host", [0, 1])
def test_a_disk_that_is_full_for_one_host_is_told_by_both(folder, tmp_path, host):
    fault = [(host, "faults:full_disk_after", 1)]
    codes, hosts = finish(tmp_path / "run", quiet(folder), processes=2, faults=fault)
    assert codes == [FIX, FIX]
    for i in (0, 1):
        first = "error: no room for " if i == host else f"error: host {host}: no room for "
        assert hosts.log(i).splitlines()[-1].startswith(first) and "Traceback" not in hosts.log(i)
    assert not (tmp_path / "run/lock").exists()


def test_what_two_hosts_refuse_leaves_nothing(folder, tmp_path):
    codes, hosts = finish(tmp_path / "run", quiet(folder, **{"augment.crop": 64}), processes=2)
    assert codes == [FIX, FIX] and "augment.crop=64" in hosts.log(0).splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_host_ends_both(folder, tmp_path):
    fault = [(1, "faults:at_minibatch", 5, "fail", "the disk is gone")]
    codes, hosts = finish(tmp_path / "run", quiet(folder), processes=2, faults=fault)
    assert codes == [AGAIN, 1] and "OSError: the disk is gone" in hosts.log(1)


def test_records_that_one_host_cannot_read_stop_both_at_the_same_step(copy, tmp_path):
    damage(copy)
    codes, hosts = finish(tmp_path / "run", quiet(copy), processes=2)
    assert codes == [FIX, FIX]
    lines = [hosts.log(i).splitlines() for i in (0, 1)]
    told = [next(line for line in mine if "images could not be read by step" in line) for mine in lines]
    assert told[0] == told[1]


def test_what_is_being_saved_is_kept_when_an_error_ends_several_hosts(copy, tmp_path):
    damage(copy)
    codes, hosts = finish(tmp_path / "run", quiet(copy))
    at = int(hosts.log().partition("could not be read by step ")[2].partition(",")[0])
    run, slow = quiet(copy, checkpoint_steps=at - 1), [(i, "faults:slow_disk", 4.0) for i in (0, 1)]
    codes, hosts = finish(tmp_path / "slow", run, processes=2, faults=slow)
    assert codes == [FIX, FIX] and f"could not be read by step {at}" in hosts.log()
    assert [p.name for p in (tmp_path / "slow/checkpoints").iterdir()] == [str(at - 1)]
