"""Every dataset trains by its name: five channels, JPEG 2000 kept in the records, 16 bits mapped to 8."""

import numpy as np
import pytest
import tiny

from rxrx_jax.base import embeddings
from rxrx_jax.simulate import layouts
from rxrx_jax.simulate.screen import Screen
from rxrx_jax.training import metrics, train
from tfds_builders import prepare

WRITERS = {"rxrx19a": layouts.write_rxrx19a, "rxrx3": layouts.write_rxrx3, "rxrx3_core": layouts.write_rxrx3_core}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "rxrx19a")) for name in WRITERS]
)
def test_a_prepared_dataset_trains_by_its_name(tmp_path, name):
    WRITERS[name](Screen(**{**tiny.SCREEN, "plates": 1}), tmp_path / "tree")
    folder = prepare.prepare(name, tmp_path / "tree", tmp_path / "data", 1, progress=False)
    values = tiny.values("mae_vit.py:variant=XXS/16", tmp_path / "data", **{"data.name": name, "data.builder": {}})
    last = train.run(values, tmp_path / "run")
    assert last["done"] and last["step"] == 2
    loss = metrics.read(tmp_path / "run" / "metrics.jsonl")[0]
    assert np.isfinite(loss["loss"])
    columns, embedding = embeddings.read(tmp_path / "run")
    assert len(embedding) == sum(prepare.split_sizes(folder).values()) and np.isfinite(embedding).all()
    assert set(columns["split"]) == {"train", "val", "test"}
