"""The flag --config of the commands that take one, and how they report a user's mistake: one line, exit code 2."""

import sys
from collections.abc import Callable

from absl import app, flags
from ml_collections import config_flags

from rxrx_jax.base import config as config_lib
from rxrx_jax.base.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/ or a path, with arguments after a colon.")


def run(main: Callable[[dict], None]) -> None:
    """Calls main(values), the nested dict of --config, when all flags are known to be good."""

    def called(_):
        if CONFIG.value is None:
            fail(f"pass --config=mae_vit.py or another file of {config_lib.CONFIGS}")
        try:
            main(CONFIG.value.to_dict())
        except UserError as e:
            fail(e)

    try:
        sys.argv = resolve(sys.argv)
    except UserError as e:
        fail(e)
    app.run(called, argv=sys.argv, flags_parser=parse_flags)


def fail(error) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


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
    """absl's parsing, with one line for what the config file or an override of it gets wrong."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:  # a UserError raised in a config file arrives here with its traceback as text
        fail(str(e).rpartition("rxrx_jax.base.errors.UserError: ")[2].strip())
    except (AttributeError, KeyError, TypeError, ValueError) as e:  # what ml_collections raises for a bad override
        fail(f"--config: {str(e).strip(chr(39) + chr(34))}".replace("\\'", "'").replace("\\n", " "))
