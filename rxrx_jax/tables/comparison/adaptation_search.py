"""Weights of methods on validation experiments, in worlds that the comparison does not have: a tenth of the default,
the default, ten times it. Test experiments are not even rendered."""

from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table
from rxrx_jax.tables.comparison import adaptation

VALIDATION = "validation/site_accuracy"
METHODS = {  # published code disagrees about the weights of both by ten times or more
    "DANN, transductive": "method=dann,transductive=True",
    "CORAL": "method=coral",
}
WEIGHTS = ("0.1", "1", "10")  # times the default

RECIPE = "normalisation=image,tested=False"
RUNS = [
    Run(adaptation.slug(words, weight), adaptation.config(arguments, RECIPE, f"weight={weight}"))
    for words, arguments in METHODS.items()
    for weight in WEIGHTS
]
ROWS = [
    Row(
        (words, f"{weight} x default"),
        adaptation.slug(words, weight),
        name=words if weight == "1" else "",
        baseline="" if weight == "1" else words,
    )
    for words in METHODS
    for weight in WEIGHTS
]
TABLE = Table(
    title="Weights of adaptation methods by validation, simulated screen",
    notes=(
        "SIMULATED data (rxrx_sim). No number here is a claim about real RxRx images.",
        "Three validation experiments in each world; there are no others that training has not seen. What is held out "
        "for a transductive method is these.",
        "The recipe is that of the table adaptation, normalisation image. less default: paired by experiment, averaged "
        "in each world, with the p of a t test over worlds.",
        "±: standard deviation over worlds. training: accuracy on augmented training minibatches at the end.",
    ),
    labels=("method", "weight"),
    group="method",
    worlds=(100, 101, 102),
    columns=(
        Column("marks", summary=adaptation.marks_of_validation),
        Column("validation", VALIDATION, columns.spread),
        Column("less default", VALIDATION, columns.difference, "+.3f", key="difference"),
        Column("in-batch", "in_batch/site_accuracy", columns.spread, strip="in"),
        Column("training", "accuracy", columns.training_accuracy, ".2f"),
        Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
    ),
    rows=ROWS,
    runs=RUNS,
)
