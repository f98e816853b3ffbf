"""The flag --config of the commands that take one, and its overrides, beside absl's other flags."""

import argparse
import ast
import difflib
import pathlib
import re
import sys
from collections.abc import Callable

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from rxrx_jax.base import config as config_lib
from rxrx_jax.base.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/ or a path, with arguments after a colon.")
OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
LENGTH = re.compile(r"(.+)_(steps|epochs|examples|percent)")
OPTIONAL = ("evaluate",)  # lengths that a config need not set
KEYS = {
    "optim.lr=0.001": "learning rate",
    "total_epochs=3": "how long; or total_steps, total_examples",
    "data.name=rxrx19a": "the dataset, by its name",
    "data.folder=DIR": "where prepared datasets are, or gs://BUCKET/DIR, s3://BUCKET/DIR",
    "data.minibatch=32": "images per step",
    "data.select.cell_types=HUVEC,U2OS": "train on part of it; or experiments, well_types, sites",
    "protocol.name=wilds_ood": "what is trained on and scored",
    "init.path=runs/mae_vit": "the stage before, or weights",
    "evaluators.leakage=False": "leave an evaluator out",
    "seed=1": "of everything that is drawn",
}
OFF = ("false", "off", "none", "0")


def run_arguments(name: str, about: str, example: str, argv: list[str] | None) -> tuple[dict, pathlib.Path]:
    """(the nested dict of --config with its overrides, --workdir) of a command that makes a run without training one:
    its module's name in the package, its docstring, and arguments of its own config as an example."""
    parser = argparse.ArgumentParser(prog=f"python -m rxrx_jax.{name}", description=about.split("\n\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE", help=f"rxrx_jax/{name}.py:{example}")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, metavar="DIR", help="where its numbers go")
    flags, rest = parser.parse_known_args(argv)
    if wrong := [argument for argument in rest if not argument.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    return values([f"--config={flags.config}", *rest]), flags.workdir


def with_config(main: Callable[[dict], None]) -> Callable[[list[str] | None], None]:
    """main(values) as a function for `command.run`, called with the nested dict of --config when all flags are good."""

    def called(_):
        return main(CONFIG.value.to_dict())

    def start(argv):
        if {"-h", "-help", "--help", "--helpshort"} & set(sys.argv if argv is None else argv):
            print(help_text(sys.modules["__main__"].__doc__))
            return 0
        sys.argv = resolve(sys.argv if argv is None else [sys.argv[0], *argv])
        app.run(called, argv=sys.argv, flags_parser=parse_flags)  # exits with SystemExit

    return start


def help_text(usage: str | None) -> str:
    """What --help prints: usage, the configs with their first lines and arguments, keys, and the flags."""
    lines = [*(usage or "").strip().splitlines(), "", f"configs, in {config_lib.CONFIGS} (or the path of your own):"]
    for path in sorted(config_lib.CONFIGS.glob("*.py")):
        tree = ast.parse(path.read_text())
        about = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
        lines.append(f"  {path.name:24} {about if len(about) < 90 else about[:87] + '...'}")
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in (call for call in calls if ast.unparse(call.func).endswith("parse_arguments")):
            arguments = ", ".join(f"{word.arg}={ast.unparse(word.value)}" for word in call.keywords)
            lines.append(f"  {'':24} after a colon: {arguments}")
    lines += ["", "keys, of which rxrx_jax/training/base_config.py has all:"]
    lines += [f"  --config.{key:42} {what}" for key, what in KEYS.items()]
    own = [flag for found in flags.FLAGS.flags_by_module_dict().values() for flag in found]
    own = [flag for flag in dict.fromkeys(own) if _module(flag).startswith(("rxrx_jax.", sys.argv[0]))]
    lines += ["", "flags:", *(f"  --{flag.name:49} {flag.help}" for flag in own)]
    return "\n".join(lines)


def _module(flag: flags.Flag) -> str:
    return str(flags.FLAGS.find_module_defining_flag(flag.name))


def values(argv: list[str]) -> dict:
    """The nested dict of --config and its overrides among the arguments of a command, of which the others are passed
    over. Raises UserError for a mistake in them."""
    config, argv = _made(resolve(["", *argv]))
    known = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=known, sys_argv=argv)
    return _parsed(config, argv, known, known_only=True)["config"].value.to_dict()


def resolve(argv: list[str]) -> list[str]:
    """argv with `--config X` or `--config=X` made `--config=PATH`, found here or in configs/."""
    argv = list(argv)
    for i, argument in enumerate(argv):
        if argument in ("--config", "-config") and i + 1 < len(argv):
            argv[i : i + 2] = [f"--config={argv[i + 1]}"]
        if argv[i].startswith(("--config=", "-config=")):
            argv[i] = f"--config={config_lib.find(argv[i].partition('=')[2])}"
    return argv


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parsing; raises UserError for a mistake in the config file or in an override."""
    config, sys.argv = _made(argv)  # where ml_collections looks for overrides
    _parsed(config, sys.argv, flags.FLAGS)
    return argv[:1]


def _made(argv: list[str]) -> tuple[ml_collections.ConfigDict, list[str]]:
    """The config that argv names, with the keys that its overrides need, and what is left of argv."""
    files = [argument.partition("=")[2] for argument in argv if argument.startswith(("--config=", "-config="))]
    if not files:
        raise UserError(f"pass --config=mae_vit.py or another file of {config_lib.CONFIGS}")
    config = config_lib.make(files[-1])
    return config, prepare(config, argv)


def _parsed(config, argv: list[str], known: flags.FlagValues, known_only: bool = False) -> flags.FlagValues:
    known["config"].parser = _Ready(config)
    try:
        known(argv, known_only)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:  # absl's, and those of ml_collections
        raise UserError(" ".join(str(e).strip("'\"").replace("\\n", " ").split())) from None
    return known


class _Ready(flags.ArgumentParser):
    """Gives the config that is made already, whatever the file."""

    def __init__(self, config: ml_collections.ConfigDict):
        self._config = config.lock()

    def parse(self, _):
        return self._config


def prepare(config: ml_collections.ConfigDict, argv: list[str]) -> list[str]:
    """Fits the keys of a config to the overrides in argv, and returns argv without those that are then done.

    A length replaces the one of another unit (`total_steps` that of `total_epochs`); an evaluator or all of them may be
    False; criteria of `data.select` and `data.channels` are values with commas between them; another `data.name` leaves
    the builder's settings of the first. Raises UserError for a key that does not exist, naming the nearest and those
    that do.
    """
    kept, rest = [], list(argv)
    while rest:
        argument = rest.pop(0)
        if not (match := OVERRIDE.fullmatch(argument)):
            kept.append(argument)
            continue
        negative, key, text = match.groups()
        *parents, last = key.split(".")
        section = config
        for name in parents:
            section = section.get(name) if isinstance(section, ml_collections.ConfigDict) else None
        if not isinstance(section, ml_collections.ConfigDict):
            raise UserError(_unknown(config, key))
        boolean = isinstance(section.get(last), bool)
        if text is None and not negative and not boolean and rest:  # `--config.seed 3`
            text = rest.pop(0)
        if parents == ["evaluators"] and last in section and (text or "").lower() in OFF:
            del section[last]
        elif key == "evaluators" and (text or "").lower() in OFF:
            config.evaluators = ml_collections.ConfigDict()
        elif key == "data.name" and text != section.name:
            section.name, section.builder = text, ml_collections.ConfigDict()
        elif (parents == ["data", "select"] or key == "data.channels") and text is not None:
            section[last] = _values(text)
        else:
            _make_room(section, last)
            if last not in section:
                raise UserError(_unknown(config, key))
            kept.append(argument if text is None else f"--config.{key}={text}")
    return kept


def _make_room(section: ml_collections.ConfigDict, name: str) -> None:
    """Puts a length in the place of the one of another unit."""
    length = LENGTH.fullmatch(name)
    if not length or name in section:
        return
    others = [other for other in section if (m := LENGTH.fullmatch(other)) and m[1] == length[1]]
    if others or length[1] in OPTIONAL:
        for other in others:
            del section[other]
        section[name] = 0.0 if length[2] in ("epochs", "percent") else 0


def _values(text: str) -> tuple:
    """`HUVEC,U2OS`, `1,2` or a literal of Python as a tuple."""
    try:
        found = ast.literal_eval(text)
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)
    except (SyntaxError, ValueError):
        return tuple(part.strip() for part in text.split(",") if part.strip())


def _unknown(config: ml_collections.ConfigDict, key: str) -> str:
    """What to say of a key that the config does not have."""
    section, path, parts = config, "", key.split(".")
    while parts and isinstance(section, ml_collections.ConfigDict) and parts[0] in section:
        path, section = f"{path}{parts[0]}.", section[parts.pop(0)]
    if not isinstance(section, ml_collections.ConfigDict):
        return f"--config.{key}: {path[:-1]} is a value, not a section"
    known, every = sorted(section), list(config_lib.flatten(config.to_dict()))
    near = [path + name for name in difflib.get_close_matches(parts[0], known, 1)]
    near = near or [name for name in every if name.rpartition(".")[2] == parts[-1]]
    hint = f"did you mean {near[0]}? " if near else ""
    where = path[:-1] or "the config"
    return f"--config.{key}: no such key; {hint}{where} has {', '.join(known) or 'none'}"
