"""A config's dataset and its scale are two choices."""

import pytest

from rxrx_jax.base import config as config_lib
from rxrx_jax.base.config_flag import values
from rxrx_jax.base.errors import UserError

# of one dataset, of none, and of molecules
OTHERS = ("adaptation", "mogfn", "mole", "mole_biology", "mole_finetune", "molecule_map")
FILES = sorted(path.name for path in config_lib.CONFIGS.glob("*.py") if path.stem not in OTHERS)


@pytest.mark.parametrize("name", FILES)
def test_every_config_takes_any_dataset_at_either_scale(name):
    simulated, mine, other = (config_lib.load(f"{name}{tail}") for tail in ("", ":data=mine", ":data=mine,paper"))
    assert mine["data"]["name"] == other["data"]["name"] == "mine" and mine["data"]["builder"] == {}
    assert mine["protocol"]["name"] == "held_out_experiments" and simulated["protocol"]["name"] == "held_out_wells"
    for key in ("model", "optim", "task", "augment"):
        assert mine[key] == simulated[key]
    published = config_lib.load(f"{name}:rxrx1")
    for key in ("model", "optim", "task", "augment", "normalisation", "total_epochs", "log_steps"):
        assert other[key] == published[key], key
    assert {**other["data"], "name": "rxrx1"} == published["data"]
    found = values([f"--config={name}", "--config.data.name=rxrx19a"])
    assert found["data"] == {**simulated["data"], "name": "rxrx19a", "builder": {}}


def test_a_dataset_is_named_once():
    with pytest.raises(UserError, match="rxrx1 and mine: choose one"):
        config_lib.load("mae_vit.py:rxrx1,data=mine")


def test_a_path_is_a_name():
    assert config_lib.load("convnet.py:data=/a/b.py")["data"]["name"] == "/a/b.py"


@pytest.mark.parametrize("name", ["mae_vit.py", "channel_agnostic_mae.py"])
def test_a_small_encoder_has_a_small_decoder_whatever_the_dataset(name):
    width, blocks, _ = config_lib.load(f"{name}:rxrx1,variant=S/16")["task"]["decoder"]
    for tail in ("", ":rxrx1,variant=XXS/16", ":data=rxrx1", ":rxrx3,variant=Ti/16"):
        small = config_lib.load(f"{name}{tail}")["task"]["decoder"]
        assert small[0] * 8 <= width and small[1] * 2 <= blocks
    assert config_lib.load(f"{name}:data=mine,variant=B/16")["task"]["decoder"] == (width, blocks, 16)
