"""The demo: every stage and the main families of methods, on the simulated screen, on a laptop."""

from rxrx_jax.data.builders import builders
from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table

NOTES = (
    "SIMULATED data (rxrx_sim). No number here is a claim about real RxRx images.",
    "in-batch: other sites of the training wells; cross-batch: four experiments that training never saw. Per site, all "
    "classes (treatments and controls) as in WILDS.",
    "layout: fixed, the same treatments share a plate in every experiment, as in RxRx1; reshuffled, drawn again. "
    "Normalised and adaptive rows profit from fixed plate mates; never compare across layouts.",
    "±: standard deviation over seeds; each seed is another simulated world and another initialisation.",
    "One recipe for all convolutional rows; nothing was tuned on a test experiment. The simulator's strength was "
    "set from variance shares and pictures, before any method was scored.",
    "The last step is scored. The MAE's learning rate and mask ratio were chosen by in-batch reconstruction loss, the "
    "ViT's fine-tuning rate by in-batch and validation accuracy, in the world of seed 0; nothing else was searched.",
    "training: accuracy on augmented training minibatches at the end.",
    "leakage: how well a linear probe reads the experiment or plate from the embedding, lower is better. An adversary "
    "that is fooled does not mean that a fresh probe is; compare the DANN rows' column.",
    "CPU s: of the run behind the row and of the run that it starts from; rows that share a run repeat it.",
)
COLUMNS = (
    Column("marks", summary=columns.marks),
    Column("in-batch", "in_batch/site_accuracy", columns.spread, strip="in"),
    Column("in-batch wells", "in_batch_wells/site_accuracy", columns.mean, key="in_batch_wells"),
    Column("cross-batch", "cross_batch/site_accuracy", columns.spread, strip="cross"),
    Column("95 % interval", "cross_batch/site_accuracy", columns.interval, key="ci", strip="interval"),
    Column("over its control", "cross_batch/site_accuracy", columns.difference, "+.3f", key="difference"),
    Column("validation", "validation/site_accuracy", columns.mean),
    Column("per well", "cross_batch/well_accuracy", columns.mean, key="cross_batch_well"),
    Column("training", "accuracy", columns.training_accuracy, ".2f"),
    Column("leakage, experiment", "leakage/experiment_accuracy", columns.above("leakage/experiment_floor"), ".2f"),
    Column("leakage, plate", "leakage/plate_accuracy", columns.above("leakage/plate_floor"), ".2f"),
    Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
)

LAYOUTS = ("fixed", "reshuffled")


def _runs():
    for layout in LAYOUTS:  # the longest first, so that the last ones to end are short
        yield Run(f"mae-{layout}", f"mae_vit.py:layout={layout}")
    for layout in LAYOUTS:
        for weight in (1.0, 0.0):
            arguments = f"method=dann,transductive=True,normalisation=image,weight={weight},layout={layout}"
            yield Run(f"dann-transductive-{weight:.0f}-{layout}", f"convnet.py:{arguments}")
    yield Run("dann-vit-fixed", "dann_vit.py:transductive=True,layout=fixed", starts_from="mae-fixed")
    for layout in LAYOUTS:
        yield Run(f"probe-{layout}", f"linear_probe.py:layout={layout}", starts_from=f"mae-{layout}")
        for normalisation in ("dataset", "plate"):
            name = f"adabn-{normalisation}-{layout}"
            yield Run(name, f"convnet.py:method=adabn,normalisation={normalisation},layout={layout}")
    yield Run("dann-inductive", "convnet.py:method=dann,normalisation=image")
    yield Run("erm-image-fixed", "convnet.py:normalisation=image")
    for layout in LAYOUTS:
        for normalisation in ("dataset", "experiment", "plate"):
            yield Run(f"erm-{normalisation}-{layout}", f"convnet.py:normalisation={normalisation},layout={layout}")


def _rows():
    def row(method, normalisation, layout, run, prefix="", **more):
        return Row((method, normalisation, layout), run, prefix, **more)

    yield row("ERM", "dataset", "fixed", "erm-dataset-fixed")
    yield row("ERM", "dataset", "reshuffled", "erm-dataset-reshuffled")
    yield row("ERM", "image", "fixed", "erm-image-fixed", name="erm-image-fixed")
    for normalisation in ("experiment", "plate"):
        for layout in LAYOUTS:
            yield row("ERM", normalisation, layout, f"erm-{normalisation}-{layout}")
    for layout in LAYOUTS:
        yield row("post-hoc AdaBN", "dataset", layout, f"erm-dataset-{layout}", "adabn_experiment/")
    for normalisation in ("dataset", "plate"):
        for layout in LAYOUTS:
            yield row("batch-pure AdaBN", normalisation, layout, f"adabn-{normalisation}-{layout}", "adabn_experiment/")
    yield row("DANN, inductive", "image", "fixed", "dann-inductive", baseline="erm-image-fixed")
    for layout in LAYOUTS:
        control = f"dann-transductive-0-{layout}"
        yield row("DANN, transductive", "image", layout, f"dann-transductive-1-{layout}", baseline=control)
        yield row("its lambda = 0 control", "image", layout, control, name=control)
    yield row("MAE, then DANN transductive (ViT)", "plate", "fixed", "dann-vit-fixed")
    encoders = (("MAE", "pretrained"), ("untrained ViT", "untrained"), ("hand-made statistics", "statistics"))
    for layout in LAYOUTS:
        yield row("linear probe trained by SGD: MAE", "plate", layout, f"probe-{layout}")
        for method, encoder in encoders:
            for correction, words in (("none", ""), ("experiment", ", standardised per experiment")):
                prefix, untrained = f"probe/{encoder}/{correction}/", f"untrained-{correction}-{layout}"
                compared = {"pretrained": {"baseline": untrained}, "untrained": {"name": untrained}}.get(encoder, {})
                yield row(f"linear probe: {method}{words}", "plate", layout, f"probe-{layout}", prefix, **compared)


def prepare(seeds) -> None:
    """Builds the simulated worlds once, before several runs want them at the same time."""
    for seed in seeds:
        for layout in LAYOUTS:
            builders().prepare("rxrx_sim", seed=seed, layout=layout)


TABLE = Table(
    title="Accuracy within and across experimental batches, simulated screen",
    notes=NOTES,
    labels=("method", "normalisation", "layout"),
    group="layout",
    worlds=5,
    columns=COLUMNS,
    rows=tuple(_rows()),
    runs=tuple(_runs()),
    prepare=prepare,
)
