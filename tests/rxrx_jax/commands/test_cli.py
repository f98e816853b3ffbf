"""The console script starts every command, by the module that `python -m` names."""

import importlib.util
import runpy
import sys

import pytest

from rxrx_jax import cli
from rxrx_jax.base import command
from rxrx_jax.data.builders import builders


@pytest.mark.parametrize("name", [*cli.COMMANDS, *cli.OF_BUILDERS])
def test_every_command_is_a_module_that_gets_the_other_arguments(monkeypatch, name):
    module = cli.COMMANDS[name][0] if name in cli.COMMANDS else f"{builders().__package__}.{name}"
    found = []
    monkeypatch.setattr(sys, "argv", ["rxrx"])
    if name == "train":
        monkeypatch.setattr(runpy, "run_module", lambda module, **how: found.append((module, sys.argv[1:])))
    else:
        monkeypatch.setattr(f"{module}.main", lambda argv: found.append((module, argv)))
    assert not cli.start([name, "--a=1", "b"])
    assert found == [(module, ["--a=1", "b"])] and importlib.util.find_spec(module)


def test_its_help_and_its_mistakes(capsys):
    for argv in ([], ["--help"], ["-h"]):
        assert cli.start(argv) == 0
        said = capsys.readouterr().out
        assert all(f"\n  {name} " in said for name in [*cli.COMMANDS, *cli.OF_BUILDERS])
    assert command.run(cli.start, ["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: rxrx trian: expected train, embed, ")


def test_the_status_of_a_command_is_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rxrx", "export", "--checkpoint=nowhere", "--out=nowhere"])
    assert cli.main() == 2
    said = capsys.readouterr().err
    assert "nowhere: no such file or folder" in said and said.count("\n") == 1
