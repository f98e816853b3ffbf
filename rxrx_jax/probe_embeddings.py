"""Linear probe of published or own embeddings: how well a logistic regression classifies the perturbations.

    python -m rxrx_jax.probe_embeddings FOLDER_OR_PARQUET [--correct=NAME ...] [--protocol=NAME] [--contaminated=allow]

FOLDER is one that tfds_builders.prepare_embeddings made, or the workdir of a run, whose protocol is then taken. It is
fitted on the protocol's training rows alone; the accuracies are per row (a site, or a well where an embedding is of a
whole well), of every role that the protocol scores.
Rows whose labels the parameters behind the embeddings have seen are refused; the marks of every number are printed: T,
transductive; C, control-anchored; X, contaminated and allowed; ?, it is not known what the embeddings have seen.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from rxrx_jax.adapt import correct
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import from_bytes, in_words, join
from rxrx_jax.base.spellings import TREATMENT
from rxrx_jax.evaluate import protocols
from rxrx_jax.evaluate.accuracy import summarise
from rxrx_jax.evaluate.embeddings import as_dataset
from rxrx_jax.evaluate.linear import fit_linear, log_probabilities

USES = {
    "T": "transductive: it uses unlabelled embeddings of held-out experiments",
    "C": "control-anchored: it is told which wells of held-out experiments are untreated",
}


def check_contamination(path: pathlib.Path, columns: dict[str, np.ndarray], scored: Iterable[np.ndarray]) -> None:
    """Raises UserError when the column `seen` says that labels of the `scored` rows, each int64 [n], were seen."""
    if "seen" not in columns:
        return
    rows = np.concatenate([np.zeros(0, np.int64), *scored])
    rows = rows[(columns["perturbation_id"][rows] >= 0) & (columns["seen"][rows] == "label")]
    if len(rows):
        example = columns["site_id"][rows[0]] if "site_id" in columns else columns["well_id"][rows[0]]
        more = f" and {len(rows) - 1:,} others" if len(rows) > 1 else ""
        raise UserError(
            f"{path} was made by parameters that have seen labels to be scored: {example}{more}; embed with an encoder "
            "that held them out, or say --contaminated=allow and have every number marked X"
        )


def probe(
    columns: dict[str, np.ndarray], embedding: np.ndarray, protocol: str = protocols.DEFAULT
) -> Iterator[tuple[str, dict[str, float]]]:
    """Fits on the protocol's training rows and yields (role, metrics) of every scored role with labels.

    Args:
      columns: of an embeddings file, each [n].
      embedding: [n, D].
      protocol: its name or path.

    metrics: those of `accuracy.summarise` without the name of the role, treatments (the accuracy of treated wells
    alone, NaN where none is known to be one), and classes (that the fit distinguishes),
    chance (1 / classes) and commonest (accuracy of always predicting the commonest class of the training rows).
    """
    dataset = as_dataset(columns)
    roles = protocols.roles(dataset, protocol)
    train = roles.fit[dataset.sites.label[roles.fit] >= 0]
    labels, count = np.unique(dataset.sites.label[train], return_counts=True)
    told = "well_type" in columns
    try:
        model = fit_linear(embedding[train], dataset.sites.label[train])
    except MemoryError as error:
        raise UserError(
            f"a probe of {len(labels):,} classes on {len(train):,} rows does not fit this machine's memory"
        ) from error
    for name, rows in roles.scored.items():
        if not (dataset.sites.label[rows] >= 0).any():
            continue
        logits = log_probabilities(model, embedding[rows], len(dataset.classes))
        metrics = {key.removeprefix(f"{name}/"): value for key, value in summarise(name, logits, rows, dataset)}
        known = dataset.sites.label[rows][dataset.sites.label[rows] >= 0]
        treated = (columns["well_type"][rows] == TREATMENT) & (dataset.sites.label[rows] >= 0) if told else rows < 0
        right = logits.argmax(1)[treated] == dataset.sites.label[rows[treated]]
        metrics |= {
            "treatments": float(right.mean()) if len(right) else np.nan,
            "classes": len(labels),
            "chance": 1 / len(labels),
            "commonest": float((known == labels[count.argmax()]).mean()),
        }
        yield name, metrics


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rxrx_jax.probe_embeddings", description="Linear probe of an embeddings file."
    )
    parser.add_argument("path", type=pathlib.Path, help="embeddings.parquet, or a folder that holds one")
    names = [name for name in correct.CORRECTIONS if name != "none"]
    corrected = f"also corrected for the batch by {', '.join(names)}; more than one may be given"
    parser.add_argument("--correct", action="append", default=[], choices=names, metavar="NAME", help=corrected)
    parser.add_argument("--protocol", help=f"name or path of one (default: the run's, else {protocols.DEFAULT})")
    parser.add_argument("--contaminated", choices=("allow",), help="score also rows whose labels were seen, marked X")
    flags = parser.parse_args(argv)
    columns, embedding = embeddings.read(flags.path)
    dataset = as_dataset(columns)
    protocol = flags.protocol or protocols.of_run(flags.path if flags.path.is_dir() else flags.path.parent)
    roles = protocols.roles(dataset, protocol)
    if not flags.contaminated:
        check_contamination(flags.path, columns, roles.scored.values())
    told = embeddings.read_provenance(flags.path)
    marks, words = (told[0], in_words(from_bytes(told[1]))) if told else ("?", "seen: unknown")
    labels = dataset.sites.label[roles.fit]
    labels = labels[labels >= 0]
    print(f"{len(embedding):,} embeddings of {embedding.shape[1]} values; {len(labels):,} labelled training rows, "
          f"{len(np.unique(labels)):,} classes", flush=True)  # fmt: skip
    print(words)
    _print("as they are", marks, probe(columns, embedding, protocol))
    for name in flags.correct:
        given = columns["experiment"], _plates(columns), columns.get("well_type")
        corrected, mark = correct.correct(name, embedding, *given, "--correct"), correct.CORRECTIONS[name].marks
        _print(f"{name} ({USES[mark]})", join(marks, mark), probe(columns, corrected, protocol))


def _plates(columns: dict[str, np.ndarray]) -> np.ndarray | None:
    """EXPERIMENT/PLATE of each row, object [n]; None if the plate column is missing."""
    if "plate" not in columns:
        return None
    return np.array([f"{e}/{p}" for e, p in zip(columns["experiment"], columns["plate"])], object)


def _print(title: str, marks: str, found: Iterator[tuple[str, dict[str, float]]]) -> None:
    print(f"\n{title}{f' [{marks}]' if marks else ''}")
    print(
        f"{'':14} {'rows':>9} {'accuracy':>9} {'95 % interval':>16} {'treatments':>11} {'chance':>8} {'commonest':>10}"
    )
    empty = True
    for name, m in found:
        empty = False
        low, high = m["site_accuracy_ci_low"], m["site_accuracy_ci_high"]
        treated = f"{m['treatments']:.4f}" if np.isfinite(m["treatments"]) else "unknown"
        interval = f"{low:.3f} to {high:.3f}" if np.isfinite(low) else "one experiment"
        print(f"{name:14} {m['sites']:9,} {m['site_accuracy']:9.4f} {interval:>16} {treated:>11} "
              f"{m['chance']:8.4f} {m['commonest']:10.4f}", flush=True)  # fmt: skip
    if not empty:
        print(
            "interval: of the mean over experiments, stratified by cell type; treatments: without control wells; "
            "commonest: always predicting the commonest training class"
        )
    else:
        print("no scored row has a label: prepare the embeddings with a splits.csv that holds experiments out")


if __name__ == "__main__":
    sys.exit(command.run(main))
