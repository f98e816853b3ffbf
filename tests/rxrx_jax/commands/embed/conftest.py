"""Two runs, the dataset that they are of, and an embeddings file: made once for all tests of embedding."""

import pytest
import tiny
import weights_tools
from weights_tools import embed_into

from rxrx_jax import data

AGNOSTIC = {"model.channel_agnostic": True, "normalisation": "image"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Runs: plain (crop 16, plate statistics) and agnostic, of a prepared dataset with images of 32 pixels."""
    folder = tmp_path_factory.mktemp("embed")
    weights_tools.make_run(folder / "plain", folder)
    weights_tools.make_run(folder / "agnostic", folder, seed=1, **AGNOSTIC)
    return folder


@pytest.fixture(scope="session")
def dataset(folder):
    builder = tiny.values("mae_vit.py", folder)["data"]["builder"]
    return data.open_dataset("rxrx_sim", builder, str(folder))


@pytest.fixture(scope="session")
def plain(folder, dataset):
    """The embeddings file of the plain run."""
    assert embed_into(folder / "plain", dataset.folder, folder / "plain.parquet") == 0
    return folder / "plain.parquet"
