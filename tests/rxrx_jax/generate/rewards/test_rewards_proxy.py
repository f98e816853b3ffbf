"""The sEH proxy against PyTorch, stored for random and published weights; reading weights; measured activities."""

import gzip
import os
import pickle

import numpy as np
import pytest
from reference.peers.generate import seh as torch_seh

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.rewards import proxy, seh


@pytest.fixture(scope="module")
def stored():
    with np.load(torch_seh.PATH) as found:
        return dict(found)


@pytest.fixture(scope="module")
def random_weights():
    return torch_seh.weights()


def test_of_random_weights_it_is_pytorchs(stored, random_weights):
    """100 molecules, salts, lone atoms and heavy elements among them."""
    found = proxy.predict(random_weights, stored["smiles"].tolist())
    assert len(found) == 100 and np.ptp(stored["random"]) > 0.1
    np.testing.assert_allclose(found, stored["random"], rtol=0, atol=1e-4)


def test_of_the_published_weights_it_is_pytorchs(stored, shared_data):
    path = shared_data / "molecules" / "seh_proxy.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    weights, smiles = proxy.load(path), stored["smiles"].tolist()
    found = proxy.predict(weights, smiles)
    np.testing.assert_allclose(found, stored["published"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(proxy.objective(weights, smiles), np.clip(found / 8, 0, 1), rtol=0, atol=1e-12)


def test_it_is_pytorchs_live(stored, random_weights):
    pytest.importorskip("torch", reason="PyTorch is not installed; its results are stored")
    found = torch_seh.run(random_weights, stored["smiles"][:12].tolist())
    np.testing.assert_allclose(found, stored["random"][:12], rtol=0, atol=1e-5)


def test_bad_molecules(random_weights):
    for smiles, message in (("[U]", r"\[U\] has U"), ("C1CC", "invalid SMILES"), ("[NH3]->[Cu]", "kind DATIVE")):
        with pytest.raises(UserError, match=message):
            proxy.graphs(["CC", smiles])
    bad = random_weights | {"p21": np.full(1, np.nan, np.float32)}
    with pytest.raises(UserError, match="objective seh of CC is nan"):
        proxy.objective(bad, ["CC"])
    assert proxy.predict(random_weights, []).shape == (0,)


def test_a_pickle_is_converted_and_read(tmp_path, capsys, random_weights):
    source, out = tmp_path / "best_params.pkl.gz", tmp_path / "seh.npz"
    for protocol in (2, 4, 5):
        with gzip.open(source, "wb") as file:
            pickle.dump(list(random_weights.values()), file, protocol=protocol)
        assert command.run(seh.main, ["convert", str(source), str(out)]) == 0
    assert "22 arrays" in capsys.readouterr().out
    loaded = proxy.load(out)
    assert loaded.keys() == proxy.SHAPES.keys()
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, random_weights[name])


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


def test_what_is_not_arrays_is_not_read(tmp_path, monkeypatch, random_weights):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pkl"
    arrays = list(random_weights.values())
    for content, message in (
        ([np.zeros(3), Evil()], r"x.pkl names \w+.mkdir, which an array does not need"),
        ({"p0": 1}, "holds a dict: expected a list of arrays"),
        ([np.array([Evil])], "names "),
        (arrays[:3], "has no array p3"),
        ([array[:1] for array in arrays], r"p0 has the shape \(1, 71\), the sEH proxy's has \(64, 71\)"),
        ([array * np.nan for array in arrays], "p0 has values that are not finite"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=message):
            seh.convert(path, tmp_path / "out.npz")
    assert not (tmp_path / "made_by_a_pickle").exists() and not (tmp_path / "out.npz").exists()
    path.write_bytes(b"nothing")
    for name, message in ((path, "damaged or not a pickle"), (tmp_path / "absent", "no such file")):
        with pytest.raises(UserError, match=message):
            seh.read(name)
        with pytest.raises(UserError, match="not an .npz|no such file"):
            proxy.load(name)


def test_activities_are_medians_of_exact_ic50(tmp_path, random_weights, capsys):
    table, weights = tmp_path / "chembl.csv", tmp_path / "w.npz"
    rows = [("CCO", "5", "IC50", "'='"), ("OCC", "7", "IC50", "'='"), ("CCC", "8", "IC50", "'>'")]
    rows += [("CCC", "", "IC50", "'='"), ("CCN", "9", "Ki", "'='"), ("CCCC", "4.5", "IC50", "'='")]
    table.write_text(";".join(seh.COLUMNS) + "\n" + "".join(";".join(row) + "\n" for row in rows))
    assert seh.activities(table) == {"CCO": 6.0, "CCCC": 4.5}
    np.savez(weights, **random_weights)
    assert command.run(seh.main, ["compare", str(weights), str(table)]) == 0
    assert "2 molecules: Spearman" in capsys.readouterr().out
    table.write_text("Smiles,value\nC,1\n")
    with pytest.raises(UserError, match="has no column 'Smiles'"):
        seh.activities(table)
