"""Reads the table of a dataset that names its perturbations and publishes no split: all but RxRx1."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from rxrx_jax.base.spellings import NEGATIVE_CONTROL, TREATMENT
from tfds_builders.common.rows import splits, tables
from tfds_builders.common.types import Table

# What is in a well, as the datasets call it: in these columns a spelling of "missing" is a blank.
LABELS = ("treatment", "treatment_conc", "gene", "concentration", "SMILES")
UNTREATED = "EMPTY"  # the name of an untreated well, as RxRx1 calls it
# What w1 to w6 show, wherever there are six: Hoechst, Concanavalin A, phalloidin, Syto14, MitoTracker, WGA.
CHANNELS = ("nucleus", "endoplasmic reticulum", "actin", "nucleolus and RNA", "mitochondria", "Golgi")


def read(
    source: pathlib.Path,
    files: tuple[str, ...],
    required: tuple[str, ...],
    columns: dict[str, str],
    describe: Callable[[dict[str, str], dict[str, Any]], dict[str, Any] | str],
    notes: tuple[str, ...],
    download: str,
) -> Table:
    """Returns the table of a screen on 1536-well plates; its rows stream.

    Args:
      source: the folder with the table, and splits.csv if there is one.
      files: the names that the table may have.
      required: its columns.
      columns, describe: as in `tables.sites`.
      notes: what a user should know.
      download: what to do when the table is missing.
    """
    path = tables.find(source, files, download)
    tables.header(path, required)  # a table of something else is an error now, not when its rows are read
    kinds = splits.read_file(source)
    split_of = functools.partial(splits.by_experiment, kinds)
    table = Table((), {}, [*notes, *([splits.NO_SPLITS] if kinds is None else [])])
    lines = tables.blanked(tables.read(path, required), LABELS, table.notes)
    table.rows = tables.sites(lines, columns, tables.WELLS_1536, split_of, describe)
    table.facts = {
        "source": str(source),
        "source_kind": "published",
        "label_space": "names in order, numbered by the builder",
        "split_by": "nothing: all train" if kinds is None else "splits.csv of the source",
    }
    return table


def treated(treatment: str, dose: str, column: str) -> dict[str, Any] | str:
    """Returns well_type, perturbation and the concentration under `column`, or why the two disagree.

    Two doses of a treatment are one perturbation. A blank treatment is an untreated well.
    """
    value = tables.concentration(dose)
    if value is None:
        return f"concentration {dose!r} is not a number of zero or more"
    if treatment in ("", UNTREATED):
        if value > 0:
            return f"concentration {dose} of no treatment"
        treatment, well_type = UNTREATED, NEGATIVE_CONTROL
    else:
        well_type = TREATMENT
    return {"well_type": well_type, "perturbation": treatment, "perturbation_id": None, column: value}


def compound(cells: dict[str, str], site: dict[str, Any]) -> dict[str, Any] | str:
    """Describes a row of RxRx19a or RxRx19b: a compound, or none, under a disease condition."""
    del site
    fields = treated(cells["treatment"], cells["treatment_conc"], "concentration_um")
    if isinstance(fields, str):
        return fields
    if cells["SMILES"] and fields["well_type"] != TREATMENT:
        return "SMILES of no treatment"
    return {**fields, "smiles": cells["SMILES"], "condition": cells["disease_condition"]}
