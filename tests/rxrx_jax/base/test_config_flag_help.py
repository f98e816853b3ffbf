"""--help: what there is to choose."""

import ast

import pytest
from commands import python

from rxrx_jax.base import config_flag
from rxrx_jax.base.config import CONFIGS

LIGHT = """
import runpy, sys
sys.argv = ["main", "--help"]
try:
    runpy.run_module("rxrx_jax.main", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
heavy = [name for name in ("jax", "flax", "tensorflow_datasets", "orbax", "sklearn") if name in sys.modules]
assert not heavy, heavy
"""


def test_help_lists_configs_arguments_and_keys_and_imports_nothing_that_is_slow():
    done = python("-c", LIGHT)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for path in CONFIGS.glob("*.py"):
        assert path.name in done.stdout
        assert ast.get_docstring(ast.parse(path.read_text()))[:40] in done.stdout
    for text in ("after a colon: data='', paper=False", "--config.optim.lr=0.001", "--workdir", "--print_config"):
        assert text in done.stdout
    assert all(name in done.stdout for name in ("multihost", "Join the other hosts"))


@pytest.mark.parametrize("name", ["aot", "main"])
def test_help_lists_no_flag_of_another_package(name):
    done = python("-m", f"rxrx_jax.{name}", "--help")
    listed = [line.split()[0] for line in done.stdout.partition("\nflags:\n")[2].splitlines()]
    own = {"aot": ["--topology"], "main": ["--workdir", "--multihost", "--print_config"]}
    assert sorted(listed) == sorted(["--config", *own[name]])


@pytest.mark.parametrize("key", config_flag.KEYS)
def test_every_key_that_help_names_can_be_set(key):
    assert config_flag.values(["--config=dann_vit.py", f"--config.{key}"])
