"""Embeddings for other tools: the same numbers and rows in every format, and what the tools themselves make of them."""

import importlib
import json
import sys

import numpy as np
import pandas
import pytest

from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import exchange

N, DIM = 48, 5
ODD = 'a, "b"\n=c'  # text that csv must quote
METADATA = {b"rxrx_jax": b'{"crop": 16}', embeddings.MARKS: b"T", embeddings.SEEN: b"AAAA"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An embeddings file of two experiments whose plates have the same numbers."""
    row = np.arange(N)
    experiment = np.where(row < N // 2, "HUVEC-01", "HUVEC-02")
    plate = 1 + row % (N // 2) // 12
    columns = {
        "split": np.where(row % 2, "test", "train"),
        "site_id": np.array([f"{e}_{p}_B{i % 12 + 1:02d}_1" for e, p, i in zip(experiment, plate, row)]),
        "well_id": np.array([f"{e}_{p}_B{i % 12 + 1:02d}" for e, p, i in zip(experiment, plate, row)]),
        "experiment": experiment,
        "plate": plate.astype(np.int32),
        "well": np.array([f"B{i % 12 + 1:02d}" for i in row]),
        "site": np.ones(N, np.int32),
        "well_type": np.where(row % 4, "treatment", "negative_control"),
        "perturbation": np.array([ODD if i == 3 else f"s{i % 4}" for i in row]),
        "perturbation_id": (row % 4).astype(np.int32),
    }
    path = tmp_path_factory.mktemp("exchange") / "embeddings.parquet"
    embedding = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
    embeddings.write(path, columns, embedding, METADATA)
    return path


@pytest.fixture(scope="module")
def written(source):
    """By (suffix, names): the file."""
    found = {}
    for suffix in exchange.SUFFIXES:
        for names in exchange.NAMES:
            found[suffix, names] = source.with_name(f"{names}{suffix}")
            if suffix == ".h5ad":
                pytest.importorskip("anndata", reason="anndata is not installed")
            exchange.write(source, found[suffix, names], names)
    return found


def frame(path) -> pandas.DataFrame:
    if path.suffix == ".parquet":
        return pandas.read_parquet(path)
    return pandas.read_csv(path, dtype={"embedding_0": np.float32}, keep_default_na=False)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("names, start", [("rxrx_jax", "embedding_"), ("cytominer", "Image_Embedding_")])
def test_wide_tables_hold_every_value_and_text(source, written, suffix, names, start):
    columns, embedding = embeddings.read(source)
    found = frame(written[suffix, names])
    values = found[[f"{start}{i}" for i in range(DIM)]].to_numpy(np.float32)
    np.testing.assert_array_equal(values, embedding)  # to the bit, also as text
    perturbation = "perturbation" if names == "rxrx_jax" else "Metadata_Perturbation"
    assert found[perturbation].tolist() == columns["perturbation"].tolist() and ODD in set(found[perturbation])
    assert len(found.columns) == len(columns) + DIM


def test_names_of_cytominer(written):
    found = frame(written[".parquet", "cytominer"])
    about = {name for name in found.columns if not name.startswith("Image_Embedding_")}
    assert about == {
        *(
            "Metadata_Split",
            "Metadata_SiteId",
            "Metadata_WellId",
            "Metadata_Batch",
            "Metadata_Plate",
            "Metadata_Well",
        ),
        *("Metadata_Site", "Metadata_WellType", "Metadata_Perturbation", "Metadata_PerturbationId"),
    }
    assert set(found["Metadata_Plate"]) == {f"HUVEC-0{e}_{p}" for e in (1, 2) for p in (1, 2)}  # no two alike


@pytest.mark.parametrize("names", exchange.NAMES)
def test_anndata_reads_it(source, written, names):
    import anndata

    columns, embedding = embeddings.read(source)
    found = anndata.read_h5ad(written[".h5ad", names])
    np.testing.assert_array_equal(found.X, embedding)
    assert found.obs_names.tolist() == columns["site_id"].tolist() and found.X.dtype == np.float32
    key = "experiment" if names == "rxrx_jax" else "Metadata_Batch"
    assert found.obs[key].astype(str).tolist() == columns["experiment"].tolist()
    assert {key: value for key, value in found.uns.items()} == {k.decode(): v.decode() for k, v in METADATA.items()}


def test_what_made_a_file_is_read_back(written, tmp_path):
    for names in exchange.NAMES:
        assert json.loads(exchange.made_by(written[".h5ad", names], b"rxrx_jax")) == {"crop": 16}
        assert json.loads(exchange.made_by(written[".parquet", names], b"rxrx_jax")) == {"crop": 16}
        assert exchange.made_by(written[".csv", names], b"rxrx_jax") is None
    assert b"ARROW:schema" not in {k for k in exchange._metadata(written[".parquet", "cytominer"])}
    for suffix in (".h5ad", ".parquet"):
        (tmp_path / f"a{suffix}").write_text("something else")
        with pytest.raises(UserError, match="exists and cannot be read"):
            exchange.made_by(tmp_path / f"a{suffix}", b"rxrx_jax")


def test_other_suffixes_and_a_missing_package(tmp_path, monkeypatch):
    for name in ("a", "a.npz", "a.tsv", "a.parquet.gz"):
        with pytest.raises(UserError, match=r"expected a file named \*.parquet, \*.h5ad, \*.csv"):
            exchange.check(tmp_path / name)
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(UserError, match=r"anndata is not installed; .*pip install 'rxrx_jax\[anndata\]'"):
        exchange.check(tmp_path / "a.h5ad")
    exchange.check(tmp_path / "a.csv")


def library(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed ({error})")


def test_pycytominer_normalises_and_aggregates_it(written):
    library("pycytominer")
    from pycytominer import aggregate, normalize

    for suffix in (".parquet", ".csv"):
        path = str(written[suffix, "cytominer"])
        found = normalize(
            path, features="infer", image_features=True, samples="Metadata_WellType == 'negative_control'"
        )
        values = [name for name in found.columns if name.startswith("Image_Embedding_")]
        assert len(values) == DIM and len(found) == N
        controls = found[found["Metadata_WellType"] == "negative_control"][values].to_numpy()
        np.testing.assert_allclose(controls.mean(0), 0, atol=1e-6)
    plates = aggregate(found, strata=["Metadata_Plate"], features=values, operation="mean")
    assert len(plates) == 4


def test_copairs_scores_it(written):
    library("copairs")
    from copairs import map as scores

    found = frame(written[".parquet", "cytominer"])
    values = found[[name for name in found.columns if name.startswith("Image_Embedding_")]].to_numpy()
    about = found[[name for name in found.columns if name.startswith("Metadata_")]]
    result = scores.average_precision(
        about, values, ["Metadata_PerturbationId"], ["Metadata_Batch"], [], ["Metadata_PerturbationId"]
    )
    assert len(result) == N and result["average_precision"].between(0, 1).all()
