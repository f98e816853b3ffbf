"""Selection, minibatches, and that evaluation sees each example once."""

import jax
import numpy as np
import pytest
import tiny

from rxrx_jax import data
from rxrx_jax.errors import UserError
from rxrx_jax.simulate import layouts
from rxrx_jax.simulate.screen import Screen, render_site, sites
from tfds_builders import prepare

SCREEN = Screen(**tiny.SCREEN)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return data.open_dataset("rxrx_sim", tiny.SCREEN, str(tmp_path_factory.mktemp("data")))


def test_records_table_and_statistics_belong_together(dataset):
    rows = {row["site_id"]: row for row in sites(SCREEN)}
    chosen = np.random.default_rng(0).permutation(len(dataset.sites))[:20]
    minibatch = data.read_minibatch(dataset, dataset.sites, chosen)
    for lane, row in enumerate(chosen):
        truth = rows[dataset.sites.site_id[row]]
        np.testing.assert_array_equal(minibatch["image"][lane], render_site(SCREEN, truth))
        assert minibatch["label"][lane] == truth["perturbation_id"]
        assert dataset.experiments[minibatch["experiment"][lane]] == truth["experiment"]
        assert dataset.plates[minibatch["plate"][lane]] == f"{truth['experiment']}/{truth['plate']}"
        assert dataset.cell_types[minibatch["cell_type"][lane]] == truth["cell_type"]
    plate = np.flatnonzero(dataset.sites.plate == 3)
    pixels = data.read_minibatch(dataset, dataset.sites, plate)["image"].astype(np.float64)
    np.testing.assert_allclose(dataset.mean["plate"][3], pixels.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(dataset.std["plate"][3], pixels.std((0, 1, 2)), rtol=1e-5)


def test_selection_by_every_criterion(dataset):
    table = dataset.sites
    rows = data.select(
        dataset, splits=("train", "test"), experiments=["SIMA-01", "SIMB-02"], well_types="treatment", sites=1
    )
    expected = [
        i
        for i in range(len(table))
        if table.split[i] in ("train", "test")
        and dataset.experiments[table.experiment[i]] in ("SIMA-01", "SIMB-02")
        and table.well_type[i] == "treatment"
        and table.site[i] == 1
    ]
    assert rows.tolist() == expected and len(rows) > 0
    cells = data.select(dataset, cell_types=("SIMB",))
    assert {dataset.cell_types[c] for c in table.cell_type[cells]} == {"SIMB"}
    assert len(data.select(dataset)) == len(table)
    with pytest.raises(UserError, match="experiments='SIMX-01': the dataset has SIMA-01"):
        data.select(dataset, experiments=("SIMX-01",))


@pytest.mark.parametrize("size", [1, 7, 16, 1000])
def test_evaluation_sees_each_example_exactly_once(dataset, size):
    rows = data.select(dataset, splits="test")
    seen = []
    for minibatch in data.evaluation_minibatches(dataset, rows, size):
        assert len(minibatch["image"]) == size
        assert (minibatch["row"][~minibatch["valid"]] == -1).all() and not minibatch["image"][~minibatch["valid"]].any()
        seen += minibatch["row"][minibatch["valid"]].tolist()
    assert seen == rows.tolist()


def test_a_minibatch_is_a_function_of_seed_and_step_on_any_number_of_hosts(dataset, monkeypatch):
    rows = data.select(dataset, splits="train")

    def minibatches(start, seed=0):
        samplers = [
            data.make_sampler(dataset, rows, 8, "experiment", 0, seed),
            data.make_sampler(dataset, data.select(dataset, splits="val"), 4, "plate", 2, seed),
        ]
        return [m["row"] for m in data.training_minibatches(dataset, samplers, 12, start)]

    whole = minibatches(0)
    assert len(whole) == 12
    np.testing.assert_array_equal(whole[5:], minibatches(5))  # resumed
    assert not np.array_equal(whole, minibatches(0, seed=1))

    parts = []
    for host in range(2):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts.append(minibatches(0))
    for step in range(12):
        both = np.concatenate([parts[0][step], parts[1][step]])
        assert sorted(both) == sorted(whole[step]) and len(parts[0][step]) == 6


def test_hidden_labels(dataset):
    hidden = data.hide_labels(dataset.sites)
    train = dataset.sites.split == "train"
    np.testing.assert_array_equal(hidden.label[train], dataset.sites.label[train])
    assert (hidden.label[~train] == -1).all() and (dataset.sites.label >= 0).all()


def test_a_missing_dataset_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match="python -m tfds_builders.prepare rxrx1 --source=FOLDER_OF_IMAGES --out="):
        data.open_dataset("rxrx1", {}, str(tmp_path))
    with pytest.raises(UserError, match="layout='fixd'"):
        data.open_dataset("rxrx_sim", {"layout": "fixd"}, str(tmp_path))
    with pytest.raises(UserError, match="no dataset is called 'rxrx9'"):
        data.open_dataset("rxrx9", {}, str(tmp_path))


def test_16_bit_records_are_refused_in_one_line(tmp_path):
    layouts.write_rxrx3(Screen(image_size=32, treatments=4, plates=1, train=("SIMA-01",), val=(), test=()), tmp_path)
    folder = prepare.prepare("rxrx3", tmp_path, tmp_path / "out", progress=False, bits=16)
    with pytest.raises(UserError, match="16-bit images .* prepare it without bits=16"):
        data.read_dataset(folder)


@pytest.mark.parametrize("encoding", ["delta", "zstd", "raw"])
def test_minibatches_do_not_depend_on_the_encoding(tmp_path, encoding):
    settings = dict(image_size=32, treatments=4, plates=1, train=("SIMA-01",), val=(), test=())
    folder = prepare.prepare("rxrx_sim", out=tmp_path, progress=False, encoding=encoding, **settings)
    dataset = data.read_dataset(folder)
    rows = {row["site_id"]: row for row in sites(Screen(**settings))}
    minibatch = data.read_minibatch(dataset, dataset.sites, np.array([3, 1, 40]))
    for image, row in zip(minibatch["image"], [3, 1, 40]):
        expected = render_site(Screen(**settings), rows[dataset.sites.site_id[row]])
        assert np.array_equal(image, expected)
