"""Colon arguments, the read-only view of a config, and lengths of a run."""

import json

import pytest

from rxrx_jax.base import config as config_lib
from rxrx_jax.base.config import Config, duration, find, parse_arguments, to_json
from rxrx_jax.base.errors import UserError

DEFAULTS = dict(rxrx1=False, variant="", seed=0, weight=0.5)


def test_arguments_are_typed_by_their_defaults():
    assert parse_arguments(None, **DEFAULTS).to_dict() == DEFAULTS
    assert parse_arguments("", **DEFAULTS).to_dict() == DEFAULTS
    found = parse_arguments("rxrx1,variant=B/16,seed=7,weight=1e-3", **DEFAULTS)
    assert found.to_dict() == dict(rxrx1=True, variant="B/16", seed=7, weight=1e-3)
    assert type(found.seed) is int and type(found.weight) is float
    assert type(parse_arguments("weight=2", **DEFAULTS).weight) is float
    assert parse_arguments("variant=a=b", **DEFAULTS).variant == "a=b"


@pytest.mark.parametrize(
    "text, value", [("x", True), ("x=True", True), ("x=1", True), ("x=false", False), ("x=0", False)]
)
def test_booleans(text, value):
    assert parse_arguments(text, x=not value).x is value


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "varient=B/16",
            "config argument 'varient' is unknown; this config takes rxrx1, seed, variant, weight",
        ),
        ("seed=x", "config argument 'seed=x': expected seed=int"),
        ("seed=1.5", "expected seed=int"),
        ("seed", "config argument 'seed': expected seed=int"),
        ("variant", "expected variant=str"),
        ("rxrx1=yes", "config argument 'rxrx1=yes': expected rxrx1=bool"),
        ("weight=", "expected weight=float"),
    ],
)
def test_bad_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_arguments(text, **DEFAULTS)


def test_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(config_lib, "CONFIGS", tmp_path / "configs")
    (tmp_path / "configs" / "a.py").touch()
    (tmp_path / "mine.py").touch()
    assert find("a.py") == f"{tmp_path}/configs/a.py"
    assert find("a.py:x,variant=B/16") == f"{tmp_path}/configs/a.py:x,variant=B/16"
    assert find("mine.py:x") == "mine.py:x"
    (tmp_path / "a.py").touch()
    assert find("a.py") == "a.py"  # here comes first
    with pytest.raises(UserError, match=r"--config=b.py: no such file here .*which has a.py"):
        find("b.py:x")


def make():
    values = {
        "seed": 3,
        "optim": {"lr": 0.1, "betas": [0.9, 0.95]},
        "data": {"select": {"sites": [1]}},
        "empty": {},
    }
    return Config(values)


def test_values_are_read_by_their_names():
    config = make()
    assert (config.seed, config.optim.lr, config.optim.betas) == (3, 0.1, (0.9, 0.95))
    assert config.get("seed") == 3 and config.get("missing") is None and config.get("missing", 4) == 4
    assert config.get("optim").get("lr") == 0.1
    assert "optim" in config and "lr" in config.optim and "lr" not in config
    assert list(config) == ["seed", "optim", "data", "empty"]
    assert config.data.select.as_kwargs() == {"sites": (1,)} and config.empty.as_kwargs() == {}


def test_a_missing_key_is_an_error_with_its_full_name():
    with pytest.raises(UserError, match="^config key optim.momentum is missing$"):
        make().optim.momentum  # noqa: B018
    with pytest.raises(UserError, match="^config key task is missing$"):
        make().task.name  # noqa: B018


def test_unread_keys_are_found_at_every_level():
    config = make()
    assert config.unread() == ["data.select.sites", "optim.betas", "optim.lr", "seed"]
    config.optim.lr  # noqa: B018
    config.get("seed")
    assert "betas" in config.optim  # looking whether a key is there does not read it
    assert config.unread() == ["data.select.sites", "optim.betas"]
    with pytest.raises(UserError, match="config key data.select.sites, optim.betas is unused or misspelled"):
        config.check_all_read()
    config.data.select.as_kwargs()
    config.optim.betas  # noqa: B018
    config.check_all_read()


@pytest.mark.parametrize(
    "values, steps",
    [
        ({"total_steps": 30}, 30),
        ({"total_epochs": 3}, 38),  # 100 images, 8 per step: 12.5 steps per epoch
        ({"total_epochs": 0.5}, 6),
        ({"total_examples": 80}, 10),
        ({"total_examples": 1}, 1),  # at least one step
        ({"total_percent": 5.0}, 10),
        ({"total_percent": 0.1}, 1),
        ({"total_steps": 0}, 0),
        ({"other_steps": 30}, None),
    ],
)
def test_durations(values, steps):
    assert duration(Config(values), "total", minibatch=8, examples=100, total_steps=200) == steps


def test_durations_that_say_too_much():
    both = Config({"total_steps": 3, "total_epochs": 1})
    with pytest.raises(UserError, match="total_steps and total_epochs say the same thing twice"):
        duration(both, "total", minibatch=8, examples=100)
    with pytest.raises(UserError, match="total_percent: a percentage"):
        duration(Config({"total_percent": 5}), "total", minibatch=8, examples=100)


def test_a_duration_counts_as_read():
    config = Config({"total_epochs": 1, "log_steps": 2})
    duration(config, "total", minibatch=8, examples=100)
    assert config.unread() == ["log_steps"]


def test_json_does_not_depend_on_the_order_of_keys():
    assert to_json({"b": 1, "a": {"d": 2, "c": (1, 2)}}) == to_json({"a": {"c": [1, 2], "d": 2}, "b": 1})
    assert json.loads(to_json({"a": None})) == {"a": None}
