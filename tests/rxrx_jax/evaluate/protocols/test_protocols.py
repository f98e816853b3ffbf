"""Protocols: which rows have which role, what is refused, and that nothing else decides what training is shown."""

import ast
import dataclasses
import types

import numpy as np
import pytest
import tiny
from paths import ROOT
from protocol_tools import rxrx1, table

from rxrx_jax import data
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles, Sites
from rxrx_jax.evaluate import protocols
from rxrx_jax.evaluate.protocols import Protocol, wilds_mixed, wilds_ood
from rxrx_jax.training import train
from tfds_builders.common.rows import splits


def chosen(dataset, found, sites):
    """Rows by hand: those of a set of experiments and of these sites."""
    names = [dataset.experiments[i] for i in dataset.sites.experiment]
    return [i for i, name in enumerate(names) if name in found and dataset.sites.site[i] in sites]


# WILDS's experiments, from its own list of them.


def test_the_experiments_are_those_of_the_builder():
    assert wilds_ood.TRAIN == splits.WILDS_EXPERIMENTS["train"]
    assert wilds_ood.VALIDATION == splits.WILDS_EXPERIMENTS["val"]
    assert wilds_ood.TEST == splits.WILDS_EXPERIMENTS["test"]
    # As many of each cell type make room as the test experiments have.
    kinds = lambda names: sorted(name.split("-")[0] for name in names)  # noqa: E731
    assert kinds(wilds_mixed.LEFT_OUT) == kinds(wilds_ood.TEST) and len(wilds_mixed.LEFT_OUT) == 14


@pytest.mark.parametrize("name", ["wilds_ood", "wilds_id", "wilds_mixed"])
def test_the_counts_of_wilds_hold_for_the_real_design(shared_data, name):
    dataset = rxrx1(shared_data)
    roles = protocols.roles(dataset, name)  # which asserts them
    train, val, test = (splits.WILDS_EXPERIMENTS[key] for key in ("train", "val", "test"))
    assert len(roles.scored["validation"]) == 9_854
    assert roles.scored["validation"].tolist() == chosen(dataset, val, (1, 2))
    if name == "wilds_mixed":
        kept = [e for e in train if e not in wilds_mixed.LEFT_OUT]
        assert len(kept) == 19 and roles.fit.tolist() == chosen(dataset, kept + test, (1,))
        assert roles.scored["in_batch"].tolist() == chosen(dataset, test, (2,)) and len(roles.fit) == 40_581
        assert "cross_batch" not in roles.scored
    else:
        assert roles.fit.tolist() == chosen(dataset, train, (1,)) and len(roles.fit) == 40_612
        assert roles.scored["in_batch"].tolist() == chosen(dataset, train, (2,)) and len(roles.fit) == 40_612
        assert ("cross_batch" in roles.scored) == (name == "wilds_ood")
    if name == "wilds_ood":
        assert roles.scored["cross_batch"].tolist() == chosen(dataset, test, (1, 2))
        assert len(roles.scored["cross_batch"]) == 34_432
        same = protocols.roles(dataset, "held_out_experiments")
        assert all(np.array_equal(same.scored[role], rows) for role, rows in roles.scored.items())


def test_roles_are_not_the_shards(shared_data):
    """Records in other shards, as of a source's own splits.csv, are trained on and scored as before."""
    dataset = rxrx1(shared_data)
    rng = np.random.default_rng(0)
    moved = dataclasses.replace(dataset.sites, split=rng.permutation(dataset.sites.split))
    other = types.SimpleNamespace(**vars(dataset) | {"sites": moved})
    for name in ("wilds_ood", "wilds_mixed"):
        before, after = protocols.roles(dataset, name), protocols.roles(other, name)
        np.testing.assert_array_equal(before.fit, after.fit)
        assert all(np.array_equal(before.scored[role], after.scored[role]) for role in before.scored)
    assert not np.array_equal(protocols.roles(other, "held_out_experiments").fit, before.fit)


def test_labels_that_the_source_withholds_are_refused(shared_data):
    with pytest.raises(
        UserError, match=r"protocol wilds_ood: [\d,]+ of the [\d,]+ images of \w+ have no label; prepare"
    ):
        protocols.roles(rxrx1(shared_data, labelled=False), "wilds_ood")


def test_a_part_of_rxrx1_is_refused_with_the_counts(shared_data):
    whole = rxrx1(shared_data)
    few = np.isin(whole.sites.experiment, [whole.experiments.index(e) for e in ("HUVEC-01", "HUVEC-18")])
    values = {f.name: getattr(whole.sites, f.name) for f in dataclasses.fields(Sites)}
    part = Sites(**{key: None if value is None else value[few] for key, value in values.items()})
    dataset = types.SimpleNamespace(**vars(whole) | {"sites": part})
    with pytest.raises(UserError) as error:
        protocols.roles(dataset, "wilds_ood")
    text = str(error.value)
    assert "fit is 40,612 images of 33 experiments and this dataset has 1,232 of 1" in text and "\n" not in text


# Any protocol.

SMALL = [
    {"experiment": e, "well": f"1_B{w:02d}", "site": s, "split": split, "label": w}
    for e, splits_ in (("A-01", ("train", "id_test")), ("A-02", ("val", "val")), ("B-01", ("test", "test")))
    for w in range(3)
    for s, split in enumerate(splits_, 1)
]


def test_held_out_experiments_are_those_of_the_builder():
    roles = protocols.roles(table(SMALL, 3), "held_out_experiments")
    expected = {"train": roles.fit, "id_test": roles.scored["in_batch"]}
    expected |= {"val": roles.scored["validation"], "test": roles.scored["cross_batch"]}
    for split, rows in expected.items():
        assert rows.tolist() == [i for i, row in enumerate(SMALL) if row["split"] == split]
    assert list(roles.scored) == ["in_batch", "validation", "cross_batch"]  # as they are printed


def test_a_dataset_of_other_experiments_is_refused_with_the_counts():
    with pytest.raises(UserError, match="40,612 images of 33 experiments and this dataset has 0 of 0"):
        protocols.roles(table(SMALL, 3), "wilds_ood")


ROWS = np.arange(4)


@pytest.mark.parametrize(
    "protocol, words",
    [
        (Protocol(Roles(ROWS, {"in_batch": ROWS[2:]})), "2 images are both fit and in_batch"),
        (Protocol(Roles(ROWS, {"a": ROWS + 4, "b": ROWS + 7})), "1 images are both a and b"),
        (Protocol(Roles(ROWS[::-1], {})), "the rows of fit are not sorted int64"),
        (Protocol(Roles(ROWS, {"a": np.array([5, 5])})), "the rows of a are not sorted int64"),
        (Protocol(Roles(ROWS, {"a": np.ones(18, bool)})), "the rows of a are not sorted int64"),
        (Protocol(Roles(ROWS, {}), {"fit": (5, 1)}), "fit is 5 images of 1 experiments and this dataset has 4 of 1"),
        (Protocol(Roles(ROWS, {}), {"fit": (4, 2)}), "fit is 4 images of 2 experiments and this dataset has 4 of 1"),
        (Protocol(Roles(ROWS, {}), classes=4), "is for 4 classes and the dataset has 3"),
    ],
)
def test_what_a_protocol_asserts_is_checked(protocol, words):
    with pytest.raises(UserError, match=f"^protocol mine.*{words}"):
        protocols.check(table(SMALL, 3), "mine", protocol)


def test_a_protocol_whose_assertions_hold_passes():
    dataset = table(SMALL, 3)
    protocols.check(dataset, "mine", Protocol(Roles(ROWS, {"a": ROWS + 4}), {"fit": (4, 1), "a": (4, 2)}, 3))
    dataset.sites.label[5] = -1  # a scored row without a label: only where a count is asserted
    protocols.check(dataset, "mine", Protocol(Roles(ROWS, {"a": ROWS + 4})))
    with pytest.raises(UserError, match="1 of the 4 images of a have no label"):
        protocols.check(dataset, "mine", Protocol(Roles(ROWS, {"a": ROWS + 4}), {"a": (4, 2)}))


def test_a_protocol_is_found_by_name_or_path(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from rxrx_jax.data import Roles\n"
        "from rxrx_jax.evaluate.protocols import Protocol\n"
        "def protocol(dataset):\n"
        "    rows = dataset.sites.site.argsort()\n"
        "    return Protocol(Roles(rows[:0], {'all': rows.argsort()}))\n"
    )
    assert list(protocols.find(str(mine))(table(SMALL, 3)).roles.scored) == ["all"]
    assert protocols.find("wilds_mixed").func is wilds_mixed.protocol
    (tmp_path / "empty.py").touch()
    with pytest.raises(UserError, match="empty.py': the file has no function protocol"):
        protocols.find(str(tmp_path / "empty.py"))
    for name in ("wilds", "", "__init__"):
        with pytest.raises(
            UserError, match="expected cellsignal, .*held_out_experiments, .*wilds_ood, or the path of a .py file"
        ):
            protocols.find(name)
    with pytest.raises(UserError, match="none.py: no such file"):
        protocols.find(str(tmp_path / "none.py"))
    mine.write_text("import numpy\n\nimport nunpy\n")
    with pytest.raises(UserError, match=r"mine.py cannot be imported at line 3 \(ModuleNotFoundError"):
        protocols.find(str(mine))


def test_the_example_of_the_contributing_page(shared_data, tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("<!-- protocol -->")[2].partition("<!-- /protocol -->")[0]
    mine = tmp_path / "mine.py"
    mine.write_text(text.partition("```python\n")[2].partition("```")[0])
    dataset = rxrx1(shared_data)
    roles = protocols.roles(dataset, str(mine))
    cells = {
        role: set(np.array(dataset.cell_types)[dataset.sites.cell_type[rows]]) for role, rows in roles.scored.items()
    }
    assert cells == {"in_batch": {"HEPG2", "RPE", "U2OS"}, "cross_batch": {"HUVEC"}} and len(roles.fit) > 30_000
    few = table([dict(SMALL[0], experiment="HUVEC-01"), dict(SMALL[0], experiment="RPE-01")], 1139)
    with pytest.raises(UserError, match="cross_batch is 59,050 images of 24 experiments and this dataset has 1 of 1"):
        protocols.roles(few, str(mine))


# In training.


MIXED = """
import numpy as np
from rxrx_jax.data import Roles
from rxrx_jax.evaluate.protocols import Protocol

def protocol(dataset):
    "Site 1 of one training and one test experiment; scored on the latter's site 2."
    sites = dataset.sites
    of = lambda name: sites.experiment == dataset.experiments.index(name)
    fit = np.flatnonzero((of("SIMA-01") | of("SIMB-01")) & (sites.site == 1))
    scored = {"in_batch": np.flatnonzero(of("SIMB-01") & (sites.site == 2))}
    return Protocol(Roles(fit, scored | {"validation": np.flatnonzero(of("SIMA-03"))}), {"fit": (len(fit), 2)})
"""


def test_a_mixed_protocol_trains_on_records_of_the_test_shard(folder, tmp_path):
    """The proof: no record is rebuilt, and training is shown the labels of the fitted rows and of no others."""
    (tmp_path / "mixed.py").write_text(MIXED)
    changes = {"protocol.name": str(tmp_path / "mixed.py"), "data.unlabelled_roles": ("validation",)}
    values = tiny.values("convnet.py:method=dann,transductive=True,normalisation=image", folder, **changes)
    config = Config(values)
    source = tiny.source(config)
    dataset = source.dataset
    seen, shown = set(), set()
    for step, streams in enumerate(source.minibatches(0, 40)):
        for stream, minibatch in streams.items():
            rows, known = source.samplers[stream].rows(step), minibatch["label"] >= 0
            seen |= set(rows.tolist())
            shown |= set(rows[known].tolist())
            np.testing.assert_array_equal(minibatch["label"][known], dataset.sites.label[rows[known]])
    assert shown == set(dataset.roles.fit) and {"train", "test"} == set(dataset.sites.split[sorted(shown)])
    assert seen - shown == set(dataset.roles.scored["validation"])

    done = train.run(values, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert done["done"] and '"in_batch/site_accuracy/SIMB-01"' in lines and "cross_batch" not in lines


def test_the_default_protocol_draws_what_the_shards_hold(folder):
    """Row by row what samplers over the shards themselves draw."""
    values = tiny.values("convnet.py:method=dann,transductive=True", folder)
    config = Config(values)
    source = tiny.source(config)
    dataset, made = source.dataset, source.samplers.values()
    split = dataset.sites.split
    for sampler, shards, size, seed in zip(made, (("train",), ("val", "test")), (8, 4), (0, 1)):
        rows = np.flatnonzero(np.isin(split, shards))
        by_hand = data.make_sampler(dataset, rows, size, "experiment", 0, seed)
        assert [sampler.rows(s).tolist() for s in range(30)] == [by_hand.rows(s).tolist() for s in range(30)]


@pytest.mark.parametrize("roles, shards", [(("validation",), {"val"}), (("cross_batch",), {"test"})])
def test_which_held_out_rows_are_drawn_is_the_configs_choice(folder, roles, shards):
    config = Config(tiny.values("convnet.py:method=dann,transductive=True", folder, **{"data.unlabelled_roles": roles}))
    source = tiny.source(config)
    dataset = source.dataset
    rows = np.concatenate([source.samplers["held_out"].rows(step) for step in range(60)])
    assert set(dataset.sites.split[rows]) == shards


@pytest.mark.parametrize("roles", [(), ("fit",), ("validation", "test")])
def test_unlabelled_roles_that_are_not_scored_are_refused(folder, roles):
    config = Config(tiny.values("convnet.py:method=dann,transductive=True", folder, **{"data.unlabelled_roles": roles}))
    with pytest.raises(UserError, match=r"data.unlabelled_roles=.*: the protocol scores in_batch, .*cross_batch"):
        tiny.source(config)


def test_the_protocol_of_another_dataset_ends_a_run_in_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="protocol wilds_ood: fit is 40,612 images of 33 experiments"):
        train.run(tiny.values("convnet.py", folder, **{"protocol.name": "wilds_ood"}), tmp_path / "run")


def test_shards_are_named_in_one_place():
    """Roles are asked, not shards: their names are in `base/spellings.py`, and where the simulator draws its own."""
    named = []
    for path in (ROOT / "rxrx_jax").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        constants = [n.value for n in nodes if isinstance(n, ast.Constant)]
        compared = [n for n in nodes if isinstance(n, ast.Compare) and "split" in ast.unparse(n.left)]
        values = [ast.unparse(n.comparators[0]) for n in compared]
        if "id_test" in constants or any(value.strip("'") in data.SPLITS for value in values):
            named.append(path.relative_to(ROOT / "rxrx_jax").as_posix())
    assert sorted(named) == ["base/spellings.py", "simulate/design.py"]
