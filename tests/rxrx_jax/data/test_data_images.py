"""The source of images: which streams a config draws, from which rows, in which units."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Returns a function of dotted config keys -> the source."""
    folder = tmp_path_factory.mktemp("data")

    def source(**changes):
        return tiny.source(Config(tiny.values("convnet.py", folder, **changes)))

    return source


def drawn(source, stream="held_out"):
    """The names of the experiments, and of the splits, that a stream is drawn from; and those of a few minibatches."""
    sites, sampler = source.dataset.sites, source.samplers[stream]
    rows = np.concatenate([sampler.rows(step) for step in range(30)])
    assert set(rows) <= set(sampler.drawn_from)
    names = lambda rows: {source.dataset.experiments[e] for e in sites.experiment[rows]}  # noqa: E731
    assert names(rows) == names(sampler.drawn_from)
    return names(rows), set(sites.split[rows].tolist())


def test_without_unlabelled_images_there_is_one_stream(make):
    source = make()
    assert list(source.spec) == ["train"] and drawn(source, "train") == ({"SIMA-01", "SIMA-02"}, {"train"})


def test_unlabelled_images_come_from_the_held_out_experiments(make):
    source = make(**{"data.unlabelled_minibatch": 4})
    assert list(source.spec) == ["train", "held_out"] and source.sizes == {"train": 8, "held_out": 4}
    assert drawn(source) == ({"SIMA-03", "SIMB-01", "SIMB-02"}, {"val", "test"})


def test_the_validation_experiments_may_stay_out_of_training(make):
    source = make(**{"data.unlabelled_minibatch": 4, "data.unlabelled_roles": ("cross_batch",)})
    assert drawn(source) == ({"SIMB-01", "SIMB-02"}, {"test"})


def test_no_labelled_image_is_drawn_as_unlabelled(make):
    for roles in (("fit",), ("validation", "train"), ("tset",), ()):
        with pytest.raises(UserError, match="data.unlabelled_roles=.*: the protocol scores in_batch, .*; name some"):
            make(**{"data.unlabelled_minibatch": 4, "data.unlabelled_roles": roles})


def test_a_selection_restricts_the_unlabelled_images_too(make):
    source = make(**{"data.unlabelled_minibatch": 4, "data.select": {"cell_types": ("SIMA",), "sites": (1,)}})
    assert drawn(source) == ({"SIMA-03"}, {"val"})
    assert set(source.dataset.sites.site[source.samplers["held_out"].drawn_from]) == {1}
    assert drawn(source, "train") == ({"SIMA-01", "SIMA-02"}, {"train"})
    with pytest.raises(
        UserError, match="data.unlabelled_minibatch: no image of data.unlabelled_roles matches data.select"
    ):
        make(**{"data.unlabelled_minibatch": 4, "data.select": {"experiments": ("SIMA-01",)}})


def test_units_are_those_of_the_samplers(make):
    assert make(**{"data.unlabelled_minibatch": 4}).units == {"train": 1, "held_out": 1}
    assert make(**{"data.pairs": "perturbation", "data.unlabelled_minibatch": 4}).units == {"train": 2, "held_out": 1}


def test_shares_are_of_the_images_that_are_trained_on(make):
    shares = make(**{"data.unlabelled_minibatch": 4}).shares["experiment"]
    assert shares[2:] == (0, 0, 0) and sum(shares) == pytest.approx(1)


# Untreated images beside the labelled ones.

PLATES = {"data.group": "plate", "data.groups_per_minibatch": 2, "data.control_minibatch": 4}


def test_untreated_images_are_of_the_plates_of_the_labelled_ones(make):
    source = make(**PLATES)
    sites = source.dataset.sites
    assert list(source.spec) == ["train", "controls"] and source.sizes == {"train": 8, "controls": 4}
    seen = set()
    for step in range(20):
        rows, controls = (source.samplers[name].rows(step) for name in ("train", "controls"))
        assert (sites.plate[rows].reshape(2, 4) == sites.plate[controls].reshape(2, 2)[:, :1]).all()
        assert len(set(controls)) == 4 and set(sites.well_type[controls]) == {"negative_control"}
        assert (sites.plate[controls].reshape(2, 2) == sites.plate[rows].reshape(2, 4)[:, :1]).all()
        seen |= set(controls.tolist())
        np.testing.assert_array_equal(controls, make(**PLATES).samplers["controls"].rows(step))  # by seed and step
    fitted = sites.well_id[source.dataset.roles.fit]
    known = (sites.well_type == "negative_control") & np.isin(sites.well_id, fitted)
    assert seen == set(np.flatnonzero(known))  # both sites of every well that the protocol shows


def test_untreated_images_are_drawn_whatever_else_is_selected(make):
    source = make(**PLATES, **{"data.select": {"well_types": ("treatment",), "experiments": ("SIMA-01",)}})
    sites = source.dataset.sites
    assert set(sites.well_type[source.samplers["train"].drawn_from]) == {"treatment"}
    assert {source.dataset.experiments[e] for e in sites.experiment[source.samplers["controls"].drawn_from]} == {
        "SIMA-01"
    }


def test_labels_of_the_untreated_images_are_hidden_and_the_stream_is_whole_on_every_host(make, monkeypatch):
    source = make(**PLATES)
    whole = next(source.minibatches(3, 4))
    assert (whole["controls"]["label"] == -1).all() and (whole["train"]["label"] >= 0).all()
    parts = []
    for host in (0, 1):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts.append(next(source.minibatches(3, 4)))
    for stream, columns in whole.items():
        for key, values in columns.items():
            together = np.concatenate([part[stream][key] for part in parts])
            np.testing.assert_array_equal(together, values, err_msg=f"{stream} {key}")


def test_too_few_untreated_images_are_one_line_that_names_the_plate(make):
    for changes, message in (
        (
            {"data.control_minibatch": 6},
            "^plate SIMA-01/1 has 2 untreated images to train with, fewer than 3: lower data",
        ),
        ({"data.control_minibatch": 5}, "^data.control_minibatch=5 is not a multiple of the 2 groups beside it$"),
        ({"data.groups_per_minibatch": 0}, "^data.control_minibatch needs .*: set data.groups_per_minibatch above 0$"),
    ):
        with pytest.raises(UserError, match=message):
            make(**PLATES | changes)


def test_the_cell_type_of_each_domain(make):
    source = make()
    assert source.cell_types["experiment"] == (0, 0, 0, 1, 1)
    sites = source.dataset.sites
    assert source.cell_types["plate"] == tuple(
        sites.cell_type[sites.plate == p][0] for p in range(len(source.dataset.plates))
    )
    changed = sites.cell_type.copy()
    changed[np.flatnonzero(sites.experiment == 1)[0]] = 1
    dataset = dataclasses.replace(source.dataset, sites=dataclasses.replace(sites, cell_type=changed))
    assert dataclasses.replace(source, dataset=dataset).cell_types["experiment"] == (0, -1, 0, 1, 1)
