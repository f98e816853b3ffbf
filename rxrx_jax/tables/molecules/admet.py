"""Properties of molecules: MolE fine-tuned from both of its steps, from the first alone and untrained, and models of
fingerprints.

    python -m tfds_builders.prepare molecules --source=chembl_5thresh.csv.gz --name=chembl --target='*'
    python -m tfds_builders.prepare molecules --source=esol.csv --vocabulary=OUT/molecules/chembl/1.0.0 \
        --target='measured log solubility in mols per litre'
    python -m rxrx_jax.reproduce admet --out=DIR

The tasks are those of MoleculeNet and of TDC's ADMET group that are prepared here, by their names; the others have
empty rows. Of TDC's the test set is given: prepare them with --split, and each of the 22 by its name there.
"""

import pathlib

from rxrx_jax.base.errors import UserError
from rxrx_jax.data.molecules.library import Library, open_library
from rxrx_jax.molecule_tasks import METRIC, NAME
from rxrx_jax.report import columns
from rxrx_jax.report.columns import Cell
from rxrx_jax.tables import Column, Row, Run, Table

FIRST, SECOND = "mole", "mole_biology"
LIBRARY = "chembl"  # prepared molecules with targets that both steps read, whose vocabulary the tasks have
METHODS = {
    "steps_1_2": "MolE, steps 1 and 2",
    "step_1": "MolE, step 1",
    "untrained": "MolE, untrained",
    "forest": "Morgan + random forest",
    "ridge": "Morgan + ridge",
}
STARTS = {"steps_1_2": SECOND, "step_1": FIRST}
NOTES = (
    "Small tasks often prefer fingerprints to pretrained networks: the rows of both are there to be compared.",
    "Every method tries three settings (learning rate, features per split, penalty) on the same validation molecules "
    "and by the same loss; test molecules are scored with the chosen one alone. MolE is fine-tuned for 20 epochs, the "
    "released recipe has 100.",
    "metric: of the test molecules, which share no scaffold with the others; the mean over targets where there are "
    "several. ±: standard deviation over seeds of initialisation and order; the split is one.",
    "seen in pretraining: test molecules whose structure a step of pretraining had in training; both leave out those "
    "that the tasks score.",
    "No published value is printed: none has been read in a primary source.",
)


def marks(found, column) -> Cell:
    """Of the test molecules."""
    text = columns.seen(found, "test")
    return Cell(text, {"": text})


COLUMNS = (
    Column("marks", summary=marks),
    Column("test", "test/metric", columns.spread, strip="cross"),
    Column("validation loss", "validation/loss", columns.spread),
    Column("seen in pretraining", "test/seen_before", columns.mean, ".0f", key="seen_in_pretraining"),
    Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
)


def table(data: pathlib.Path | None = None) -> Table:
    """The table of the tasks that are prepared in a folder; None: where TFDS keeps datasets."""
    where = {} if data is None else {"data.folder": str(data.absolute())}
    there = [task for task in METRIC if prepared(task, data)]
    library = prepared(LIBRARY, data) if there else None
    runs, rows = [], []
    if library:
        runs.append(Run(FIRST, f"mole.py:data={LIBRARY}", overrides=dict(where)))
    if library and library.targets:
        runs.append(Run(SECOND, f"mole_biology.py:data={LIBRARY}", FIRST, dict(where)))
    steps = {run.name for run in runs}
    for task in METRIC:
        for method, words in METHODS.items():
            name = f"{task}-{method}"
            start = STARTS.get(method)
            made = task in there and (start is None or start in steps)
            if made:
                config = f"rxrx_jax/{NAME}.py:method={'pretrained' if start else method},task={task}"
                runs.append(Run(name, config, start, dict(where), module=f"rxrx_jax.{NAME}"))
            rows.append(Row((words, METRIC[task], task), name if made else ""))
    missing = [task for task in METRIC if task not in there]
    notes = [*NOTES, f"Not prepared here, and empty: {', '.join(missing)}."] if missing else list(NOTES)
    return Table(
        title="Properties of molecules",
        notes=notes,
        labels=("method", "metric", "task"),
        group="task",
        seeds=5,
        columns=COLUMNS,
        rows=rows,
        runs=runs,
    )


def prepared(name: str, data: pathlib.Path | None) -> Library | None:
    """The prepared molecules of that name, if there are any. Raises UserError where there are several, or they are
    damaged."""
    try:
        return open_library(name, {}, None if data is None else str(data))
    except UserError as error:
        if "no such molecules" in str(error):
            return None
        raise
