"""Selection, minibatches, crops, and that evaluation sees each example once."""

import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest
import tiny

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.minibatches import crop_corners, host_part
from rxrx_jax.simulate import layouts
from rxrx_jax.simulate.screen import Screen, render_site, sites, write_published
from tfds_builders import prepare

SCREEN = Screen(**tiny.SCREEN)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny.under_protocol(data.open_dataset("rxrx_sim", tiny.SCREEN, str(tmp_path_factory.mktemp("data"))))


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
    for minibatch in data.evaluation_minibatches(dataset, rows, size, 32):
        assert len(minibatch["image"]) == size
        assert (minibatch["row"][~minibatch["valid"]] == -1).all() and not minibatch["image"][~minibatch["valid"]].any()
        seen += minibatch["row"][minibatch["valid"]].tolist()
    assert seen == rows.tolist()


def test_a_minibatch_is_a_function_of_seed_and_step_on_any_number_of_hosts(dataset, monkeypatch):
    rows = data.select(dataset, splits="train")

    def rows_of(start, seed=0):
        """The rows of every minibatch, told by their whole images."""
        samplers = {
            "train": data.make_sampler(dataset, rows, 8, "experiment", 0, seed),
            "held_out": data.make_sampler(dataset, data.select(dataset, splits="val"), 4, "plate", 2, seed),
        }
        found = []
        for streams in data.training_minibatches(dataset, samplers, 12, start, 32, seed):
            assert list(streams) == ["train", "held_out"] and all("row" not in part for part in streams.values())
            found.append([row_of[image.tobytes()] for part in streams.values() for image in part["image"]])
        return np.array(found)

    row_of = {image.tobytes(): row for row, image in enumerate(whole_images(dataset, np.arange(len(dataset.sites))))}
    assert len(row_of) == len(dataset.sites)

    whole = rows_of(0)
    assert len(whole) == 12
    np.testing.assert_array_equal(whole[5:], rows_of(5))  # resumed
    assert not np.array_equal(whole, rows_of(0, seed=1))

    parts = []
    for host in range(2):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts.append(rows_of(0))
    for step in range(12):
        both = np.concatenate([parts[0][step], parts[1][step]])
        assert sorted(both) == sorted(whole[step]) and len(parts[0][step]) == 6


def test_groups_smaller_than_what_a_minibatch_takes_of_one_are_told(dataset, capsys):
    rows = data.select(dataset, splits="train")
    fewest = min(np.bincount(dataset.sites.plate[rows])[np.unique(dataset.sites.plate[rows])])
    data.make_sampler(dataset, rows, int(fewest), "plate", 1, 0)
    data.make_sampler(dataset, rows, 1000, "plate", 0, 0)  # of all plates together
    assert capsys.readouterr().err == ""
    data.make_sampler(dataset, rows, 1000, "plate", 1, 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert "plates have fewer training images than the 1000 that a minibatch takes of one (fewest: SIM" in line
    assert f", {fewest}), which repeat in it" in line


def minibatches(dataset, steps=3, start=0, crop=20, seed=0, sizes=(8, 4), **window):
    """The streams of each minibatch in one piece, and `row` [B] as the samplers say it."""
    samplers = {
        stream: data.make_sampler(dataset, data.select(dataset, splits=split), size, "plate", 0, seed)
        for size, (stream, split) in zip(sizes, (("train", "train"), ("held_out", "val")))
    }
    found = list(data.training_minibatches(dataset, samplers, steps, start, crop, seed, **window))
    for number, streams in enumerate(found):
        joined = {key: np.concatenate([part[key] for part in streams.values()]) for key in streams["train"]}
        rows = [host_part(sampler.rows(start + number)) for sampler in samplers.values()]
        found[number] = joined | {"row": np.concatenate(rows)}
    return found


def whole_images(dataset, rows):
    return data.read_minibatch(dataset, dataset.sites, rows)["image"]


def test_training_crops_are_windows_of_their_records_on_any_number_of_hosts(dataset, monkeypatch):
    found = minibatches(dataset, seed=5)
    for step, minibatch in enumerate(found):
        assert minibatch["image"].shape == (12, 20, 20, 6) and minibatch["image"].dtype == np.uint8
        corners = crop_corners(5, step, 12, (32, 32, 6), 20)
        for view, image, (top, left) in zip(minibatch["image"], whole_images(dataset, minibatch["row"]), corners):
            np.testing.assert_array_equal(view, image[top : top + 20, left : left + 20])
    np.testing.assert_array_equal(minibatches(dataset, start=2, seed=5)[0]["image"], found[2]["image"])  # resumed
    other = [m["image"] for m in minibatches(dataset, seed=6)]
    assert not np.array_equal(other, [m["image"] for m in found])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for host, lanes in enumerate(([0, 1, 2, 3, 8, 9], [4, 5, 6, 7, 10, 11])):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        for part, minibatch in zip(minibatches(dataset, seed=5), found, strict=True):
            for key, value in part.items():
                np.testing.assert_array_equal(value, minibatch[key][lanes])


def test_centre_crops_of_training_are_those_of_evaluation(dataset):
    for minibatch in minibatches(dataset, window="centre"):
        assert minibatch["image"].shape == (12, 20, 20, 6)
        found = data.read_minibatch(dataset, dataset.sites, minibatch["row"], crop=20)["image"]
        np.testing.assert_array_equal(minibatch["image"], found)
        np.testing.assert_array_equal(found, whole_images(dataset, minibatch["row"])[:, 6:26, 6:26])


def test_a_crop_of_the_whole_image_is_the_image(dataset):
    for minibatch in minibatches(dataset, crop=32):
        np.testing.assert_array_equal(minibatch["image"], whole_images(dataset, minibatch["row"]))


def test_corners_are_a_function_of_seed_step_and_position():
    corners = crop_corners(3, 70, 50, (512, 512, 6), 256)
    np.testing.assert_array_equal(crop_corners(3, 70, 20, (512, 512, 6), 256), corners[:20])
    others = [(4, 70), (3, 71), (3, 70 + 2**32), (3, 0)]
    assert all((crop_corners(*other, 50, (512, 512, 6), 256) != corners).any(1).mean() > 0.9 for other in others)
    # Fixed forever: a run that resumes after an upgrade must see the windows that it would have seen.
    assert crop_corners(0, 0, 2, (512, 512, 6), 256).tolist() == [[2, 62], [28, 145]]
    assert crop_corners(0, 1, 2, (512, 512, 6), 256).tolist() == [[54, 55], [194, 137]]


def test_corners_are_uniform_and_independent():
    shape, crop, steps, count = (12, 15, 3), 10, 500, 60
    corners = np.array([crop_corners(1, step, count, shape, crop) for step in range(steps)])
    n, places = steps * count, 3 * 6
    frequency = collections.Counter(map(tuple, corners.reshape(-1, 2).tolist()))
    assert sorted(frequency) == list(itertools.product(range(3), range(6)))  # every place, the last ones too
    chi2 = sum((f - n / places) ** 2 / (n / places) for f in frequency.values())
    assert chi2 < 45  # 17 degrees of freedom: once in 4,000
    top, left = corners[..., 0].astype(float), corners[..., 1].astype(float)
    pairs = ((top, left), (top[1:], top[:-1]), (left[1:], left[:-1]), (top[:, 1:], top[:, :-1]), (left[1:], top[:-1]))
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("crop, corner", [(32, 0), (20, 6), (7, 12)])
def test_evaluation_is_the_centre_crop_padded_with_black(dataset, crop, corner):
    rows = data.select(dataset, splits="test")[:11]
    centre = slice(corner, corner + crop)
    expected = whole_images(dataset, rows)[:, centre, centre]
    first, second = data.evaluation_minibatches(dataset, rows, 8, crop)
    np.testing.assert_array_equal(np.concatenate([first["image"], second["image"]])[:11], expected)
    assert second["image"].shape == (8, crop, crop, 6) and not second["image"][3:].any()
    assert second["valid"].tolist() == [True] * 3 + [False] * 5 and (second["label"][3:] == -1).all()
    (whole,) = data.evaluation_minibatches(dataset, rows, 11)
    np.testing.assert_array_equal(whole["image"], whole_images(dataset, rows))


def test_hidden_labels(dataset):
    hidden = data.hide_labels(dataset.sites, dataset.roles.fit)
    train = dataset.sites.split == "train"
    np.testing.assert_array_equal(hidden.label[train], dataset.sites.label[train])
    assert (hidden.label[~train] == -1).all() and (dataset.sites.label >= 0).all()
    assert (data.hide_labels(dataset.sites, data.Roles().fit).label == -1).all()  # without a protocol


def test_labels_are_shown_by_role_and_not_by_shard(dataset):
    """Rows of the test shard that are fitted on are shown, and those of the train shard that are not are hidden."""
    half = np.flatnonzero(dataset.sites.split == "test")[::2]
    other = dataclasses.replace(dataset, roles=data.Roles(half, {}))
    every = data.make_sampler(other, data.select(other), len(other.sites), "plate", 0, 0)
    (streams,) = data.training_minibatches(other, {"train": every}, 1, 0, 20, 0)
    minibatch, rows = streams["train"], every.rows(0)
    expected = np.where(np.isin(rows, half), dataset.sites.label[rows], -1)
    np.testing.assert_array_equal(minibatch["label"], expected)
    assert (minibatch["label"] >= 0).sum() == len(half) == len(data.select_fitted(other))
    one = data.select_fitted(other, experiments=("SIMB-01",))
    assert 0 < len(one) < len(half) and set(one) < set(half)


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


@pytest.mark.parametrize("encoding", ["delta", "zstd", "raw", "source"])
@pytest.mark.parametrize("size", [40, 96])  # a strip of the differences is 32 rows
def test_pixels_do_not_depend_on_the_encoding(tmp_path, encoding, size):
    screen = Screen(image_size=size, treatments=2, plates=1, replicates=1, train=("SIMA-01",), val=(), test=())
    write_published(screen, tmp_path / "tree")
    settings = dict(image_size=size, encoding=encoding, classes=screen.classes)
    folder = prepare.prepare("rxrx1", tmp_path / "tree", tmp_path / "out", 1, progress=False, **settings)
    dataset = data.read_dataset(folder)
    rows = {row["site_id"]: row for row in sites(screen)}
    chosen = np.array([3, 1, 2, 0])
    images = [render_site(screen, rows[dataset.sites.site_id[row]]) for row in chosen]
    np.testing.assert_array_equal(whole_images(dataset, chosen), images)
    for corners in ([(0, 0), (size - 9, size - 9), (31, 1), (5, 30)], [(1, 0), (0, 1), (size - 9, 0), (23, 24)]):
        found = data.read_minibatch(dataset, dataset.sites, chosen, 9, np.array(corners), size=5)["image"]
        for view, image, (top, left) in zip(found, images, corners):
            np.testing.assert_array_equal(view, image[top : top + 9, left : left + 9])
        assert not found[4].any()
