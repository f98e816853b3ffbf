"""The console script starts every command, by the module that `python -m` names."""

import importlib.util
import runpy
import sys

import pytest

from rxrx_jax import cli
from rxrx_jax.base import command
from rxrx_jax.data.builders import builders


@pytest.fixture
def started(monkeypatch):
    found = []
    monkeypatch.setattr(sys, "argv", ["rxrx"])
    monkeypatch.setattr(runpy, "run_module", lambda name, **how: found.append((name, sys.argv[1:], how["run_name"])))
    return found


@pytest.mark.parametrize("name", [*cli.COMMANDS, *cli.OF_BUILDERS])
def test_every_command_is_a_module_that_is_started_with_its_arguments(started, name):
    assert cli.start([name, "--a=1", "b"]) is None
    ((module, arguments, run_name),) = started
    assert arguments == ["--a=1", "b"] and run_name == "__main__"
    assert module == (cli.COMMANDS[name][0] if name in cli.COMMANDS else f"{builders().__package__}.{name}")
    assert importlib.util.find_spec(module)


def test_its_help_and_its_mistakes(started, capsys):
    for argv in ([], ["--help"], ["-h"]):
        assert cli.start(argv) == 0
    cli.start(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in [*cli.COMMANDS, *cli.OF_BUILDERS])
    assert command.run(cli.start, ["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: rxrx trian: expected train, embed, ")
    assert started == []


def test_the_status_of_a_command_is_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rxrx", "export", "--checkpoint=nowhere", "--out=nowhere"])
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert status.value.code == 2 and "no checkpoint there" in capsys.readouterr().err
