"""`python -m rxrx_jax.main --config=mae_vit.py[:arguments] [--workdir=DIR] [--config.optim.lr=1e-4 ...]`"""

import os
import pathlib
import sys

import jax
from absl import flags, logging

from rxrx_jax import command
from rxrx_jax.speed import allocator

WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is written; default runs/CONFIG under this folder.")


def main(values: dict) -> None:
    # Before anything asks for a device. On a cluster that jax knows (TPU pod, SLURM with several tasks) it finds the
    # other hosts by itself; one host needs nothing.
    if os.environ.get("JAX_COORDINATOR_ADDRESS") or int(os.environ.get("SLURM_NTASKS", 1)) > 1 or _on_tpu_pod():
        jax.distributed.initialize()
    logging.set_verbosity(logging.WARNING)  # absl, for orbax and TFDS

    from rxrx_jax import train  # imports of the whole stack wait until the flags are known to be good

    name = _default_name(sys.argv) + (f"-{values['measure']}" if values.get("measure") else "")
    workdir = pathlib.Path(WORKDIR.value or pathlib.Path("runs") / name)
    last = train.run(values, workdir)
    if jax.process_index() == 0:
        what = f"parameters {last['parameters_sha256'][:12]}" if "parameters_sha256" in last else "nothing trained"
        print(f"done: {workdir} step {last['step']} {what}")


def _on_tpu_pod() -> bool:
    return len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1


def _default_name(argv) -> str:
    """`mae_vit` or `mae_vit-rxrx1-variant=B_16` from the --config flag."""
    value = next(a.partition("=")[2] for a in argv if a.startswith("--config="))
    name, _, arguments = value.partition(":")
    parts = [pathlib.Path(name).stem, *filter(None, arguments.split(","))]
    return "-".join(part.replace("/", "_") for part in parts)


if __name__ == "__main__":
    allocator.use_huge_pages()
    command.run(main)
