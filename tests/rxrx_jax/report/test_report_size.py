"""The page at its largest keeps to 10 MB: as many wells with thumbnails, runs and perturbations as it ever shows."""

import itertools
import json

import numpy as np
import pytest

from rxrx_jax.data.roles import ROLES
from rxrx_jax.report import __main__ as command
from rxrx_jax.report import maps, pictures, wells
from rxrx_jax.report.page import write_report
from rxrx_jax.report.table import Line
from rxrx_jax.simulate.design import Screen, sites
from rxrx_jax.simulate.render import render_site
from rxrx_jax.tables import Row, Run, Table

MOST, RUNS, CLASSES = 10_000_000, 4, 1_139


@pytest.fixture
def thumbnails():
    """WebP of simulated cells, as many different ones as take a second or two; as a page draws them."""
    screen, high = Screen(version="v2", image_size=48 * 2, treatments=16), np.array([51, 107, 64, 191, 89, 191])
    images = [render_site(screen, row) for row in sites(screen)[:: len(sites(screen)) // 30]]
    small = [image.reshape(48, 2, 48, 2, -1).mean((1, 3)) for image in images]
    return [wells._webp(pictures.composite(image, 0, high)) for image in small]


@pytest.mark.slow
def test_the_largest_page_keeps_to_ten_megabytes(tmp_path, monkeypatch, thumbnails):
    n, rng = wells.MOST, np.random.default_rng(0)
    assert np.mean([len(one) for one in thumbnails]) > 500  # as those of real cells: 584 bytes
    names = [f"HUVEC-{i % 24 + 1:02d}_{i // 24 % 4 + 1}_B{i // 96:02d}" for i in range(n)]
    role = np.array(list(ROLES))[[0, 3]][np.arange(n) % 2]
    columns = {
        "well_id": np.array(names), "perturbation": np.array([f"sirna_{i}" for i in rng.integers(CLASSES, size=n)]),
        "experiment": np.array([name.partition("_")[0] for name in names]), "role": role,
        "plate": np.array([name.split("_")[1] for name in names]), "cell_type": np.full(n, "HUVEC"),
        "well": np.array([name.rpartition("_")[2] for name in names]),
    }  # fmt: skip
    made = {}
    for i in range(RUNS):
        x = rng.normal(size=(n, 8)).astype(np.float32)
        near = rng.integers(n, size=(n, wells.NEAR)), rng.random((n, wells.NEAR))
        called = columns["perturbation"][rng.permutation(n)]
        made[f"run-{i}"] = wells.Wells(columns, x, called, "the network", near, 125_510)
        folder = tmp_path / f"run-{i}"
        folder.mkdir()
        for name in ("embeddings.parquet", "config.json"):
            (folder / name).write_text("{}")
        lines = [{"step": s, "loss": 1 / s, "accuracy": 0.5} for s in range(1, 2000)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(wells, "read", lambda workdir: made[workdir.name])
    monkeypatch.setattr(wells, "dataset_of", lambda config: object())
    monkeypatch.setattr(wells, "intensities", lambda dataset: (rng.normal(size=(n, 6)), [f"c{i}" for i in range(6)]))
    monkeypatch.setattr(
        wells, "thumbnails", lambda dataset, ids: list(itertools.islice(itertools.cycle(thumbnails), n))
    )
    monkeypatch.setattr(pictures, "tsne", lambda x: rng.normal(size=(n, 2)))
    monkeypatch.setattr(maps, "_plates", lambda shown, dataset: {
        f"quantity {i}": {f"HUVEC-{e:02d}": rng.random((32, 48)) for e in range(51)} for i in range(RUNS + 6)
    })  # fmt: skip
    table = Table(
        title="T", labels=("method",), columns=command.COLUMNS, rows=[Row((name,), name) for name in made],
        runs=[Run(name, "x.py") for name in made],
    )  # fmt: skip
    lines = [Line(i, row, 0, "", [command.columns.Cell() for _ in command.COLUMNS])
             for i, row in enumerate(table.rows, 1)]  # fmt: skip
    write_report(tmp_path / "report.html", table, [], lines, {name: [tmp_path / name] for name in made}, "c")
    size = (tmp_path / "report.html").stat().st_size
    text = (tmp_path / "report.html").read_text()
    assert text.count("confusions of run-") >= RUNS and text.count("UklGR") == n
    assert size < MOST, f"{size / 1e6:.1f} MB"
