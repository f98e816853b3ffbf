"""The flag --config of the commands that take one, beside absl's other flags."""

import sys
from collections.abc import Callable

from absl import app, flags
from ml_collections import config_flags

from rxrx_jax.base import config as config_lib
from rxrx_jax.base.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/ or a path, with arguments after a colon.")


def with_config(main: Callable[[dict], None]) -> Callable[[list[str] | None], None]:
    """main(values) as a function for `command.run`, called with the nested dict of --config when all flags are good."""

    def called(_):
        if CONFIG.value is None:
            raise UserError(f"pass --config=mae_vit.py or another file of {config_lib.CONFIGS}")
        return main(CONFIG.value.to_dict())

    def start(argv):
        sys.argv = resolve(sys.argv if argv is None else [sys.argv[0], *argv])
        app.run(called, argv=sys.argv, flags_parser=parse_flags)  # exits with SystemExit

    return start


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
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:  # a UserError raised in a config file arrives here with its traceback as text
        raise UserError(str(e).rpartition("rxrx_jax.base.errors.UserError: ")[2].strip()) from None
    except (AttributeError, KeyError, TypeError, ValueError) as e:  # what ml_collections raises for a bad override
        message = f"--config: {str(e).strip(chr(39) + chr(34))}"
        raise UserError(message.replace("\\'", "'").replace("\\n", " ")) from None
