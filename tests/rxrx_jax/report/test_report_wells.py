"""rxrx_jax.report.wells and .maps: what is known of each well, and the page of one run."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rxrx_jax.base import embeddings as embeddings_file
from rxrx_jax.base.page.explorer import SIZE
from rxrx_jax.report import __main__ as command
from rxrx_jax.report import maps, plots, wells


@pytest.fixture(scope="module")
def read(explored):
    return wells.read(explored.run)


def test_a_well_is_the_mean_of_its_sites(explored, read):
    sites, scored = explored.dataset.sites, np.isin(explored.dataset.sites.split, ("id_test", "test"))
    assert read.columns["well_id"].tolist() == sorted(set(sites.well_id[scored])) and read.total == len(read)
    for i in (0, len(read) - 1):
        here = scored & (sites.well_id == read.columns["well_id"][i])
        np.testing.assert_allclose(read.embedding[i], explored.embedding[here].mean(0), rtol=1e-5)
    held_out = np.char.startswith(read.columns["experiment"], "SIMB")
    assert (read.columns["role"] == np.where(held_out, "cross_batch", "in_batch")).all()


def test_what_a_well_is_called_is_the_networks(read):
    assert read.how == "the network"
    wrong = (read.columns["experiment"] == "SIMB-01") & (read.called != read.columns["perturbation"])
    assert (read.right == np.where(wrong, "wrong", "right")).all() and wrong.any()


def test_without_predictions_it_is_that_of_the_nearest_of_another_experiment(explored, tmp_path):
    (tmp_path / "config.json").write_bytes((explored.run / "config.json").read_bytes())
    embeddings_file.write(tmp_path / embeddings_file.NAME, explored.table, explored.embedding)
    found = wells.read(tmp_path)
    assert found.how == "its nearest neighbour of another experiment (cosine)"
    evil = found.columns["perturbation"] == explored.evil
    assert (found.called[evil] == explored.evil).all() and (found.right[evil] == "right").all()
    assert (found.right == "wrong").any()


def test_more_wells_than_a_page_holds_are_thinned_and_it_says_so(explored, monkeypatch):
    monkeypatch.setattr(wells, "MOST", 7)
    found = wells.read(explored.run)
    assert len(found) == 7 and found.total > 7
    out = explored.run / "thinned.html"
    command.write(explored.run, out)
    assert f"7 wells, evenly chosen of {found.total}" in out.read_text()


def test_thumbnails_show_the_first_site_in_the_published_colours(explored, read):
    ids = np.array([read.columns["well_id"][0], "nowhere_1_B02"])
    first, nothing = wells.thumbnails(explored.dataset, ids)
    assert nothing == b"" and wells.thumbnails(explored.dataset, ids[1:]) == [b""]
    picture = Image.open(io.BytesIO(first))
    assert picture.format == "WEBP" and picture.size == (SIZE, SIZE)
    sites = explored.dataset.sites
    row = min(np.flatnonzero(sites.well_id == ids[0]), key=lambda i: sites.site[i])
    image = explored.dataset.sources[sites.split[row]][int(sites.index[row])][:, :]
    expected = wells.composite(image, 0, np.maximum(np.quantile(image, 0.999, axis=(0, 1)), 1))
    shown = np.asarray(picture.convert("RGB").resize(image.shape[1::-1], Image.Resampling.BOX)) / 255
    assert np.abs(shown - expected).mean() < 0.1 and np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.8


def test_images_are_those_that_the_run_was_trained_on(explored):
    config = json.loads((explored.run / "config.json").read_text())
    assert not isinstance(wells.dataset_of(config), str)
    config["resolved"]["provenance"]["data"] = "fingerprint of another"
    assert wells.dataset_of(config) == "the dataset has changed since"
    config["data"]["folder"] = "/nowhere"
    assert wells.dataset_of(config) == "the dataset rxrx_sim is not here"
    assert wells.dataset_of({}) == "the images are not in a prepared folder"


def test_intensities_are_standardised_within_their_plate(explored):
    values, channels = wells.intensities(explored.dataset)
    assert len(channels) == values.shape[1] == 6
    for plate in range(len(explored.dataset.plates)):
        here = values[explored.dataset.sites.plate == plate]
        np.testing.assert_allclose([here.mean(0), here.std(0)], [np.zeros(6), np.ones(6)], atol=1e-6)


def test_plate_maps_are_means_of_wells_where_they_are():
    made = plots.plate_map(["A01", "A01", "P24", "nothing", "ZZ9"], np.array([1.0, 0, 3, 9, 9]))
    assert made.shape == (16, 24) and made[0, 0] == 0.5 and made[15, 23] == 3 and np.isfinite(made).sum() == 2
    made = plots.plate_map(["AF48", "Z1"], np.array([1.0, 2.0]))
    assert made.shape == (32, 48) and made[31, 47] == 1 and made[25, 0] == 2


def test_confusions_are_counted_among_held_out_wells(read):
    made = maps._confusions("run", read)
    here = read.columns["role"] == "cross_batch"
    true, called = read.columns["perturbation"][here], read.called[here]
    assert made["right"].startswith(f"{np.mean(true == called):.3f} of {here.sum()}")
    assert sum(row[2].value for row in made["rows"]) == (true != called).sum()
    for is_, for_, number, share in made["rows"]:
        assert number.value == ((true == is_) & (called == for_)).sum() and is_ != for_
        assert share.value == number.value / (true == is_).sum()


def test_perturbations_that_are_never_called_right_have_their_matrix():
    """Its table of shares is symmetric with zeros on the diagonal, as a table of distances is."""
    true = np.array(["a", "b", "c", "d"])
    assert plots.confusions("run", true, true[[1, 0, 3, 2]])


def test_a_matrix_of_many_perturbations_has_a_point_for_each_pair_that_occurs():
    true = np.repeat(np.array([f"p{i:03d}" for i in range(300)]), 3)
    called = np.where(np.arange(900) % 3 == 0, true, np.roll(true, 3))  # one in three is right
    made = plots.confusions("run", true, called)
    (words, _, height), text = made["roots"][0], json.dumps(made["document"])
    assert words == "confusions of run, 300 perturbations, a point for each pair that occurs" and height < 900
    assert text.count('"p007"') < 20 and len(text) < 100_000  # pairs and factors, no square of 90,000


def test_plate_maps_of_many_experiments_are_thinned_and_said_so():
    maps = {f"q{i}": {f"E-{e:03d}": np.zeros((32, 48)) for e in range(180)} for i in range(7)}
    made = plots.plates(maps)
    assert made["left_out"] == "18 of 180 experiments, evenly chosen"
    assert {len(of) for of in made["data"]["values"].values()} == {18} and "E-179" in made["data"]["values"]["q6"]
    assert plots.plates({"q0": {f"E-{e}": np.zeros((16, 24)) for e in range(51)}})["left_out"] == ""


@pytest.mark.parametrize("shape, written", [((16, 24), 8), ((32, 48), 8), ((8, 12), 6)])
def test_the_numbers_of_columns_do_not_run_together_on_a_telephone(shape, written):
    made = plots.plates({"right": {"E-01": np.zeros(shape)}})
    models = json.dumps(made["figures"]["document"])
    (ticks,) = re.findall(r'"FixedTicker".*?"ticks": \[([0-9, ]+)\]', models)
    assert len(ticks.split(",")) == written and ticks.startswith("1, ")


def test_long_names_of_rows_leave_room_for_the_figure():
    names = ["1 ERM, image", "2 linear probe: handcrafted and spatial features, plate"]
    made = plots.rows([{"name": name, "in": 0.5, "cross": 0.4, "low": 0.3, "high": 0.5, "marks": ""} for name in names],
                      {"in": "in", "cross": "cross", "interval": "interval"})  # fmt: skip
    ((_, _, height),) = made["roots"]
    text = json.dumps(made["document"])
    assert "2 linear probe: handcrafted\\nand spatial features, plate" in text and height == 70 + 2 * 32


@pytest.mark.parametrize(
    "splits, values, words",
    [
        (["test"] * 3, [[1, 2], [3, np.nan], [5, 6]], "holds numbers that are not finite"),
        (["test"] * 2 + ["train"], [[1, 2], [3, 4], [5, 6]], "is too small for a map"),
        (["test"] * 3, [[1], [3], [5]], "is too small for a map"),
    ],
)
def test_embeddings_without_a_map(tmp_path, splits, values, words):
    ids = np.array(["a", "b", "c"])
    table = {"split": np.array(splits), "site_id": ids, "well_id": ids, "experiment": ids, "cell_type": ids}
    embeddings_file.write(
        tmp_path / embeddings_file.NAME, table | {"perturbation_id": np.zeros(3, np.int32)}, np.array(values, float)
    )
    assert wells.read(tmp_path) == f"embeddings.parquet {words}"


def test_the_page_of_a_run(explored):
    source = explored.page.read_text()
    for words in ("0.90 (floor 0.25)", "SIMB-01 0.200", "not converged (0.30)", "adabn", "transductive: "):
        assert words in source, words
    assert explored.evil not in source and "<run>" not in source and "&lt;run&gt;" in source
    markup = re.sub("<script>.*?</script>", "", source, flags=re.S)
    assert len(source) < 10e6 and not re.search('(?:src|href)="(?!data:|#)', markup)


def test_another_process_writes_the_same_page(explored):
    again = explored.run / "again.html"
    code = "from rxrx_jax.report import pictures; pictures.has_umap = lambda: False; "  # as in this process
    code += f"from rxrx_jax.report.__main__ import main; main([{str(explored.run)!r}, '--out', {str(again)!r}])"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert again.read_bytes() == explored.page.read_bytes()


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert command.command.run(command.main, [str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is not the workdir of a run: it has no config.json\n"
