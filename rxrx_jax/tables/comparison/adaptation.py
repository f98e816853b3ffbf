"""Adaptation methods compared on the simulated screen: one recipe, equal steps, five worlds of which nobody has seen a
number before."""

from rxrx_jax.report import columns
from rxrx_jax.tables import FINAL, Column, Row, Run, Table

CONFIG = "adaptation.py"
CROSS = "cross_batch/site_accuracy"
NOTES = (
    "SIMULATED data (rxrx_sim). No number here is a claim about real RxRx images.",
    "cross-batch: experiments that training never saw; in-batch: other sites of the training wells; validation: other "
    "experiments, by which the recommendation is chosen. Per site, all classes, treatments and controls; treatments: "
    "cross-batch without control wells, of rows that are read with the labels of controls and those beside them.",
    "±: standard deviation over worlds; each is another simulated screen and another initialisation.",
    "less ERM: paired by experiment, averaged in each world. A row is compared with ERM of the same setting and "
    "normalisation (ViT rows with ERM of the ViT), ERM of other normalisations with that of image normalisation, and "
    "the regressions, which see plate-normalised images, with ERM of plate normalisation. p, Holm: for all compared "
    "rows of the table. seconds: CPU seconds of a row's run and of those it starts from, evaluation with it, in units "
    "of those of the row it is compared with.",
    "One recipe for all: 1,250 steps of 64 images, AdamW at 2e-3, no early stop, the last step is scored; each method "
    "has its published default (docs/methods.md), but for Fishr, whose penalty starts after 500 steps and not 1,500. "
    "weight by validation: 0.1 x the default, the best of 0.1, 1 and 10 on other worlds (adaptation_search), where no "
    "weight differed from the default beyond chance.",
    "setting: fixed: the same treatments share a plate in every experiment, as in RxRx1; reshuffled: they do not; "
    "held-out cell type: SIMC is in the tested experiments alone; imbalanced: the classes of held-out experiments are "
    "uneven (Dirichlet .3).",
    "training: accuracy on augmented training minibatches at the end.",
)
COLUMNS = (
    Column("marks", summary=columns.marks),
    Column("cross-batch", CROSS, columns.spread, strip="cross"),
    Column("95 % interval", CROSS, columns.interval, key="ci", strip="interval"),
    Column("less ERM", CROSS, columns.difference, "+.3f", key="difference"),
    Column("p, Holm", CROSS, columns.holm, key="holm"),
    Column("treatments", "cross_batch/treatments/site_accuracy", columns.mean),
    Column("validation", "validation/site_accuracy", columns.spread),
    Column("in-batch", "in_batch/site_accuracy", columns.spread, strip="in"),
    Column("training", "accuracy", columns.training_accuracy, ".2f"),
    Column("seconds", summary=columns.relative_seconds, format=".2f"),
)
SETTINGS = {
    "fixed": "",
    "reshuffled": "layout=reshuffled",
    "held-out cell type": "cell_type=SIMC",
    "imbalanced": "imbalance=0.3",
}
ANCHORS = ("control_mean", "control_affine", "control_bias")
READINGS = {
    "dataset": ("adabn", "ttbna"),
    "plate": ("adabn", *(name for anchor in ANCHORS for name in (anchor, f"{anchor}_shuffled"))),
}
WORDS = {
    "adabn": "post-hoc AdaBN",
    "ttbna": "TTBNA",
    "control_mean": "control mean",
    "control_affine": "control affine map",
    "control_bias": "control bias",
}
TRANSDUCTIVE = "transductive=True"
# Weights, times the default: the best of adaptation_search by validation.
TUNED = {"CORAL": "0.1", "DANN, transductive": "0.1"}
# What trains: its words in the table, the arguments of its config, the normalisations that it is run with.
METHODS = (
    ("batch-pure AdaBN", "method=adabn", ("plate", "image")),
    ("BEN", "method=ben", ("plate",)),
    ("ARM-BN", "method=arm_bn", ("plate",)),
    ("CS-BN", "method=cs_bn", ("plate",)),
    ("CORAL", "method=coral", ("image",)),
    ("CORAL, weight by validation", f"method=coral,weight={TUNED['CORAL']}", ("image",)),
    ("MMD", "method=mmd", ("image",)),
    ("IRM", "method=irm", ("image",)),
    ("V-REx", "method=vrex", ("image",)),
    ("IB-ERM", "method=ib_erm", ("image",)),
    ("GroupDRO", "method=groupdro", ("image",)),
    ("Fish", "method=fish", ("image",)),
    ("Fishr", "method=fishr", ("image",)),
    ("DANN", "method=dann", ("image",)),
    ("DANN, transductive", f"method=dann,{TRANSDUCTIVE}", ("image", "plate")),
    (
        "DANN, transductive, weight by validation",
        f"method=dann,{TRANSDUCTIVE},weight={TUNED['DANN, transductive']}",
        ("image",),
    ),
    ("DANN, transductive, control of weight 0", f"method=dann,{TRANSDUCTIVE},weight=0", ("image",)),
    ("DANN, transductive, within cell type", f"method=dann,{TRANSDUCTIVE}", ("image",)),
    ("CDAN, transductive", f"method=cdan,{TRANSDUCTIVE}", ("image",)),
    ("mixup", "method=mixup", ("image",)),
    ("CutMix", "method=cutmix", ("image",)),
    ("LISA", "method=lisa", ("image", "plate")),
    ("MixStyle", "method=mixstyle", ("image",)),
    ("DSU", "method=dsu", ("image",)),
    ("SWA", "method=swa", ("plate",)),
    ("ArcFace", "method=arcface", ("plate",)),
    ("FixMatch", "method=fixmatch", ("image",)),
    ("mean teacher", "method=mean_teacher", ("image",)),
)
OVERRIDES = {
    "DANN, transductive, within cell type": {"adapt.within": "cell_type"},
    "Fishr": {"adapt.warm_up": 500},  # its default is longer than these runs
}
VIT = (
    ("ERM", "method=erm"),
    ("context token", "method=context_token"),
    ("DANN, transductive", f"method=dann,{TRANSDUCTIVE}"),
)
KEY = ("batch-pure AdaBN", "DANN, transductive")  # beside ERM, its readings and handcrafted features, in every setting
ENCODERS = {
    "pretrained": "MAE",
    "untrained": "untrained ViT",
    "handcrafted": "handcrafted features",
    "handcrafted_spatial": "handcrafted and spatial features",
}
CORRECTIONS = {
    "none": "",
    "centre_scale_experiment": "centred and scaled by experiment",
    "rank_inverse_normal": "rank inverse normal by plate",
    "combat": "ComBat",
    "tvn_shrunk": "TVN, shrunk",
    "sphering": "sphered on controls",
}
PROBE = "stage=probe,steps=100"  # steps of the head that is trained beside the regressions, of which no row is


def slug(*words: str) -> str:
    """The name of a run."""
    text = "".join(c if c.isalnum() else " " for c in " ".join(words).lower())
    return "-".join(text.split())


def config(*arguments: str) -> str:
    return f"{CONFIG}:{','.join(filter(None, arguments))}"


def run_of(words: str, arguments: str, normalisation: str, setting: str = "fixed", more: str = "") -> Run:
    """The run of a method. more: arguments of the config for all of a table."""
    where = "" if setting == "fixed" else setting
    name = slug(words, normalisation, where)
    return Run(
        name,
        config(arguments, f"normalisation={normalisation}", SETTINGS[setting], more),
        overrides=OVERRIDES.get(words, {}),
    )


def erm(normalisation: str, setting: str, readings: tuple[str, ...], more: str = "") -> tuple[Run, list[Row]]:
    """ERM, and the readings of its network."""
    after = f"post_hoc={'+'.join(readings)}" if readings else ""
    run = run_of("ERM", after, normalisation, setting, more)
    base = "" if normalisation == "image" else baseline("image", setting)
    rows = [Row(("ERM", normalisation, setting), run.name, name=baseline(normalisation, setting), baseline=base)]
    for name in readings:
        words = WORDS[name.removesuffix("_shuffled")] + ", shuffled labels" * name.endswith("_shuffled")
        labels = words, normalisation, setting
        rows.append(Row(labels, run.name, f"{name}/", baseline=baseline(normalisation, setting)))
    return run, rows


def baseline(normalisation: str, setting: str = "fixed") -> str:
    """The name of a row of ERM."""
    return slug("ERM", normalisation, setting)


def method(words: str, arguments: str, normalisation: str, setting: str = "fixed", more: str = ""):
    """The run of a method and its row."""
    run = run_of(words, arguments, normalisation, setting, more)
    labels = words, normalisation, setting
    return run, [Row(labels, run.name, baseline=baseline(normalisation, setting))]


def regressions(run: str, encoders, corrections, setting: str = "fixed") -> list[Row]:
    """Of frozen features, of a run of the stage probe."""
    return [
        Row((f"{words}{', ' * bool(how)}{how}", "plate", setting), run, f"probe/{encoder}/{correction}/",
            baseline=baseline("plate", setting))
        for encoder, words in encoders.items()
        for correction, how in corrections.items()
    ]  # fmt: skip


def on_vit() -> tuple[list[Run], list[Row]]:
    """What starts from the masked autoencoder: a few methods, and regressions."""
    runs = [Run("mae", config("stage=mae")), Run("probe", config(PROBE), "mae")]
    rows = []
    for words, arguments in VIT:
        run = Run(slug("ViT", words), config("stage=vit", arguments), "mae")
        base = baseline("plate") if words == "ERM" else "vit"
        name = "vit" if words == "ERM" else ""
        runs.append(run)
        rows.append(Row((f"ViT from MAE: {words}", "plate", "fixed"), run.name, name=name, baseline=base))
    return runs, rows + regressions("probe", ENCODERS, CORRECTIONS)


def in_setting(setting: str, more: str = "") -> tuple[list[Run], list[Row]]:
    """The key rows in a setting."""
    made = [
        erm("image", setting, (), more),
        erm("plate", setting, ("adabn", "control_affine"), more),
        *(method(words, arguments, of[0], setting, more) for words, arguments, of in METHODS if words in KEY),
    ]
    chosen = {name: CORRECTIONS[name] for name in ("none", "centre_scale_experiment")}
    probe = Run(
        slug("handcrafted", setting),
        config(PROBE, SETTINGS[setting]),
        overrides={"evaluators.probe.corrections": tuple(chosen)},
    )
    rows = [row for _, of_run in made for row in of_run]
    rows += regressions(probe.name, {"handcrafted": ENCODERS["handcrafted"]}, chosen, setting)
    return [*(run for run, _ in made), probe], rows


def every() -> tuple[list[Run], list[Row]]:
    """All runs and rows."""
    made = [erm(of, "fixed", READINGS.get(of, ())) for of in ("image", "dataset", "plate")]
    made += [method(words, arguments, one) for words, arguments, of in METHODS for one in of]
    runs, rows = [run for run, _ in made], [row for _, of_run in made for row in of_run]
    for more_runs, more_rows in (on_vit(), *(in_setting(setting) for setting in SETTINGS if setting != "fixed")):
        runs += more_runs
        rows += more_rows
    return runs, rows


def marks_of_validation(found: columns.Found, column: Column) -> columns.Cell:
    """`columns.marks` of validation, where nothing else is scored."""
    text = columns.seen(found, "validation")
    return columns.Cell(text, {"": text})


RUNS, ROWS = every()
TABLE = Table(
    title="Adaptation methods across experimental batches, simulated screen",
    notes=NOTES,
    labels=("method", "normalisation", "setting"),
    group="setting",
    worlds=tuple(FINAL),
    final=True,
    columns=COLUMNS,
    rows=ROWS,
    runs=RUNS,
)
