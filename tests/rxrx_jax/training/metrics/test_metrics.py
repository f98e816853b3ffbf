"""metrics.jsonl after a restart and after damage, the clock, and the progress line."""

import math

import jax
import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics
from rxrx_jax.training.metrics import Clock, Trace, Writer, finished, first_line, measure_loader, progress_line, read


def write(folder, step, *lines, **kwargs):
    with Writer(folder, step, **kwargs) as writer:
        for at, values in lines:
            writer.write(at, values)
    return folder / "metrics.jsonl"


def test_lines_come_back(tmp_path):
    path = write(tmp_path, 0, (1, {"loss": 0.5}), (2, {"loss": 0.25, "name": "x", "final": True}))
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25, "name": "x", "final": true}\n'
    assert read(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "name": "x", "final": True}]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with Writer(tmp_path, 0) as writer:
        writer.write(1, {"loss": 0.5})
        assert len(read(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_numbers_that_are_not_finite_become_null(tmp_path, value):
    path = write(tmp_path, 0, (1, {"loss": value, "accuracy": 0.5}))
    assert path.read_text() == '{"step": 1, "loss": null, "accuracy": 0.5}\n'
    assert read(write(tmp_path, 1))[0]["loss"] is None  # also after a restart


def test_a_restart_drops_the_lines_after_its_checkpoint(tmp_path):
    write(tmp_path, 0, *((step, {"loss": 1.0 / step}) for step in (10, 20, 30, 40)))
    path = write(tmp_path, 20, (30, {"loss": 0.0}))
    assert [(line["step"], line["loss"]) for line in read(path)] == [(10, 0.1), (20, 0.05), (30, 0.0)]
    assert [line["step"] for line in read(write(tmp_path, 0, (10, {})))] == [10]  # from the beginning: a fresh file
    assert not list(tmp_path.glob("*.tmp"))


def test_a_half_written_last_line_is_ignored_and_goes_with_the_restart(tmp_path):
    path = write(tmp_path, 0, (10, {"loss": 1.0}), (20, {"loss": 2.0}))
    path.write_text(path.read_text() + '{"step": 30, "lo')
    assert [line["step"] for line in read(path)] == [10, 20]
    assert finished(path) is None
    write(tmp_path, 20, (30, {"loss": 3.0}))
    assert [line["step"] for line in read(path)] == [10, 20, 30]


def test_once_after_200_steps_a_run_says_how_long_all_of_it_takes(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock, found = Clock(16, 1000, flops_per_image=3e9), {}
    clock.start(1)
    for step in range(51, 500, 50):
        now[0] += 50 * 0.5 * (1 if step < 250 else 3)  # slower ones that come later do not count
        found[step] = clock.tick(step).get("device_hours")
    assert found.pop(201) == pytest.approx(1000 * 0.5 * jax.device_count() / 3600)
    assert set(found.values()) == {None}
    metrics.estimate_line(1000, 16, 3e9, {"device_hours": 2.5})
    said = capsys.readouterr().err
    assert said.startswith("measured: the whole run of 1,000 steps takes 2.5 device hours (")
    assert "and 4.8e+13 FLOP, evaluation not counted" in said


def test_a_damaged_line_in_the_middle_is_refused(tmp_path):
    path = write(tmp_path, 0, (10, {"loss": 1.0}), (20, {"loss": 2.0}))
    path.write_text("{oops\n".join(path.read_text().splitlines(keepends=True)))
    with pytest.raises(UserError, match=r"metrics.jsonl:2 is not JSON"):
        read(path)
    with pytest.raises(UserError, match=r"metrics.jsonl:2"):
        Writer(tmp_path, 20)


def test_finished(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert finished(path) is None
    write(tmp_path, 0)
    assert finished(path) is None
    write(tmp_path, 0, (10, {"loss": 1.0}))
    assert finished(path) is None
    write(tmp_path, 10, (10, {"done": True}))
    assert finished(path) == {"step": 10, "done": True}


def test_other_hosts_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    path = write(tmp_path, 0, (1, {"loss": 0.5}))
    assert not path.exists()


@pytest.fixture
def wait(monkeypatch):
    """A clock that only moves by `wait(seconds)`."""
    now = [1000.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_clock(wait):
    clock = Clock(minibatch=16, total_steps=100, flops_per_image=3e9)
    wait(50)  # compilation is not training
    clock.start(1)
    wait(4)
    clock.waited(1)
    clock.waited(0.5)
    rates = clock.tick(11)
    assert rates == {
        "images_per_second": 40,  # 160 images in 4 s
        "images_per_second_per_chip": 40 / jax.device_count(),
        "teraflops_per_chip": 40 / jax.device_count() * 3e9 / 1e12,
        "data_wait": 1.5 / 4,
        "eta_seconds": 89 * 16 / 40,
        "train_seconds": 4,
    }
    wait(1)
    with clock.pause(np.zeros(1)):
        wait(1000)  # evaluation is not training either
    wait(1)
    rates = clock.tick(21)
    assert (rates["images_per_second"], rates["data_wait"], rates["train_seconds"]) == (80, 0, 6)
    assert clock.carry()["train_seconds"] == 6


def test_clock_carries_over_a_restart(wait):
    clock = Clock(16, 100, carried={"train_seconds": 60.0})
    with clock.pause(np.zeros(1)):  # an evaluation before the first step
        wait(7)
    clock.start(51)
    wait(2)
    assert clock.tick(61)["train_seconds"] == 62


def test_progress_line(capsys):
    values = {
        "loss": 1.23456,
        "images_per_second": 1234.5,
        "images_per_second_per_chip": 617.2,
        "data_wait": 0.012,
    }
    progress_line(50, 200, values | {"eta_seconds": 125.4})
    line = "step 50/200  25% | loss 1.2346 | 1234 images/s (617 per chip) | data wait 1.2% | ETA 2:05\n"
    assert capsys.readouterr().err == line


def test_the_share_of_the_peak_is_in_metrics_and_line_where_the_peak_is_known(wait, capsys):
    clock = Clock(minibatch=16, total_steps=100, flops_per_image=3e9, peak=1e12)
    clock.start(1)
    wait(4)
    rates = clock.tick(11)  # 40 images per second
    assert rates["mfu"] == pytest.approx(40 * 3e9 / 1e12 / jax.device_count())
    assert rates["teraflops_per_chip"] == pytest.approx(0.12 / jax.device_count())
    progress_line(11, 100, rates | {"loss": 1.0, "images_per_second_per_chip": 40, "mfu": 0.1234})
    assert "(40 per chip) | MFU 12.3% | data wait" in capsys.readouterr().err


def test_the_first_line_says_what_a_run_needs(capsys, monkeypatch):
    about = {"parameters": 48_090_000, "flops_per_image": 52.14e9, "memory_per_chip": 3 * 2**30 + 2**29}
    first_line(about)
    line = "48.09 M parameters | 52.14 GFLOPs per image | 3.50 GiB per chip during a step\n"
    assert capsys.readouterr().err == line
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    first_line(about)
    assert not capsys.readouterr().err


def test_the_loader_is_measured_without_what_was_read_ahead(wait, tmp_path, capsys, monkeypatch):
    def minibatches():
        for seconds in (100, 0, 0, 0, 0, 1, 1, 2):
            wait(seconds)
            yield {}

    monkeypatch.setattr(jax, "process_count", lambda: 2)  # this host reads half
    last = measure_loader(minibatches(), tmp_path, total_steps=8, minibatch=32, every=2)
    assert last == {"step": 8, "done": True, "images_per_second": 3 * 16 / 4}
    rates = [{"step": 6, "images_per_second": 16.0}, {"step": 8, "images_per_second": 12.0}]
    assert read(tmp_path / "metrics.jsonl") == [*rates, last]
    said = capsys.readouterr().err.splitlines()
    assert said == ["minibatch 6/8 | 16 images/s read", "minibatch 8/8 | 12 images/s read"]


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_measurement_of_the_loader_ends(steps, wait, tmp_path):
    measure_loader((wait(2) for _ in range(steps)), tmp_path, total_steps=steps, minibatch=32, every=None)
    assert finished(tmp_path / "metrics.jsonl") == {"step": steps, "done": True, "images_per_second": 16.0}


@pytest.mark.parametrize(
    "steps, ran, traced", [((2, 4), (0, 6), [2, 3]), ((2, 4), (3, 6), [3]), ((4, 9), (0, 6), [4, 5]), ((), (0, 6), [])]
)
def test_the_profile_is_of_the_steps_asked_for(steps, ran, traced, tmp_path, monkeypatch):
    """Also when a run resumes in their middle, or ends there."""
    state = {"open": False}
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: state.update(open=True, folder=folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: state.update(open=False))
    found = []
    with Trace(tmp_path, steps) as trace:
        for step in range(*ran):
            trace.before(step, ())
            found += [step] * state["open"]
    assert found == traced and state["open"] is False and state.get("folder", tmp_path) == tmp_path


def test_processor_time_adds_up_over_restarts():
    first = Clock(1, 10).carry()["cpu_seconds"]
    again = Clock(1, 10, carried={"train_seconds": 0.0, "cpu_seconds": 100.0}).carry()["cpu_seconds"]
    assert 0 < first and 100 + first <= again < 100 + first + 5
