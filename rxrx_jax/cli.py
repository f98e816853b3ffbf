"""`rxrx COMMAND ...`: the commands of `python -m`, under one name.

rxrx train --config=mae_vit.py               is  python -m rxrx_jax.main --config=mae_vit.py
rxrx prepare rxrx1 --source=FOLDER           is  python -m tfds_builders.prepare rxrx1 --source=FOLDER
"""

import importlib
import runpy
import sys

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError

COMMANDS = {
    "train": ("rxrx_jax.main", "trains what --config says, and resumes it"),
    "embed": ("rxrx_jax.embed", "embeds a prepared dataset"),
    "probe": ("rxrx_jax.probe_embeddings", "probe of an embeddings file"),
    "batch_metrics": ("rxrx_jax.batch_metrics", "how much batch, and how much biology, is in embeddings"),
    "submission": ("rxrx_jax.submission", "checks, scores and converts a submission to CellSignal"),
    "maps": ("rxrx_jax.maps.__main__", "makes maps of genes and compounds from embeddings, and scores them"),
    "export": ("rxrx_jax.weights.export", "makes a folder to publish from a run"),
    "reproduce": ("rxrx_jax.reproduce", "trains what a table needs and writes it"),
    "compare": ("rxrx_jax.compare", "sets finished runs of one protocol side by side"),
    "report": ("rxrx_jax.report.__main__", "writes the page of a run"),
}
OF_BUILDERS = {  # modules of the package that prepares datasets
    "download": "fetches a published dataset",
    "prepare": "makes records from images",
    "prepare_embeddings": "makes a folder from published embeddings",
    "verify": "checks a prepared folder",
}


def start(argv: list[str]) -> int | None:
    """Runs the command that the first argument names with the others, as `python -m` does; returns its status."""
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        texts = {command: text for command, (_, text) in COMMANDS.items()} | OF_BUILDERS
        print("rxrx COMMAND ..., with --help after a command for its options:\n")
        print("\n".join(f"  {command:19} {text}" for command, text in texts.items()))
        return 0
    if name == "train":  # whose flags are absl's, of the whole process
        sys.argv = [sys.argv[0], *rest]
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
        return 0
    if name in COMMANDS:
        module = COMMANDS[name][0]
    elif name in OF_BUILDERS:
        from rxrx_jax.data.builders import builders

        module = f"{builders().__package__}.{name}"
    else:
        raise UserError(f"rxrx {name}: expected {', '.join([*COMMANDS, *OF_BUILDERS])}")
    return importlib.import_module(module).main(rest)


def main() -> int:
    """The console script: the status of the command."""
    return command.run(lambda argv: start(sys.argv[1:] if argv is None else argv))
