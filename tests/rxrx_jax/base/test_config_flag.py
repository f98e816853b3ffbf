"""Overrides of a config's keys on the command line."""

import pytest

from rxrx_jax.base.config import Config, flatten
from rxrx_jax.base.config_flag import values
from rxrx_jax.base.errors import UserError


def read(*overrides, config="linear_probe.py"):
    return values([f"--config={config}", "--workdir=elsewhere", *overrides])


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("--config.total_steps=20", "total_steps", 20),
        ("--config.total_examples=100", "total_examples", 100),
        ("--config.total_epochs=0.5", "total_epochs", 0.5),
        ("--config.log_epochs=0.1", "log_epochs", 0.1),
        ("--config.checkpoint_percent=5", "checkpoint_percent", 5.0),
        ("--config.evaluate_epochs=1", "evaluate_epochs", 1.0),
        ("--config.optim.warmup_steps=3", "optim.warmup_steps", 3),
    ],
)
def test_any_length_replaces_that_of_another_unit(override, key, value):
    found = flatten(read(override))
    stem = key.rpartition("_")[0]
    assert [name for name in found if name.rpartition("_")[0] == stem] == [key]
    assert found[key] == value and type(found[key]) is type(value)


def test_evaluators_are_switched_off():
    assert sorted(read()["evaluators"]) == ["accuracy", "probe"]
    assert sorted(read("--config.evaluators.probe=False")["evaluators"]) == ["accuracy"]
    assert read("--config.evaluators=False")["evaluators"] == {}
    assert read("--config.evaluators.probe.blocks=True")["evaluators"]["probe"]["blocks"] is True


@pytest.mark.parametrize(
    "text, value",
    [
        ("HUVEC,U2OS", ("HUVEC", "U2OS")),
        ("HUVEC", ("HUVEC",)),
        ("('HUVEC',)", ("HUVEC",)),
        ("1,2", (1, 2)),
        ("1", (1,)),
        ("HEPG2-01", ("HEPG2-01",)),
    ],
)
def test_a_selection_is_set(text, value):
    assert Config(read(f"--config.data.select.cell_types={text}")).data.select.as_kwargs() == {"cell_types": value}


@pytest.mark.parametrize("text, value", [("0,1,2", (0, 1, 2)), ("(4, 0)", (4, 0)), ("3", (3,)), ("()", ())])
def test_channels_are_set(text, value):
    assert Config(read(f"--config.data.channels={text}")).data.channels == value


def test_another_dataset_leaves_the_settings_of_the_first():
    assert read()["data"]["builder"] == {"seed": 0, "layout": "fixed"}
    found = read("--config.data.name=rxrx19a")["data"]
    assert found["name"] == "rxrx19a" and found["builder"] == {}
    assert read("--config.data.name=rxrx_sim")["data"]["builder"]


def test_values_and_flags_of_every_kind():
    found = read("--config.seed", "3", "--config.guard.rollback", "--config.augment.flips=false", "--config.optim.lr=2")
    assert (found["seed"], found["guard"]["rollback"], found["augment"]["flips"], found["optim"]["lr"]) == (
        3,
        True,
        False,
        2,
    )
    assert read("--config.guard.rollback=True", "--noconfig.guard.rollback")["guard"]["rollback"] is False
    assert read("--config.optim.lr=1e-4")["optim"]["lr"] == 1e-4
    assert read("--config.profile_steps=(3, 5)")["profile_steps"] == (3, 5)
    assert read("--config.data.folder=/a=b")["data"]["folder"] == "/a=b"


@pytest.mark.parametrize(
    "override, words",
    [
        ("--config.cell_types=1", "--config.cell_types: no such key; the config has accumulate, augment,"),
        ("--config.accuracy=1", "--config.accuracy: no such key; did you mean evaluators.accuracy?"),
        ("--config.optim.learning_rate=1", "optim.learning_rate: no such key; optim has clip_norm, lr, momentum,"),
        ("--config.optim.lrr=1", "--config.optim.lrr: no such key; did you mean optim.lr? optim has"),
        ("--config.lr=1", "--config.lr: no such key; did you mean optim.lr? the config has"),
        ("--config.opitm.lr=1", "--config.opitm.lr: no such key; did you mean optim? the config has"),
        ("--config.seed.a=1", "--config.seed.a: seed is a value, not a section"),
        ("--config.totl_steps=1", "--config.totl_steps: no such key; did you mean log_steps?"),
        ("--config.evaluators.probes=False", "did you mean evaluators.probe? evaluators has accuracy, probe"),
        ("--config.seed=one", "flag --config.seed=one: invalid literal"),
        ("--config.optim.lr=x", "flag --config.optim.lr=x: could not convert string to float"),
    ],
)
def test_a_mistake_names_the_key_the_nearest_and_the_known_ones(override, words):
    with pytest.raises(UserError) as found:
        read(override)
    assert words in str(found.value) and "\n" not in str(found.value)
