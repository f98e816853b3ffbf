"""Embedding a dataset: tiles, wells, channels and blocks by hand, of runs, exports and published weights."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import weights_tools
from weights_tools import OPENPHENOM, TIMM, embed_into

from rxrx_jax import data, embed, models, weights
from rxrx_jax.base import embeddings
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.augment import Augment, plate_statistics
from rxrx_jax.embedding import work
from rxrx_jax.weights import export


def by_hand(folder, dataset, corners=((0, 0), (0, 16), (16, 0), (16, 16)), crop=16, read=None):
    """[n, ...] what `read` takes from the intermediates, mean over the tiles, of every site by row of the table."""
    run = json.loads((folder / "config.json").read_text())
    encoder = models.make_encoder(Config(run["model"]))
    params = embed.open_model(str(folder), 6).params
    augment = Augment(run["normalisation"], crop, False, False, 0.0)
    statistics = jax.tree.map(jnp.asarray, plate_statistics(dataset, run["normalisation"]))
    read = read or (lambda found: found["embedding"])

    @jax.jit
    def apply(minibatch):
        images = augment.evaluation(minibatch, statistics)
        return read(encoder.apply({"params": params}, images)[1])

    rows = np.arange(len(dataset.sites))
    whole = data.read_minibatch(dataset, dataset.sites, rows)
    tiles = []
    for y, x in corners:
        tiles.append(apply({"image": whole["image"][:, y : y + crop, x : x + crop], "plate": whole["plate"]}))
    return np.mean(tiles, axis=0, dtype=np.float64)


def rows_of(columns, dataset):
    """The row of the dataset's table of every row of an embeddings file."""
    row = {name: i for i, name in enumerate(dataset.sites.site_id.tolist())}
    return np.array([row[name] for name in columns["site_id"]])


def test_tiles_of_the_crop_are_averaged(plain, folder, dataset):
    columns, embedding = embeddings.read(plain)
    rows = rows_of(columns, dataset)
    assert sorted(rows) == list(range(len(dataset.sites)))  # every site once
    expected = by_hand(folder / "plain", dataset)
    np.testing.assert_allclose(embedding, expected[rows], rtol=1e-5, atol=1e-5)
    assert (np.diff(dataset.sites.plate[rows]) >= 0).all()  # plate by plate
    np.testing.assert_array_equal(columns["perturbation_id"], dataset.sites.label[rows])
    np.testing.assert_array_equal(columns["split"], dataset.sites.split[rows])


def test_the_last_tile_is_moved_inwards():
    assert embed.corners(512, 256) == [0, 256]
    assert embed.corners(256, 256) == [0]
    assert embed.corners(600, 256) == [0, 256, 344]
    assert embed.corners(257, 256) == [0, 1]


def test_tiles_that_overlap(folder, dataset, tmp_path):
    weights_tools.make_run(tmp_path / "run", folder, crop=24)
    assert embed_into(tmp_path / "run", dataset.folder, tmp_path / "out.parquet") == 0
    columns, embedding = embeddings.read(tmp_path / "out.parquet")
    expected = by_hand(tmp_path / "run", dataset, ((0, 0), (0, 8), (8, 0), (8, 8)), 24)
    np.testing.assert_allclose(embedding, expected[rows_of(columns, dataset)], rtol=1e-5, atol=1e-5)


def test_wells_are_the_means_of_their_sites(plain, folder, dataset, tmp_path):
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "wells.parquet", "--per=well") == 0
    columns, embedding = embeddings.read(tmp_path / "wells.parquet")
    sites, of_sites = embeddings.read(plain)
    assert len(set(sites["well_id"])) == len(embedding) < len(of_sites)
    mixed = 0
    for i, well in enumerate(columns["well_id"]):
        chosen = sites["well_id"] == well
        np.testing.assert_allclose(embedding[i], of_sites[chosen].mean(0), rtol=1e-5, atol=1e-6)
        splits = set(sites["split"][chosen])
        mixed += len(splits) > 1
        assert columns["split"][i] == ("train" if "train" in splits else splits.pop())
        assert columns["perturbation_id"][i] == sites["perturbation_id"][chosen][0]
        assert (columns["site"][i], columns["site_id"][i]) == (0, f"{well}_0")
    assert mixed  # so that the rule above is tested


def test_wells_keep_their_order_and_are_in_train_if_any_site_is():
    part = {
        "split": np.array(["id_test", "test", "train", "test"]),
        "site_id": np.array(["Z_1", "A_1", "Z_2", "A_2"]),
        "well_id": np.array(["Z", "A", "Z", "A"]),
        "site": np.array([1, 1, 2, 2], np.int32),
        "perturbation_id": np.array([7, 3, 7, 3], np.int32),
        "seen": np.array(["image", "", "label", "image"]),
    }
    columns, embedding = work.by_well(part, np.float32([[0, 1], [10, 20], [2, 3], [30, 40]]))
    np.testing.assert_array_equal(embedding, [[1, 2], [20, 30]])
    found = {name: values.tolist() for name, values in columns.items()}
    assert found == {
        "split": ["train", "test"],
        "site_id": ["Z_0", "A_0"],
        "well_id": ["Z", "A"],
        "site": [0, 0],
        "perturbation_id": [7, 3],
        "seen": ["label", "image"],  # the most of any site
    }


def test_channels_are_concatenated(folder, dataset, tmp_path):
    assert embed_into(folder / "agnostic", dataset.folder, tmp_path / "out.parquet", "--pool=channels") == 0
    columns, embedding = embeddings.read(tmp_path / "out.parquet")
    expected = by_hand(folder / "agnostic", dataset, read=lambda found: found["channel_embeddings"])
    assert expected.shape[1:] == (6, 96)
    rows = rows_of(columns, dataset)
    np.testing.assert_allclose(embedding, expected[rows].reshape(len(rows), -1), rtol=1e-5, atol=1e-5)


def test_blocks_count_from_one(folder, dataset, tmp_path):
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "out.parquet", "--block=2") == 0
    columns, embedding = embeddings.read(tmp_path / "out.parquet")
    expected = by_hand(folder / "plain", dataset, read=lambda found: found["block_embeddings"][1])
    np.testing.assert_allclose(embedding, expected[rows_of(columns, dataset)], rtol=1e-5, atol=1e-5)


def test_the_mean_of_a_class_token_model(folder, dataset, tmp_path):
    changes = {"model.class_token": True, "model.pool": "class", "model.final_norm": False}
    weights_tools.make_run(tmp_path / "run", folder, crop=32, **changes)
    for pool, read in (("mean", lambda f: f["blocks"][-1][:, 1:].mean(1)), (None, lambda f: f["blocks"][-1][:, 0])):
        out = tmp_path / f"{pool}.parquet"
        assert embed_into(tmp_path / "run", dataset.folder, out, *([f"--pool={pool}"] if pool else [])) == 0
        columns, embedding = embeddings.read(out)
        expected = by_hand(tmp_path / "run", dataset, ((0, 0),), 32, read)
        np.testing.assert_allclose(embedding, expected[rows_of(columns, dataset)], rtol=1e-5, atol=1e-5)


def test_a_run_its_checkpoint_and_its_export_give_the_same_bytes(plain, folder, dataset, tmp_path):
    export.export(str(folder / "plain"), tmp_path / "exported")
    for checkpoint in (folder / "plain" / "checkpoints" / "2", tmp_path / "exported"):
        out = tmp_path / f"{checkpoint.name}.parquet"
        assert embed_into(checkpoint, dataset.folder, out) == 0
        assert out.read_bytes() == plain.read_bytes()


def test_published_weights_see_images_normalised_by_themselves(dataset, tmp_path, capsys):
    assert embed_into(OPENPHENOM, dataset.folder, tmp_path / "out.parquet") == 0
    assert "fc_norm is left out" in capsys.readouterr().err
    columns, embedding = embeddings.read(tmp_path / "out.parquet")
    imported = weights.load(OPENPHENOM)
    images = data.read_minibatch(dataset, dataset.sites, rows_of(columns, dataset)[:4])["image"]
    augment, plate = Augment("image", 12, False, False, 0.0), jnp.zeros(4, jnp.int32)
    apply = jax.jit(lambda params, x: imported.encoder.apply({"params": params}, x)[1]["embedding"])
    tiles = []
    for y in (0, 12, 20):
        for x in (0, 12, 20):
            tile = augment.evaluation({"image": images[:, y : y + 12, x : x + 12], "plate": plate}, {})
            tiles.append(apply(imported.params["encoder"], tile))
    np.testing.assert_allclose(embedding[:4], np.mean(tiles, axis=0), rtol=1e-5, atol=1e-5)


def test_weights_for_other_channels(dataset, tmp_path, capsys):
    assert embed_into(TIMM, dataset.folder, tmp_path / "out.parquet") == 0
    assert "adapted from 2 to 6 channels" in capsys.readouterr().err
    assert embeddings.read(tmp_path / "out.parquet")[1].shape[1] == 12


@pytest.mark.slow
def test_one_device_and_eight_give_the_same_numbers(plain, folder, dataset, tmp_path):
    flags = [f"--checkpoint={folder / 'plain'}", f"--data={dataset.folder}", f"--out={tmp_path / 'out.parquet'}"]
    odd = [*flags[:2], f"--out={tmp_path / 'odd.parquet'}", "--minibatch=12"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    program = (
        "import sys, jax\nfrom rxrx_jax import embed\nfrom rxrx_jax.base import command\n"
        "assert jax.device_count() == 8\n"
        "embed.open_model, opened = lambda *_: sys.exit('read the weights first'), embed.open_model\n"
        f"assert command.run(embed.main, {odd!r}) == 2\n"
        f"embed.open_model = opened\nembed.main({flags!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--minibatch=12 does not divide over 8 devices" in done.stderr, done.stderr
    (columns, found), (expected_columns, expected) = embeddings.read(tmp_path / "out.parquet"), embeddings.read(plain)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(columns["site_id"], expected_columns["site_id"])


def test_images_smaller_than_the_crop_and_other_channels(folder, dataset, tmp_path, capsys):
    weights_tools.make_run(tmp_path / "run", folder, crop=40)
    assert embed_into(tmp_path / "run", dataset.folder, tmp_path / "out.parquet") == 2
    assert "trained on 40 pixels and the images have 32x32" in capsys.readouterr().err
    export.export(str(folder / "plain"), tmp_path / "exported")
    for path in (folder / "plain", tmp_path / "exported"):
        with pytest.raises(UserError, match=f"^{path} takes images of 6 channels and these have 5$"):
            embed.open_model(str(path), 5)
    assert embed.open_model(str(folder / "agnostic"), 5).encoder.style.channel_agnostic


def test_the_part_that_was_evaluated_is_embedded_unless_another_is_named(folder, tmp_path, capsys):
    runs = {}
    for name, parts in (("averaged", True), ("last", False)):
        runs[name] = weights_tools.make_run(tmp_path / name, folder, parts=parts)["encoder"]
    for name, part, factor in (
        ("averaged", None, 2),
        ("averaged", "params", 1),
        ("averaged", "averages", 2),
        ("last", None, 1),
    ):
        found = embed.open_model(str(tmp_path / name), 6, part).params
        jax.tree.map(np.testing.assert_array_equal, found, weights_tools.times(factor, runs[name]))
    with pytest.raises(UserError, match="has no parameters 'encoder' in averages; it has nothing there"):
        embed.open_model(str(folder / "plain"), 6, "averages")
    with pytest.raises(UserError, match="weights_timm.safetensors has no part 'averages'"):
        embed.open_model(str(TIMM), 6, "averages")


def test_the_parameters_of_the_command(folder, dataset, tmp_path):
    weights_tools.make_run(tmp_path / "run", folder, parts=True)
    said = {}
    for part in ("params", "averages"):
        assert embed_into(tmp_path / "run", dataset.folder, tmp_path / f"{part}.parquet", f"--parameters={part}") == 0
        said[part] = json.loads(pq.read_schema(tmp_path / f"{part}.parquet").metadata[embed.KEY])["parameters_sha256"]
    assert said["params"] != said["averages"]


def test_what_published_weights_had_seen_is_unknown(folder, tmp_path):
    foreign = embed.open_model(str(TIMM), 6)
    assert foreign.seen.unknown == ("weights_timm.safetensors",)
    assert embed.open_model(str(folder / "agnostic"), 6).seen.unknown == ()
    weights_tools.make_run(tmp_path / "run", folder, normalisation="image", unknown=("vit.safetensors",))
    assert embed.open_model(str(tmp_path / "run"), 6).seen.unknown == ("vit.safetensors",)
    (tmp_path / "run/seen.parquet").unlink()  # of a run before there was this file
    assert embed.open_model(str(tmp_path / "run"), 6).seen.unknown == ("run",)


def test_only_sharding_knows_of_devices():
    files = [pathlib.Path(embed.__file__), *pathlib.Path(weights.__file__).parent.glob("*.py")]
    for path in files:
        assert not re.search(r"device_put|devices\(|SingleDeviceSharding", path.read_text()), path
