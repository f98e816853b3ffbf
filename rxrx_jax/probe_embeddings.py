"""Probe of published or own embeddings: how well a logistic regression, or another probe, classifies the perturbations.

    python -m rxrx_jax.probe_embeddings FOLDER_OR_PARQUET [--probe=KIND] [--correct=NAME ...] [--protocol=NAME]
        [--partial] [--contaminated=allow]

FOLDER is one that tfds_builders.prepare_embeddings made, or the workdir of a run, whose protocol is then taken. KIND is
logistic (L-BFGS; its C is the best on validation rows, C = 1 is printed beside it), lars, class_mean or knn_K. It is
fitted on the protocol's training rows alone; the accuracies are per row (a site, or a well where an embedding is of a
whole well), of every role that the protocol scores; what else the protocol scores is listed below, such as the nearest
class means of a support. `--partial` accepts other counts than the protocol's and says in what they differ.
Rows whose labels the parameters behind the embeddings have seen are refused; the marks of every number are printed: T,
transductive; C, control-anchored; X, contaminated and allowed; ?, it is not known what the embeddings have seen.
"""

import argparse
import pathlib
import re
import sys
import types
from collections.abc import Iterable, Iterator

import numpy as np

from rxrx_jax.adapt import correct
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import from_bytes, in_words, join
from rxrx_jax.base.spellings import TREATMENT
from rxrx_jax.evaluate import cellsignal, protocols
from rxrx_jax.evaluate.accuracy import of_protocol
from rxrx_jax.evaluate.embeddings import as_dataset
from rxrx_jax.evaluate.probes import absent, kinds, neighbours

ACCURACIES = ("site_accuracy", "well_accuracy", "balanced_accuracy")
FURTHER = r"stages[^/]*/(site|well|plate_group|hungarian|wells)|absent_.*"  # of metrics, that are listed below
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


def under(columns: dict[str, np.ndarray], protocol: str) -> types.SimpleNamespace:
    """`as_dataset` with the roles that a protocol gives its rows."""
    dataset = as_dataset(columns)
    dataset.roles = protocols.roles(dataset, protocol)
    return dataset


def probe(
    columns: dict[str, np.ndarray], embedding: np.ndarray, protocol: str = protocols.DEFAULT, kind: str = kinds.KINDS[0]
) -> tuple[kinds.Probe, dict[str, dict[str, float]]]:
    """Fits on the protocol's training rows: the probe, and the metrics of every scored role with labels.

    Args:
      columns: of an embeddings file, each [n].
      embedding: [n, D].
      protocol: its name or path.
      kind: one of `kinds.KINDS`.

    metrics: those of `accuracy.of_protocol` without the name of the role, treatments (the accuracy of treated wells
    alone, NaN where none is known to be one), classes (that the fit distinguishes), absent_classes and absent_sites
    where the role has others, chance (1 / classes), commonest (accuracy of always predicting the commonest class of
    the training rows), and beside: by the name of a probe beside it, such as C_1, the site_accuracy of that.
    """
    dataset, found = under(columns, protocol), {}
    roles, label = dataset.roles, dataset.sites.label
    labels, count = np.unique(label[roles.fit[label[roles.fit] >= 0]], return_counts=True)
    told = "well_type" in columns
    fitted = kinds.fit(kind, embedding, np.arange(len(embedding)), dataset)
    for name, rows in roles.scored.items():
        if not (known := label[rows] >= 0).any():
            continue
        logits = fitted.logits(embedding[rows])
        treated = (columns["well_type"][rows] == TREATMENT) & known if told else rows < 0
        right = (logits.argmax(1) == label[rows])[treated]
        other = {of: one.logits(embedding[rows]).argmax(1) == label[rows] for of, one in fitted.beside.items()}
        found[name] = {key.removeprefix(f"{name}/"): value for key, value in of_protocol(name, logits, rows, dataset)}
        found[name] |= absent(labels, label[rows]) | {
            "treatments": float(right.mean()) if len(right) else np.nan,
            "classes": len(labels),
            "chance": 1 / len(labels),
            "commonest": float((label[rows][known] == labels[count.argmax()]).mean()),
            "beside": {of: float(one[known].mean()) for of, one in other.items()},
        }
    return fitted, found


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rxrx_jax.probe_embeddings", description="Probe of an embeddings file."
    )
    parser.add_argument("path", type=pathlib.Path, help="embeddings.parquet, or a folder that holds one")
    known = f"{', '.join(kinds.KINDS)} (default: {kinds.KINDS[0]})"
    parser.add_argument("--probe", default=kinds.KINDS[0], metavar="KIND", help=known)
    names = [name for name in correct.CORRECTIONS if name != "none"]
    corrected = f"also corrected for the batch by {', '.join(names)}; more than one may be given"
    parser.add_argument("--correct", action="append", default=[], choices=names, metavar="NAME", help=corrected)
    parser.add_argument("--protocol", help=f"name or path of one (default: the run's, else {protocols.DEFAULT})")
    parser.add_argument("--partial", action="store_true", help="accept other counts than the protocol's")
    parser.add_argument("--contaminated", choices=("allow",), help="score also rows whose labels were seen, marked X")
    flags = parser.parse_args(argv)
    kinds.check(flags.probe, "--probe")
    columns, embedding = embeddings.read(flags.path)
    protocol = flags.protocol or protocols.of_run(flags.path if flags.path.is_dir() else flags.path.parent)
    protocol = protocols.as_partial(protocol) if flags.partial else protocol
    dataset = under(columns, protocol)
    roles = dataset.roles
    if not flags.contaminated:
        check_contamination(flags.path, columns, roles.scored.values())
    told = embeddings.read_provenance(flags.path)
    marks, words = (told[0], in_words(from_bytes(told[1]))) if told else ("?", "seen: unknown")
    labels = dataset.sites.label[roles.fit]
    labels = labels[labels >= 0]
    print(f"{len(embedding):,} embeddings of {embedding.shape[1]} values; {len(labels):,} labelled training rows, "
          f"{len(np.unique(labels)):,} classes", flush=True)  # fmt: skip
    print(words)
    if roles.scoring.partial:
        print(f"PARTIAL: {roles.scoring.partial}")
    _print("as they are", marks, *probe(columns, embedding, protocol, flags.probe), further(dataset, embedding))
    for name in flags.correct:
        given = columns["experiment"], _plates(columns), columns.get("well_type")
        corrected, mark = correct.correct(name, embedding, *given, "--correct"), correct.CORRECTIONS[name].marks
        found = probe(columns, corrected, protocol, flags.probe)
        _print(f"{name} ({USES[mark]})", join(marks, mark), *found, further(dataset, corrected))


def further(dataset, embedding: np.ndarray) -> Iterator[tuple[str, float]]:
    """The accuracies of the evaluator `neighbours`, where the protocol has it."""
    settings = dataset.roles.scoring.evaluators.get("neighbours")
    if settings is not None:
        for name, value in neighbours.score(embedding, np.arange(len(embedding)), dataset, **settings):
            if name.endswith(ACCURACIES):
                yield name, value


def _plates(columns: dict[str, np.ndarray]) -> np.ndarray | None:
    """EXPERIMENT/PLATE of each row, object [n]; None if the plate column is missing."""
    if "plate" not in columns:
        return None
    return np.array([f"{e}/{p}" for e, p in zip(columns["experiment"], columns["plate"])], object)


def _print(
    title: str, marks: str, fitted: kinds.Probe, found: dict[str, dict], also: Iterator[tuple[str, float]]
) -> None:
    print(f"\n{title}{f' [{marks}]' if marks else ''}")
    for name, one in {"": fitted, **fitted.beside}.items():
        if one.about:
            print(f"{name}: {kinds.in_words(one)}" if name else kinds.in_words(one))
    beside = "".join(f" {name:>9}" for name in fitted.beside)
    print(f"{'':14} {'rows':>9} {'accuracy':>9}{beside} {'95 % interval':>16} {'treatments':>11} {'chance':>8} "
          f"{'commonest':>10}")  # fmt: skip
    if not found:
        print("no scored row has a label: prepare the embeddings with a splits.csv that holds experiments out")
        return
    lines = []
    for name, m in found.items():
        lines += [(f"{name}/{key}", m[key]) for key in m if key.endswith(ACCURACIES) and key != "site_accuracy"]
        joint = lambda key: " [T]" * key.endswith(cellsignal.JOINTLY)  # noqa: E731
        lines += [(f"{name}/{key}{joint(key)}", value) for key, value in m.items() if re.fullmatch(FURTHER, key)]
        low, high = m["site_accuracy_ci_low"], m["site_accuracy_ci_high"]
        treated = f"{m['treatments']:.4f}" if np.isfinite(m["treatments"]) else "unknown"
        interval = f"{low:.3f} to {high:.3f}" if np.isfinite(low) else "one experiment"
        other = "".join(f" {value:9.4f}" for value in m["beside"].values())
        print(f"{name:14} {m['sites']:9,} {m['site_accuracy']:9.4f}{other} {interval:>16} {treated:>11} "
              f"{m['chance']:8.4f} {m['commonest']:10.4f}")  # fmt: skip
    print(
        "interval: of the mean over experiments, stratified by cell type; treatments: without control wells; "
        "commonest: always predicting the commonest training class"
    )
    for name, value in (*lines, *also):
        print(f"{name:50} {value:.4f}" if isinstance(value, float) else f"{name:50} {value}")


if __name__ == "__main__":
    sys.exit(command.run(main))
