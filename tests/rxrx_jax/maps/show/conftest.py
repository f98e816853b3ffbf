"""A small map that the questions and the page are tested with."""

import json

import numpy as np
import pytest

from rxrx_jax.base import embeddings
from rxrx_jax.maps import folder

DOSES = np.array([0.1, 1.0, 10.0])


@pytest.fixture(scope="package")
def found(tmp_path_factory):
    """A map of 60 genes, of which G1 has two guides and is the opposite of G0, and of compounds that inhibit G0 (drug)
    or do nothing (inert)."""
    path = tmp_path_factory.mktemp("query")
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 12))
    x[1] = -x[0]
    guides = np.concatenate([np.arange(60), [1]])
    features = np.concatenate(
        [x[guides], DOSES[:, None] * -x[0] / 5 + random.normal(size=(3, 12)) * 0.3, random.normal(size=(3, 12))]
    )
    n, drugs = len(features), ["drug"] * 3 + ["inert"] * 3
    columns = {
        "perturbation": np.array([f"G{i}_guide_{int(k >= 60)}" for k, i in enumerate(guides)] + drugs, object),
        "kind": np.array(["gene"] * 61 + ["compound"] * 6, object),
        "gene": np.array([f"G{i}" for i in guides] + [""] * 6, object),
        "guide": np.array([str(int(k >= 60)) for k in range(61)] + [""] * 6, object),
        "concentration_um": np.concatenate([np.full(61, np.nan), DOSES, DOSES]),
        "n_replicates": np.full(n, 4, np.int32), "n_batches": np.full(n, 2, np.int32),
    }  # fmt: skip
    embeddings.write(path / "map.parquet", columns, features.astype(np.float32))
    (path / "build.json").write_text(json.dumps({"marks": ""}))
    return folder.read(path)
