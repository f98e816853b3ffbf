"""The protocols of RxRx1 against its whole design: rows counted again from the table itself, by other means."""

import csv

import numpy as np
import pytest
from protocol_tools import rxrx1

from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import cellsignal, protocols
from tfds_builders.common.rows import splits

TRAIN, VALIDATION, TEST = (splits.WILDS_EXPERIMENTS[key] for key in ("train", "val", "test"))
CELLS = ("HEPG2", "HUVEC", "RPE", "U2OS")


@pytest.fixture(scope="module")
def dataset(shared_data):
    return rxrx1(shared_data)


def wells(dataset, rows, **conditions):
    """The wells of rows, as a set of names."""
    return set(dataset.sites.well_id[rows].tolist())


def experiments(dataset, rows):
    return sorted({dataset.experiments[i] for i in dataset.sites.experiment[rows]})


def test_separated_is_33_against_18_experiments(dataset):
    roles = protocols.roles(dataset, "separated")
    assert experiments(dataset, roles.fit) == sorted(TRAIN) and len(roles.fit) == 81_224
    assert experiments(dataset, roles.scored["cross_batch"]) == sorted(VALIDATION + TEST)
    assert len(roles.fit) + len(roles.scored["cross_batch"]) == len(dataset.sites) == 125_510
    assert roles.scoring.treatments


def test_stratified_is_as_large_and_within_every_experiment(dataset):
    separated, roles, other = (protocols.roles(dataset, n) for n in ("separated", "stratified", "stratified:seed=1"))
    scored = roles.scored["in_batch_wells"]
    assert (len(roles.fit), len(scored)) == (len(separated.fit), len(separated.scored["cross_batch"]))
    assert not wells(dataset, roles.fit) & wells(dataset, scored)
    held, every = (np.bincount(dataset.sites.experiment[rows]) / 2 for rows in (scored, np.arange(125_510)))
    assert len(held) == 51 and (np.abs(held - every * 22_143 / 62_755) < 1).all()
    both = wells(dataset, scored) & wells(dataset, other.scored["in_batch_wells"])
    assert len(both) / 22_143 == pytest.approx(22_143 / 62_755, abs=0.02)  # another draw
    shares = [np.mean([name[-3] < "I" for name in wells(dataset, rows)]) for rows in (scored, roles.fit)]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)


@pytest.mark.parametrize("rotation", range(1, 7))
def test_huvec_rotates_16_4_4(dataset, rotation):
    roles = protocols.roles(dataset, f"huvec_16_4_4:rotation={rotation}")
    names = [f"HUVEC-{1 + i % 24:02d}" for i in range(4 * rotation - 4, 4 * rotation + 20)]
    assert experiments(dataset, roles.fit) == sorted(names[:16])
    assert experiments(dataset, roles.scored["validation"]) == sorted(names[16:20])
    assert experiments(dataset, roles.scored["cross_batch"]) == sorted(names[20:])
    assert set(dataset.sites.site[roles.scored["cross_batch"]]) == {1, 2}
    assert roles.scoring.evaluators["neighbours"] == {"k": (10,)} and "probe" in roles.scoring.evaluators


def test_every_huvec_experiment_is_scored_once_in_six_rotations(dataset):
    found = [protocols.roles(dataset, f"huvec_16_4_4:rotation={r}").scored["cross_batch"] for r in range(1, 7)]
    assert len(np.unique(np.concatenate(found))) == sum(map(len, found)) == 59_050


@pytest.mark.parametrize("cell_type", CELLS)
def test_a_cell_type_is_held_out(dataset, cell_type):
    roles = protocols.roles(dataset, f"held_out_cell_type:cell_type={cell_type}")
    kinds = {role: {name.split("-")[0] for name in experiments(dataset, rows)} for role, rows in roles.scored.items()}
    assert kinds["cross_batch"] == {cell_type} and kinds["in_batch"] == kinds["validation"] == {*CELLS} - {cell_type}
    assert not set(experiments(dataset, roles.fit)) & {*VALIDATION} and set(dataset.sites.site[roles.fit]) == {1}
    assert len(roles.scored["cross_batch"]) == (dataset.sites.cell_type == CELLS.index(cell_type)).sum()


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("cell_type", CELLS)
def test_k_wells_of_each_class_are_support_and_come_from_k_experiments(dataset, cell_type, k):
    roles = protocols.roles(dataset, f"k_shot:cell_type={cell_type},k={k}")
    first = dataset.sites.site[roles.support] == 1
    count = np.bincount(dataset.sites.label[roles.support[first]], minlength=1139)
    assert count.max() == k and np.mean(count == k) > 0.98
    giving = experiments(dataset, roles.support)
    assert len(giving) == k and set(giving) >= set(experiments(dataset, roles.scored["in_batch_wells"]))
    assert not set(giving) & set(experiments(dataset, roles.scored["cross_batch"]))


def test_controls_are_free_support_and_not_scored(dataset):
    roles = protocols.roles(dataset, "k_shot:cell_type=U2OS,k=1,controls")
    assert set(dataset.sites.well_type[roles.scored["cross_batch"]]) == {"treatment"}
    assert len(experiments(dataset, roles.support)) == 5 and not len(roles.scored["in_batch_wells"])
    of_type = np.flatnonzero(dataset.sites.cell_type == CELLS.index("U2OS"))
    control = of_type[dataset.sites.well_type[of_type] != "treatment"]
    assert np.isin(control, roles.support).all()


def test_cellsignal_is_the_wells_of_the_competitions_test_csv(dataset, shared_data):
    roles = protocols.roles(dataset, "cellsignal")
    with open(shared_data / "rxrx1" / "kaggle_v1" / "test.csv", newline="") as file:
        listed = {row["id_code"]: row["experiment"] in VALIDATION for row in csv.DictReader(file)}
    assert wells(dataset, roles.scored["public"]) == {name for name, public in listed.items() if public}
    assert wells(dataset, roles.scored["private"]) == {name for name, public in listed.items() if not public}
    assert len(listed) == 19_897 and experiments(dataset, roles.fit) == sorted(TRAIN)
    told = protocols.roles(dataset, "cellsignal:controls")
    more = np.setdiff1d(told.fit, roles.fit)
    assert len(more) == 4_492 and not set(dataset.sites.well_type[more]) & {"treatment"}
    assert experiments(dataset, more) == sorted(VALIDATION + TEST)


def test_labels_that_the_competition_withholds_are_allowed_in_cellsignal_alone(shared_data):
    dataset = rxrx1(shared_data, labelled=False)
    roles = protocols.roles(dataset, "cellsignal")
    assert sum((dataset.sites.label[rows] < 0).sum() for rows in roles.scored.values()) == 22_088
    with pytest.raises(
        UserError, match=r"protocol separated: 22,088 of the 44,286 images of cross_batch have no label"
    ):
        protocols.roles(dataset, "separated")
    partial = protocols.roles(dataset, "separated:partial")
    assert partial.scoring.partial == "22,088 of the 44,286 images of cross_batch have no label"


def test_the_treatments_are_in_four_groups_of_277(dataset):
    dataset.roles = protocols.roles(dataset, "cellsignal")
    groups, capacity = cellsignal.groups_of(dataset)
    assert np.bincount(groups[groups >= 0]).tolist() == [277] * 4 and capacity == 1
    assert (groups[:1108] >= 0).all() and (groups[1108:] == -1).all()
    one = dataset.experiments.index("HUVEC-05")
    rows = np.flatnonzero((dataset.sites.experiment == one) & (dataset.sites.well_type == "treatment"))
    pairs = {
        (dataset.plates[p], groups[label]) for p, label in zip(dataset.sites.plate[rows], dataset.sites.label[rows])
    }
    assert len(pairs) == 4 and len({group for _, group in pairs}) == 4


def test_probe_blocks_scores_the_rows_of_wilds_by_balanced_accuracy(dataset):
    roles, wilds = (protocols.roles(dataset, name) for name in ("probe_blocks", "wilds_ood"))
    assert all(np.array_equal(roles.scored[role], rows) for role, rows in wilds.scored.items())
    assert roles.scoring.chosen_by == "balanced_accuracy" and roles.scoring.evaluators["probe"]["blocks"] is True


@pytest.mark.parametrize(
    "name, words",
    [
        ("huvec_16_4_4:rotation=7", "rotation=7: expected 1 to 6"),
        ("huvec_16_4_4:fold=1", "protocol argument 'fold' is unknown; this protocol takes partial, rotation"),
        ("held_out_cell_type:cell_type=HELA", "cell_type=HELA: the dataset has HEPG2, HUVEC, RPE, U2OS"),
        ("k_shot:k=0", "k=0: expected 1 or more"),
        ("k_shot:k=two", "protocol argument 'k=two': expected k=int"),
        ("k_shot:cell_type=U2OS,k=5", "the 5 experiments of this cell type have too few wells per class"),
        ("wilds_ood:seed=1", "protocol argument 'seed' is unknown; this protocol takes partial"),
    ],
)
def test_settings_that_cannot_be_are_refused(dataset, name, words):
    with pytest.raises(UserError, match=words):
        protocols.roles(dataset, name)
