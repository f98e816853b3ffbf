"""The demo: every stage and the main families of methods, on the simulated screen, on a laptop."""

import csv

from rxrx_jax.data.builders import builders
from rxrx_jax.reproduce import Row, Run

TITLE = "Accuracy within and across experimental batches, simulated screen"
NOTES = [
    "SIMULATED data (rxrx_sim). No number here is a claim about real RxRx images.",
    "in-batch: other sites of the training wells; cross-batch: four experiments that training never saw. Per site, all "
    "classes (treatments and controls) as in WILDS.",
    "layout: fixed, the same treatments share a plate in every experiment, as in RxRx1; reshuffled, drawn anew. "
    "Normalised and adaptive rows profit from fixed plate mates; never compare across layouts.",
    "Marks are derived from what each run has seen and how its evaluator reads it. T: transductive, the method or its "
    "normalisation uses unlabelled images that are scored. C: labels of controls among them. X: labels that are scored "
    "were seen. ?: weights of unknown origin.",
    "Interval: Student's t over held-out experiments as units. ±: standard deviation over seeds; each seed is another "
    "simulated world and another initialisation.",
    "One recipe for all convolutional rows; nothing was tuned on a test experiment. The simulator's strength was "
    "set from variance shares and pictures, before any method was scored.",
    "The last step is scored. The MAE's learning rate and mask ratio were chosen by in-batch reconstruction loss, the "
    "ViT's fine-tuning rate by in-batch and validation accuracy, in the world of seed 0; nothing else was searched.",
    "leakage: an adversary that is fooled does not mean that a fresh linear probe is; compare the DANN rows' column.",
    "CPU s: of the run behind the row and of the run that it starts from; rows that share a run repeat it.",
]

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
    yield Row("ERM", "dataset", "fixed", "erm-dataset-fixed")
    yield Row("ERM", "dataset", "reshuffled", "erm-dataset-reshuffled")
    yield Row("ERM", "image", "fixed", "erm-image-fixed")
    for normalisation in ("experiment", "plate"):
        for layout in LAYOUTS:
            yield Row("ERM", normalisation, layout, f"erm-{normalisation}-{layout}")
    for layout in LAYOUTS:
        yield Row("post-hoc AdaBN", "dataset", layout, f"erm-dataset-{layout}", "adabn_experiment/")
    for normalisation in ("dataset", "plate"):
        for layout in LAYOUTS:
            yield Row("batch-pure AdaBN", normalisation, layout, f"adabn-{normalisation}-{layout}", "adabn_experiment/")
    yield Row("DANN, inductive", "image", "fixed", "dann-inductive")
    for layout in LAYOUTS:
        yield Row("DANN, transductive", "image", layout, f"dann-transductive-1-{layout}")
        yield Row("its lambda = 0 control", "image", layout, f"dann-transductive-0-{layout}")
    yield Row("MAE, then DANN transductive (ViT)", "plate", "fixed", "dann-vit-fixed")
    encoders = (("MAE", "pretrained"), ("untrained ViT", "untrained"), ("hand-made statistics", "statistics"))
    for layout in LAYOUTS:
        yield Row("linear probe trained by SGD: MAE", "plate", layout, f"probe-{layout}")
        for method, encoder in encoders:
            for correction, words in (("none", ""), ("experiment", ", standardised per experiment")):
                prefix = f"probe/{encoder}/{correction}/"
                yield Row(f"linear probe: {method}{words}", "plate", layout, f"probe-{layout}", prefix)


RUNS, ROWS = tuple(_runs()), tuple(_rows())


def _folder(layout: str, seed: int):
    return builders().prepare("rxrx_sim", seed=seed, layout=layout)


def prepare(seeds) -> None:
    """Builds the simulated worlds once, before several runs want them at the same time."""
    for seed in seeds:
        for layout in LAYOUTS:
            _folder(layout, seed)


def perturbations(run: Run) -> dict[str, str]:
    """site_id -> perturbation in a run's world of seed 0, for the embedding map."""
    layout = "reshuffled" if "layout=reshuffled" in run.config else "fixed"
    with open(_folder(layout, 0) / "sites.csv", newline="") as f:
        return {row["site_id"]: row["perturbation"] for row in csv.DictReader(f)}
