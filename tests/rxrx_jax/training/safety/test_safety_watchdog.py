"""A run that no longer moves is ended, and the host that holds it up is named."""

import re
import subprocess
import sys
import textwrap
import time

import pytest

from rxrx_jax.training.safety.watchdog import DEVICES, Watchdog, blame


def told(doing=DEVICES, step=5, since=100.0, now=200.0):
    return {"doing": doing, "step": step, "since": since, "now": now, "host": "vm"}


def test_the_host_that_does_not_wait_is_named():
    hosts = {0: told(), 1: told("reading data"), 2: told()}
    assert blame(hosts, 200, 60, 3).startswith("host 1 (vm) has been reading data at step 5 for ")


def test_of_several_the_one_furthest_behind_is_named():
    hosts = {0: told("reading data", 6, 150.0), 1: told("evaluating", 4, 190.0), 2: told("saving", 6, 90.0)}
    assert blame(hosts, 200, 60, 3).startswith("host 1 (vm) has been evaluating at step 4")


def test_a_host_that_writes_no_more_or_never_did_is_named_first():
    assert blame({0: told("reading data"), 1: told(now=169.0)}, 200, 60, 2) == (
        "host 1 (vm) has not reported for more than 30 s"
    )
    assert blame({0: told("reading data"), 1: told(now=171.0)}, 200, 60, 2).startswith("host 0")
    assert blame({0: told()}, 200, 60, 2) == "host 1 has not reported for more than 30 s"


def test_where_all_wait_none_is_named():
    assert blame({0: told(), 1: told()}, 200, 60, 2) is None


def run(folder, body, seconds=1.0):
    script = f"""
        import pathlib, time
        from rxrx_jax.training.safety.watchdog import Watchdog
        with Watchdog(pathlib.Path({str(folder)!r}), {seconds}, 0, 1) as dog:
            {body}
    """
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    return done, time.monotonic() - begin


def test_a_process_that_does_not_move_ends_with_75_one_line_and_its_stacks(tmp_path):
    done, _ = run(tmp_path, "dog.moving(); dog.at('reading data', 12); time.sleep(30)")
    assert done.returncode == 75
    line = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"error: host 0 \(.+\) has been reading data at step 12 for \d+ s; start again", line)
    assert 'File "<string>", line 5' in (tmp_path / "hosts/0.stack").read_text()  # where it slept


def test_its_last_words_need_no_disk(tmp_path):
    (tmp_path / "hosts").touch()  # no folder can be made there
    done, _ = run(tmp_path, "dog.moving(); dog.at('reading data', 12); time.sleep(30)")
    assert done.returncode == 75 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: host 0 (") and 'File "<string>", line 5' in done.stderr


@pytest.mark.slow
def test_a_process_that_moves_is_left_alone_and_so_is_one_without_a_watchdog(tmp_path):
    moving = "dog.moving(); [(time.sleep(0.3), dog.at('reading data', i)) for i in range(12)]"
    done, _ = run(tmp_path, moving, seconds=2)
    assert done.returncode == 0 and not (tmp_path / "hosts").exists()
    done, _ = run(tmp_path, "time.sleep(2)")  # it has not begun
    assert done.returncode == 0
    done, _ = run(tmp_path, "time.sleep(1)", seconds=0)
    assert done.returncode == 0


def test_the_end_does_not_wait_for_the_threads(tmp_path):
    begin = time.monotonic()
    with Watchdog(tmp_path, 1200.0, 0, 2):
        pass
    assert time.monotonic() - begin < 1
