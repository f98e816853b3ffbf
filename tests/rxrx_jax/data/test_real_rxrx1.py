"""Real RxRx1 pixels through the whole path: records, two MAE steps, an embedding. Skips where the data is missing."""

import numpy as np
import pytest
import tiny

from rxrx_jax.base import embeddings
from rxrx_jax.training import metrics, train
from tfds_builders import prepare


@pytest.mark.slow
def test_real_sites_to_records_to_two_mae_steps_and_an_embedding(shared_data, tmp_path):
    folder = prepare.prepare("rxrx1", source=shared_data / "rxrx1" / "published", out=tmp_path, progress=False)
    assert prepare.split_sizes(folder) == {"train": 8, "id_test": 0, "val": 2, "test": 0}
    report = (folder / "report.html").read_text()
    assert prepare.details(folder)["set_aside"] == 10 and report.count("missing w5, w6") >= 10

    values = tiny.values("mae_vit.py:rxrx1,variant=XXS/16", tmp_path, **{"data.builder": {}, "augment.crop": 256})
    last = train.run(values, tmp_path / "run")
    loss, found, _ = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert last["step"] == 2 and np.isfinite(loss["loss"]) and found["reconstruction/validation/loss"] > 0
    columns, embedding = embeddings.read(tmp_path / "run")
    assert embedding.shape == (10, 96) and np.isfinite(embedding).all()
    assert sorted(columns["split"]) == ["train"] * 8 + ["val"] * 2
    assert (embedding.std(0) > 0).any()  # sites differ
