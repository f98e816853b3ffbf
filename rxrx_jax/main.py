"""`python -m rxrx_jax.main --config=mae_vit.py[:arguments] [--workdir=DIR] [--config.optim.lr=1e-4 ...]`"""

import pathlib
import sys
from logging import CRITICAL, getLogger

import jax
from absl import flags, logging

from rxrx_jax.base import command, config_flag, hosts
from rxrx_jax.training.safety.preemption import Stopped
from rxrx_jax.training.speed import allocator

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is written, a folder that all hosts see or a gs:// address; default runs/CONFIG."
)
MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Join the other hosts of a Cloud TPU slice (elsewhere the environment says)."
)


def main(values: dict) -> None:
    logging.set_verbosity(logging.FATAL)  # absl, for jax, TFDS and Orbax, whose errors are raised as well
    getLogger("asyncio").setLevel(CRITICAL)  # as are those of Orbax's threads
    hosts.join(MULTIHOST.value)  # before anything asks for a device

    name = _default_name(sys.argv) + (f"-{values['measure']}" if values.get("measure") else "")
    workdir = WORKDIR.value or f"runs/{name}"
    try:
        with hosts.leaving(Stopped):
            from rxrx_jax.training import train  # imports of the whole stack wait until the flags are known to be good

            last = train.run(values, workdir)
    except Stopped:
        return hosts.part()
    if jax.process_index() == 0:
        what = f"parameters {last['parameters_sha256'][:12]}" if "parameters_sha256" in last else "nothing trained"
        print(f"done: {workdir} step {last['step']} {what}")
    hosts.part()


def _default_name(argv) -> str:
    """`mae_vit` or `mae_vit-rxrx1-variant=B_16` from the --config flag."""
    value = next(a.partition("=")[2] for a in argv if a.startswith("--config="))
    name, _, arguments = value.partition(":")
    parts = [pathlib.Path(name).stem, *filter(None, arguments.split(","))]
    return "-".join(part.replace("/", "_") for part in parts)


if __name__ == "__main__":
    allocator.use_huge_pages()
    sys.exit(command.run(config_flag.with_config(main)))
