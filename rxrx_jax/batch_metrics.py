"""How much of the batch is left in stored embeddings, and how much of the biology is kept.

    python -m rxrx_jax.batch_metrics RUN [--metrics NAME ...] [--correct NAME ...]

RUN is the workdir of a run, a folder that tfds_builders.prepare_embeddings made, or an embeddings file. Of a finished
run the numbers also go into the line of the last evaluation of its metrics.jsonl, beside its accuracies, as
batch_metrics/KEY and leakage/KEY; of corrected embeddings as CORRECTION/batch_metrics/KEY. docs/batch_metrics.md says
what each of them is. The evaluator batch_metrics gives them during a run (`config.evaluators`).
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
from etils import epath

from rxrx_jax.adapt import correct
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import join
from rxrx_jax.evaluate.batch_metrics import leakage, score
from rxrx_jax.evaluate.batch_metrics.wells import of_sites
from rxrx_jax.evaluate.embeddings import as_dataset
from rxrx_jax.training import metrics
from rxrx_jax.training.claims import alone
from rxrx_jax.training.provenance.facts import code_version

LEAKAGE = "leakage"
ALL = (LEAKAGE, *score.METRICS)


def compute(prefix: str, embedding: np.ndarray, dataset, names: tuple[str, ...] = ALL) -> Iterator[tuple[str, float]]:
    """(name, value) of the metrics of these `names`, each name after the prefix.

    Args: embedding [n, D] of all rows of a dataset as `as_dataset` makes it.
    Raises UserError for what cannot be compared (`wells.of_sites`, `score.score`).
    """
    rows, sites = np.arange(len(embedding)), dataset.sites
    wells = of_sites(embedding, rows, dataset)
    if LEAKAGE in names:
        for column in ("plate", "well_type"):
            if getattr(sites, column) is None:
                raise UserError(
                    f"{LEAKAGE} needs a column {column}, and the embeddings have none: choose other metrics"
                )
        yield from leakage.score(f"{prefix}{LEAKAGE}", embedding, rows, dataset)
    yield from score.score(f"{prefix}batch_metrics", wells, [name for name in names if name != LEAKAGE], dataset)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.batch_metrics", description=__doc__.split("\n")[0])
    parser.add_argument("path", type=pathlib.Path, metavar="RUN", help="workdir, folder or file of the embeddings")
    parser.add_argument("--metrics", nargs="+", choices=ALL, default=ALL, metavar="NAME", help=f"of {', '.join(ALL)}")
    corrections = [name for name in correct.CORRECTIONS if name != "none"]
    also = f"also of embeddings corrected for the batch: {', '.join(corrections)}"
    parser.add_argument("--correct", nargs="+", choices=corrections, default=[], metavar="NAME", help=also)
    flags = parser.parse_args(argv)
    columns, embedding = embeddings.read(flags.path)
    dataset = as_dataset(columns)
    plate = None if dataset.sites.plate is None else np.array(dataset.plates)[dataset.sites.plate]
    told = embeddings.read_provenance(flags.path)
    found: dict[str, float | str] = {}
    for name in ("none", *flags.correct):
        prefix = "" if name == "none" else f"{name}/"
        given = columns["experiment"], plate, columns.get("well_type")
        corrected = correct.correct(name, embedding, *given, "--correct")
        marks = join(told[0] if told else "?", correct.CORRECTIONS[name].marks)
        values = dict(compute(prefix, corrected, dataset, flags.metrics))
        print(table("as they are" if name == "none" else name, prefix, marks, values), flush=True)
        found |= values | {f"marks/{prefix}batch_metrics": marks}
    record(flags.path, found)


def table(title: str, prefix: str, marks: str, values: dict[str, float]) -> str:
    """The numbers as text, each beside that of an embedding that tells nothing, without those of single cell types."""
    lines = [f"{title}{f' [{marks}]' if marks else ''}", f"{'':48} {'value':>8} {'chance':>8}"]
    for name, value in values.items():
        key = name.removeprefix(prefix)
        chance = values.get(f"{name}_shuffled", values.get(name.replace("_accuracy", "_floor")))
        if key.count("/") == 1 and not key.endswith(("_shuffled", "_floor")):
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
            lines.append(f"{key:48} {shown:>8} {'' if chance in (None, value) else f'{chance:8.4f}'}".rstrip())
    return "\n".join(lines)


def record(path: pathlib.Path, found: dict[str, float | str]) -> None:
    """Puts the numbers into the line of the last evaluation of the finished run whose workdir or embeddings these are,
    with the version of this code; says where they went, or why nowhere."""
    workdir = path if path.is_dir() else path.parent
    if not (workdir / metrics.NAME).exists():
        return
    with alone(epath.Path(workdir)):
        if metrics.finished(workdir / metrics.NAME) is None:
            print(f"{workdir} is not a finished run: nothing is recorded")
            return
        metrics.amend(workdir / metrics.NAME, found | {"batch_metrics/code": code_version()})
    print(f"recorded in {workdir / metrics.NAME}")


if __name__ == "__main__":
    sys.exit(command.run(main))
