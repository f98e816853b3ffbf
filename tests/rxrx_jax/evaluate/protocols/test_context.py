"""What is known of an image, given to the head: of the right rows, in training and evaluation, and where it cannot."""

import dataclasses
import json
import types

import numpy as np
import pytest
import tiny
from protocol_tools import rxrx1, table

from rxrx_jax import runs
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import protocols
from rxrx_jax.training import train

ROWS = [
    {"experiment": e, "well": f"{plate}_{well}", "site": site, "split": "train", "label": 0}
    for e in ("HUVEC-01", "RPE-01", "RPE-09")
    for plate in (1, 2)
    for well in ("B02", "C23")
    for site in (1, 2)
]


def context(given, dataset=None):
    return protocols.roles(dataset or table(ROWS, 1139), f"context:given={given},partial").context


def test_columns_are_one_hot_in_the_order_of_their_values():
    np.testing.assert_array_equal(context("cell_type"), np.eye(2)[[int(r["experiment"] != "HUVEC-01") for r in ROWS]])
    np.testing.assert_array_equal(
        context("plate"), np.eye(2)[[int(r["well"][0]) - 1 for r in ROWS]]
    )  # of experiments alike
    both = context("plate+cell_type")
    np.testing.assert_array_equal(both, np.concatenate([context("cell_type"), context("plate")], 1))
    wells = context("well,allow_layout_leak")
    in_c23 = np.array([r["well"].endswith("C23") for r in ROWS])
    np.testing.assert_array_equal(wells, np.concatenate([np.eye(2)[in_c23 * 1]] * 2, 1))
    assert wells.dtype == np.float32


def test_the_well_is_refused_without_allow_layout_leak():
    for given in ("well", "cell_type+well"):
        with pytest.raises(
            UserError, match=f"given={given}".replace("+", r"\+") + ": the well tells .* allow_layout_leak"
        ):
            context(given)
    with pytest.raises(UserError, match="given=day: expected cell_type, plate, well, with"):
        context("cell_type+day")


def test_the_layout_of_rxrx1_does_tell_of_the_treatment(shared_data):
    """Why: the commonest class of a well in training experiments, for wells of the test experiments with a label."""
    dataset = rxrx1(shared_data, labelled=False)
    sites, roles = dataset.sites, protocols.roles(rxrx1(shared_data), "wilds_ood")
    well = np.unique([name[-3:] for name in sites.well_id.tolist()], return_inverse=True)[1]
    counts = np.zeros((well.max() + 1, 1139), int)
    np.add.at(counts, (well[roles.fit], sites.label[roles.fit]), 1)
    test = np.concatenate([roles.scored["validation"], roles.scored["cross_batch"]])
    test = test[sites.label[test] >= 0]
    right = counts.argmax(1)[well[test]] == sites.label[test]
    assert right[sites.well_type[test] == "negative_control"].mean() > 0.7
    assert right[sites.well_type[test] == "treatment"].mean() > 5 / 1108


def test_rxrx1_itself_is_given_cell_types_and_plates(shared_data):
    dataset = rxrx1(shared_data)
    roles = protocols.roles(dataset, "context:given=cell_type+plate")
    assert roles.context.shape == (125_510, 4 + 4) and (roles.context.sum(1) == 2).all()
    wilds = protocols.roles(dataset, "wilds_ood")
    assert np.array_equal(roles.fit, wilds.fit) and roles.scored.keys() == wilds.scored.keys()


TOLD = """
import dataclasses
import numpy as np
from rxrx_jax.evaluate.protocols import held_out_experiments

def protocol(dataset):
    "The head is given the label itself, one-hot."
    found = held_out_experiments.protocol(dataset)
    context = np.eye(len(dataset.classes), dtype=np.float32)[dataset.sites.label]
    return dataclasses.replace(found, roles=dataclasses.replace(found.roles, context=context))
"""


@pytest.fixture
def values(folder, tmp_path):
    """A function of the arguments of a config and changes, to values under the protocol that tells the label."""
    (tmp_path / "told.py").write_text(TOLD)
    told = {"protocol.name": str(tmp_path / "told.py"), "evaluators": {"accuracy": {}}, "model.widths": (4,)}
    return lambda arguments="", **changes: tiny.values(f"convnet.py:{arguments}", folder, **told | changes)


def test_a_head_that_is_told_the_label_reads_it(values, tmp_path):
    """In training and in evaluation each image gets its own row's; without the context it learns next to nothing."""
    lr = {"optim.lr": 0.3, "total_steps": 40, "log_steps": 40}
    train.run(values(**lr), tmp_path / "told")
    train.run(values(**lr, **{"protocol.name": "held_out_experiments"}), tmp_path / "plain")
    told, plain = (tiny_final(tmp_path / name) for name in ("told", "plain"))
    read = [told[f"{role}/site_accuracy"] for role in ("in_batch", "validation", "cross_batch")]
    assert min(read) > 0.9 > plain["cross_batch/site_accuracy"] + 0.2
    with pytest.raises(UserError, match="the head is also given what is known of an image, as its protocol .*told.py"):
        runs.load(tmp_path / "told").predict(np.zeros((1, 32, 32, 6), np.uint8))


def tiny_final(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("final")][-1]


@pytest.mark.parametrize("method", ["mixup", "mean_teacher"])
def test_methods_that_change_the_images_are_refused(values, tmp_path, method):
    given = values(f"method={method},transductive=True" if method == "mean_teacher" else f"method={method}")
    with pytest.raises(UserError, match=f"adapt.name={method} has its own forward pass or mixes images, to which"):
        train.run(given, tmp_path / "run")


def test_anchors_of_the_head_are_refused(values, tmp_path):
    with pytest.raises(UserError, match="post_hoc.control_mean: ControlMean moves what a classifier's head is given"):
        train.run(values("post_hoc=control_mean"), tmp_path / "run")


def test_a_table_without_plates_is_refused():
    dataset = table(ROWS, 1139)
    bare = types.SimpleNamespace(**vars(dataset) | {"sites": dataclasses.replace(dataset.sites, plate=None)})
    with pytest.raises(UserError, match="the table has no column plate"):
        context("plate", bare)
