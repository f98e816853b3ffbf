"""`python -m rxrx_jax.main --config=mae_vit.py[:arguments] [--workdir=DIR] [--config.optim.lr=1e-4 ...]`"""

import hashlib
import pathlib
import re
import sys
from logging import CRITICAL, getLogger

from absl import flags, logging

from rxrx_jax.base import command, config_flag
from rxrx_jax.training.speed import allocator

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is written, a folder that all hosts see or a gs:// address; default runs/CONFIG."
)
MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Join the other hosts of a Cloud TPU slice (elsewhere the environment says)."
)
PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Print the resolved config, the run's steps, parameters and least memory, and stop."
)
LONGEST_NAME = 150  # characters of a default workdir


def main(values: dict) -> None:
    import jax  # with the whole stack it waits until the flags are known to be good

    from rxrx_jax.base import hosts
    from rxrx_jax.training.safety.preemption import Stopped

    logging.set_verbosity(logging.FATAL)  # absl, for jax, TFDS and Orbax, whose errors are raised as well
    getLogger("asyncio").setLevel(CRITICAL)  # as are those of Orbax's threads
    if PRINT_CONFIG.value:
        from rxrx_jax.training import describe

        return print(describe.text(values), end="")
    hosts.join(MULTIHOST.value)  # before anything asks for a device

    workdir = WORKDIR.value or f"runs/{default_name(sys.argv)}"
    try:
        with hosts.leaving(Stopped):
            from rxrx_jax.training import train

            last = train.run(values, workdir)
    except Stopped:
        return hosts.part()
    if jax.process_index() == 0:
        what = f"parameters {last['parameters_sha256'][:12]}" if "parameters_sha256" in last else "nothing trained"
        print(f"done: {workdir} step {last['step']} {what}")
    hosts.part()


def figures(values: dict) -> str:
    """One line of what a config will train: steps, parameters, FLOPs, memory. Raises UserError as the run would."""
    from rxrx_jax.training import describe

    return describe.figures(values)


def default_name(argv: list[str]) -> str:
    """`mae_vit`, `mae_vit-rxrx1-variant=B_16` or `mae_vit-optim.lr=0.001` from --config and its overrides, whose order
    does not matter."""
    value = next(a.partition("=")[2] for a in argv if a.startswith("--config="))
    name, _, arguments = value.partition(":")
    found = dict(a.lstrip("-").removeprefix("config.").partition("=")[::2] for a in argv if re.match("--?config[.]", a))
    found |= {a.lstrip("-"): "" for a in argv if re.match("--?noconfig[.]", a)}
    overrides = [f"{key}={text}" if text else key for key, text in sorted(found.items())]
    parts = [pathlib.Path(name).stem, *filter(None, arguments.split(",")), *overrides]
    name = re.sub(r"[/\s\0]+", "_", "-".join(parts))
    if len(name) > LONGEST_NAME:  # file systems have names of 255 bytes at most
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


if __name__ == "__main__":
    allocator.use_huge_pages()
    sys.exit(command.run(config_flag.with_config(main)))
