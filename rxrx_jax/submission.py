"""Checks, scores and converts a submission to CellSignal, the competition on RxRx1: submission.csv of a run's workdir.

    python -m rxrx_jax.submission FILE --wells=test.csv                         # or sample_submission.csv: is it whole?
    python -m rxrx_jax.submission FILE --truth=metadata.csv                     # accuracies, as far as labels are known
    python -m rxrx_jax.submission FILE --labels OWN/train.csv OTHER/train.csv --out=NEW [--wells=sample_submission.csv]

The competition has two releases, with integers (0 to 1107) and with text (sirna_0 ...) for the same treatments,
numbered differently. The third command writes the labels of the other release, found by the wells that both train.csv
have; wells of --wells that FILE has not, of which no image was published, keep the label that they have there.
"""

import argparse
import pathlib
import re
import sys

from rxrx_jax.base import command, files
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import REPEATED, TREATMENT
from rxrx_jax.evaluate.protocols import wilds_ood

FORMS = {"integer": r"\d+", "text": r"sirna_\d+"}
LABELLED = ("id_code", "sirna")  # columns
PUBLIC = wilds_ood.VALIDATION


def read(path: pathlib.Path) -> dict[str, str]:
    """Well -> label of a submission. Raises UserError, one line that names the well, for another header, a well that is
    there twice, a label of neither form, and two forms in one file."""
    rows, first = files.read_csv(path, LABELLED), ""
    found: dict[str, str] = {}
    for row in rows:
        well, label = row["id_code"], row["sirna"]
        if well in found:
            raise UserError(f"{path}: {well} is there twice; keep one row for each well")
        form = form_of(label)
        if not form:
            raise UserError(f"{path}: {well} has the label {label!r}; use a number, or sirna_ and a number")
        first = first or form
        if form != first:
            raise UserError(f"{path}: {well} has the label {label!r}, and others are of the form {first}; use one form")
        found[well] = label
    if not found:
        raise UserError(f"{path} has no row")
    return found


def form_of(label: str) -> str:
    """integer, text, or "" for neither."""
    return next((form for form, pattern in FORMS.items() if re.fullmatch(pattern, label)), "")


def check(path: pathlib.Path, found: dict[str, str], wells: list[str], labels: list[str], there: pathlib.Path) -> None:
    """Raises UserError where the submission read from `path` has other wells than `wells`, or other labels by their
    form than `labels`, both of the file `there`."""
    other = next(filter(None, map(form_of, labels)), "")
    own = form_of(next(iter(found.values())))
    if other and own != other:
        raise UserError(
            f"{path} has labels of the form {own} and {there} of the form {other}: convert it with --labels"
        )
    for what, names in (("lacks", set(wells) - found.keys()), ("has", found.keys() - set(wells))):
        if names:
            more = f" and {len(names) - 1:,} others" if len(names) > 1 else ""
            raise UserError(f"{path} {what} {min(names)}{more}, of the {len(set(wells)):,} wells of {there}")


def score(found: dict[str, str], truth: dict[str, str]) -> dict[str, tuple[int, int]]:
    """(right, scored) wells: public, private, and private without HUVEC-18. Args: well -> label; wells of the truth
    without one are not scored."""
    known = {well: label for well, label in truth.items() if label}
    parts = {"public": lambda e: e in PUBLIC, "private": lambda e: e not in PUBLIC}
    parts[f"private without {REPEATED}"] = lambda e: e not in (*PUBLIC, REPEATED)
    result = {}
    for name, holds in parts.items():
        wells = [well for well in known if holds(well.split("_")[0])]
        result[name] = sum(found[well] == known[well] for well in wells), len(wells)
    return result


def read_truth(path: pathlib.Path) -> dict[str, str]:
    """Well -> label, "" where it is withheld, of the treated wells of test experiments in metadata.csv, or of all wells
    in a table of id_code and sirna."""
    rows = files.read_csv(path)
    if rows and {"well_id", "sirna_id", "well_type", "dataset"} <= rows[0].keys():
        kept = [row for row in rows if row["dataset"] == "test" and row["well_type"] == TREATMENT]
        found = {row["well_id"]: row["sirna_id"] for row in kept}
    else:
        found = {row["id_code"]: row["sirna"] for row in files.read_csv(path, LABELLED)}
    if not found:
        raise UserError(f"{path} has no treated well of a test experiment")
    return found


def conversion(own: pathlib.Path, other: pathlib.Path) -> dict[str, str]:
    """Label -> label of two releases, by the wells that both tables of id_code and sirna have. Raises UserError where a
    label has two."""
    ours, theirs = ({r["id_code"]: r["sirna"] for r in files.read_csv(path, LABELLED)} for path in (own, other))
    found: dict[str, str] = {}
    for well in sorted(ours.keys() & theirs.keys()):
        if found.setdefault(ours[well], theirs[well]) != theirs[well]:
            raise UserError(
                f"{well} is {ours[well]} in {own} and {theirs[well]} in {other}, where other wells of it are "
                f"{found[ours[well]]}: these are not two releases of the same tables"
            )
    return found


def convert(path: pathlib.Path, found: dict[str, str], labels: list[pathlib.Path]) -> dict[str, str]:
    """The submission with the labels of the other release. Raises UserError for a label that the first one has not."""
    known = conversion(*labels)
    if unknown := [well for well, label in found.items() if label not in known]:
        raise UserError(f"{path}: {unknown[0]} has the label {found[unknown[0]]}, which {labels[0]} has not")
    return {well: known[label] for well, label in found.items()}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.submission", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=pathlib.Path, help="submission.csv")
    parser.add_argument("--wells", type=pathlib.Path, help="test.csv or sample_submission.csv")
    parser.add_argument("--truth", type=pathlib.Path, help="metadata.csv, or a table of id_code and sirna")
    parser.add_argument("--labels", type=pathlib.Path, nargs=2, metavar=("OWN", "OTHER"), help="train.csv of both")
    parser.add_argument("--out", type=pathlib.Path, help="where the converted submission goes")
    flags = parser.parse_args(argv)
    if bool(flags.labels) != bool(flags.out):
        parser.error("--labels and --out go together")
    found = read(flags.file)
    listed = files.read_csv(flags.wells, ("id_code",)) if flags.wells else []
    wells, labels = [row["id_code"] for row in listed], [row.get("sirna", "") for row in listed]
    if flags.labels:
        found = convert(flags.file, found, flags.labels)
        filled = {well: label for well, label in zip(wells, labels) if label and well not in found}
        found |= filled
        lines = [f"{well},{found[well]}\n" for well in (wells or sorted(found)) if well in found]
        files.write(flags.out, "".join(["id_code,sirna\n", *lines]).encode())
        print(f"wrote {flags.out}: {len(lines):,} wells, {len(filled):,} of them with the label of {flags.wells}")
    if flags.wells:
        check(flags.out or flags.file, found, wells, labels, flags.wells)
        print(f"{len(found):,} wells, each of {flags.wells} once")
    if flags.truth:
        truth = read_truth(flags.truth)
        check(flags.out or flags.file, found, list(truth), list(truth.values()), flags.truth)
        for name, (right, scored) in score(found, truth).items():
            print(f"{name:26} {right / scored:.5f} of {scored:,} wells" if scored else f"{name:26} no labelled well")
        if withheld := sum(not label for label in truth.values()):
            print(f"{withheld:,} wells whose label {flags.truth} withholds are not scored")


if __name__ == "__main__":
    sys.exit(command.run(main))
