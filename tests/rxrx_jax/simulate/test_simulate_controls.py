"""Untreated wells of the simulated screen have the pixel statistics of real ones, within what real ones vary."""

import csv

import numpy as np
import pytest

from rxrx_jax.simulate.controls import STATISTICS, main, of_screen, statistics
from rxrx_jax.simulate.screen import Screen

CORRELATION, SKEWNESS, PLATES, EXPERIMENTS = STATISTICS
# Of ten wells of HepG2 and RPE, RxRx1: the least and the most of a cell type's mean, of a channel, of an experiment.
REAL = {CORRELATION: (0.50, 0.77), SKEWNESS: (0.6, 2.5), PLATES: (0.03, 0.34), EXPERIMENTS: (0.19, 1.96)}


def test_statistics_of_constructed_images():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((6, 64, 64, 1))
    images = 100 + 10 * np.concatenate([plane, -plane, rng.standard_normal((6, 64, 64, 1))], -1)
    level = np.array([1.0, 1.0, 2.0, 2.0, 8.0, 8.0])
    experiments = np.array(["A-01", "A-01", "A-02", "A-02", "B-01", "B-01"])
    found = statistics(images * level[:, None, None, None], experiments, np.array([1, 2, 1, 2, 1, 1]))
    assert found[CORRELATION][0] == pytest.approx(-1 / 3, abs=0.01)
    np.testing.assert_allclose(found[SKEWNESS], 0, atol=0.1)
    np.testing.assert_allclose(found[PLATES], 0, atol=0.01)
    np.testing.assert_allclose(found[EXPERIMENTS], np.log(2), atol=0.01)  # no two of B


def test_real_wells_are_within_the_anchors(shared_data):
    from PIL import Image

    root = shared_data / "rxrx1" / "published"
    if not (root / "metadata.csv").exists():
        pytest.skip(f"no {root / 'metadata.csv'}")
    with (root / "metadata.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["site"] == "1"]

    def read(row, channel):
        path = root / "images" / row["experiment"] / f"Plate{row['plate']}" / f"{row['well']}_s1_w{channel}.png"
        with Image.open(path) as image:
            return np.asarray(image)

    images = np.stack([np.stack([read(row, c) for c in range(1, 7)], -1) for row in rows])
    found = statistics(images, np.array([r["experiment"] for r in rows]), np.array([r["plate"] for r in rows]))
    for name, (low, high) in REAL.items():
        assert (found[name] > low).all() and (found[name] < high).all(), name


def test_simulated_wells_are_within_the_anchors():
    found = of_screen(Screen(seed=100))
    for name, (low, high) in REAL.items():
        assert (found[name] > low).all() and (found[name] < high).all(), name


def test_the_command_prints_them(capsys):
    main(["--set", "train=SIMA-01", "plates=1", "treatments=4"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(name) for line, name in zip(lines, STATISTICS)] == [True] * 4
    assert len(lines[0].split()) - len(STATISTICS[0].split()) == 1 and "nan" in lines[2]
