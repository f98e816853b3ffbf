"""`python -m rxrx_jax.main --config=mae_vit.py[:arguments] [--workdir=DIR] [--config.optim.lr=1e-4 ...]`"""

import os
import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from rxrx_jax import config as config_lib
from rxrx_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/ or a path, with arguments after a colon.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is written; default runs/CONFIG under this folder.")


def main(_) -> None:
    if CONFIG.value is None:
        _fail(f"pass --config=mae_vit.py or another file of {config_lib.CONFIGS}")
    # Before anything asks for a device. On a cluster that jax knows (TPU pod, SLURM with several tasks) it finds the
    # other hosts by itself; one host needs nothing.
    if os.environ.get("JAX_COORDINATOR_ADDRESS") or int(os.environ.get("SLURM_NTASKS", 1)) > 1 or _on_tpu_pod():
        jax.distributed.initialize()
    logging.set_verbosity(logging.WARNING)  # absl, for orbax and TFDS

    from rxrx_jax import train  # imports of the whole stack wait until the flags are known to be good

    workdir = pathlib.Path(WORKDIR.value or pathlib.Path("runs") / _default_name(sys.argv))
    try:
        last = train.run(CONFIG.value.to_dict(), workdir)
    except UserError as e:
        _fail(e)
    if jax.process_index() == 0:
        print(f"done: {workdir} step {last['step']} parameters {last['parameters_sha256'][:12]}")


def _on_tpu_pod() -> bool:
    return len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1


def _default_name(argv) -> str:
    """`mae_vit` or `mae_vit-rxrx1-variant=B_16` from the --config flag."""
    value = next(a.partition("=")[2] for a in argv if a.startswith("--config="))
    name, _, arguments = value.partition(":")
    parts = [pathlib.Path(name).stem, *filter(None, arguments.split(","))]
    return "-".join(part.replace("/", "_") for part in parts)


def _fail(error) -> None:
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
        _fail(str(e).rpartition("rxrx_jax.errors.UserError: ")[2].strip())
    except (AttributeError, KeyError, TypeError, ValueError) as e:  # what ml_collections raises for a bad override
        _fail(f"--config: {str(e).strip(chr(39) + chr(34))}".replace("\\'", "'").replace("\\n", " "))


def cli() -> None:
    try:
        sys.argv = resolve(sys.argv)
    except UserError as e:
        _fail(e)
    app.run(main, argv=sys.argv, flags_parser=parse_flags)


if __name__ == "__main__":
    cli()
