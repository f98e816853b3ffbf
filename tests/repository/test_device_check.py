"""benchmarks/device_check.py: all its parts on a CPU, and what becomes of parts that hang or fail."""

import json
import math
import os
import subprocess
import sys
import time

import pytest
from paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import device_check  # noqa: E402
from device import lines as device_lines  # noqa: E402
from device import speed as device_speed  # noqa: E402
from device_check import Part  # noqa: E402


@pytest.mark.slow
def test_every_part_of_a_rehearsal_leaves_finite_numbers(tmp_path):
    command = [sys.executable, "benchmarks/device_check.py", "--rehearse", f"--json={tmp_path / 'device.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "device.log").read_text()
    lines = device_lines.read(tmp_path / "device.json")
    names = [part.name for part in device_check.PARTS if part.name not in device_check.TINY_TWICE]
    parts = [name for name in names if has_torch() or not name.startswith("torch-")]
    assert list(dict.fromkeys(line["part"] for line in lines)) == ["setup", *parts, "summary"]
    assert all(math.isfinite(number) for line in lines for number in numbers(line))
    assert all(line["passed"] for line in lines if "check" in line)
    of = {line["part"]: line for line in lines}
    steps = [name for name in parts if name in device_check.STEPS]
    for part in (name for name in parts if name.removeprefix("torch-") in steps):
        assert of[part]["images_per_second"] > 0 and of[part]["minibatch"] == 4
    assert all(of[part]["compiler_bytes"] == of[part]["predicted_bytes"] > 0 for part in steps)
    assert of["main"]["done"] is True and of["main"]["wall_seconds"] > 0
    assert {line["encoding"] for line in lines if line["part"] == "loader"} == {"raw", "delta"}
    assert of["summary"]["good"] is True and set(of["summary"]["parts"].values()) == {"done"}


def has_torch() -> bool:
    return device_check.importlib.util.find_spec("torch") is not None


def numbers(value):
    """All numbers in a line."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def good(path, name: str) -> list[str]:
    return python(f'open({str(path)!r}, \'a\').write(\'{{"part": "{name}", "value": 1}}\\n\')')


def test_parts_that_hang_fail_or_say_nothing_leave_a_line_and_the_rest_runs(tmp_path):
    path, alive = tmp_path / "device.json", tmp_path / "alive"
    child = f"import pathlib, time\nwhile True: pathlib.Path({str(alive)!r}).touch(); time.sleep(0.05)"
    hangs = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    planned = [
        (Part("hangs", "", 3.0), python(hangs)),
        (Part("fails", "", 30.0), python("print('before'); raise ValueError('no such thing')")),
        (Part("dies", "", 30.0), python("import os; os.kill(os.getpid(), 11)")),
        (Part("silent", "", 30.0), python("pass")),
        (Part("late", "", 30.0), [*good(path, "late")[:2], good(path, "late")[2] + "\nraise SystemExit(3)"]),
        (Part("good", "", 30.0), good(path, "good")),
    ]
    begin = time.monotonic()
    assert not device_check.run_all([(*each, dict(os.environ)) for each in planned], path, begin + 60)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    errors = {line["part"]: line["error"] for line in lines if "error" in line}
    assert errors["hangs"] == "stopped at its limit of 3 s"
    assert errors["fails"] == "exit code 1: ValueError: no such thing"
    assert errors["dies"].startswith("exit code -11")
    assert errors["silent"] == "ended without a result"
    assert errors["late"].startswith("exit code 3")
    assert {"part": "late", "value": 1} in lines and {"part": "good", "value": 1} in lines
    assert [name for name, state in lines[-1]["parts"].items() if state == "done"] == ["good"]
    alive.unlink()
    time.sleep(0.3)
    assert not alive.exists(), "what a part started was not ended with it"


def test_parts_without_time_left_say_so(tmp_path):
    path = tmp_path / "device.json"
    part = Part("good", "", 30.0)
    assert not device_check.run_all([(part, good(path, "good"), dict(os.environ))], path, time.monotonic() + 1)
    assert "no time left" in device_lines.read(path)[0]["error"]


def test_a_check_that_failed_or_a_number_that_is_not_finite_is_not_good(tmp_path):
    path = tmp_path / "device.json"
    for name, values in {"a": {"passed": True}, "b": {"passed": False}, "c": {"loss": math.nan}}.items():
        device_lines.write(path, {"part": name} | values)
    lines = device_lines.read(path)
    assert lines[-1] == {"part": "c", "loss": None, "error": "not finite: loss"}
    assert device_check.summed_up(["a"], lines)["good"]
    found = device_check.summed_up(["a", "b", "c", "d"], lines)
    assert found["parts"] == {"a": "done", "b": "failed", "c": "error", "d": "error"} and not found["good"]


def test_speeds_are_divided_by_those_of_pytorch_and_of_the_steps():
    lines = [
        {"part": "mae-S16", "images_per_second": 30.0},
        {"part": "torch-mae-S16", "images_per_second": 20.0},
        {"part": "resnet50", "images_per_second": 10.0},
        {"part": "loader", "encoding": "raw", "images_per_second": 60.0},
    ]
    found = device_check.summed_up(["mae-S16", "torch-mae-S16", "resnet50", "loader"], lines)
    assert found["over_pytorch"] == {"mae-S16": 1.5}
    assert found["loader_over_step"] == {"raw": {"mae-S16": 2.0, "resnet50": 6.0}}


def test_the_minibatch_is_the_largest_that_fits():
    memory = {8: 1000 + 8 * 10, 16: 1000 + 16 * 10}
    assert device_speed.largest_minibatch(memory, room=2000, most=1024) == (96, 1960)
    assert device_speed.largest_minibatch(memory, room=2000, most=64) == (64, 1640)
    with pytest.raises(RuntimeError, match="no minibatch fits"):
        device_speed.largest_minibatch(memory, room=900, most=64)


@pytest.mark.parametrize("flag", ["--bundle=nowhere", "--parts=nonsense"])
def test_mistakes_are_one_line(flag, tmp_path):
    command = [sys.executable, "benchmarks/device_check.py", flag, f"--json={tmp_path / 'device.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and done.stderr.startswith(f"error: {flag}") and done.stderr.count("\n") == 1


def test_no_part_may_take_the_time_of_all():
    assert all(part.seconds < device_check.SECONDS < 480 for part in device_check.PARTS)
