"""The model card of an exported run. Every number in it is from the run's config or its metrics.jsonl."""

import pathlib
import shlex

from rxrx_jax.base.page import card as page
from rxrx_jax.base.seen import Seen
from rxrx_jax.data import ARRAYS
from rxrx_jax.data.builders import builders
from rxrx_jax.weights import hub

_PARTS = {
    "params": "those of the last step",
    "averages": "the moving average over the steps",
}


def write(run: dict, about: dict, records: list[dict], evaluated: str, before: Seen, form: str = "rxrx_jax") -> str:
    """README.md as text, with front matter as the Hugging Face hub reads it.

    Args: run, the resolved config; about, config.json of the export; records, the lines of metrics.jsonl;
    evaluated, the part of the state that these measure; before, what the parameters have seen; form, one of
    export.FORMATS.
    """
    data = _about_data(run["data"]["name"], run["data"].get("folder"))
    simulated = run["data"]["name"] == "rxrx_sim"
    name = run["model"].get("variant", run["model"]["name"])
    channels = "any 1 to 11 channels" if about["channels"] is None else f"{about['channels']} channels"
    if chosen := about.get("data_channels"):
        channels += f" (trained on {', '.join(f'w{i + 1}' for i in chosen)} of the data's)"
    lines = [
        *_front_matter(run, data["license"], form),
        f"# {name} trained on {run['data']['name']}",
        "",
        *(
            ("**SIMULATED DATA. These weights have never seen a real image and say nothing about real cells.**", "")
            if simulated
            else ()
        ),
        f"A vision transformer ({name}, task `{run['task']['name']}`) that turns an image of {channels} and "
        f"{about['crop']}x{about['crop']} pixels into {about['encoder']['width']} values. Made with rxrx_jax.",
        "",
        "## Data",
        "",
        data["description"],
        "",
        f"Licence of the data: {page.escaped(data['license'])}"
        + (f". {data['homepage']}" if "homepage" in data else ""),
        "",
        _held_out(about["transductive"]),
        "",
        *_seen(before),
        "",
        "## Training",
        "",
        *(f"- {key}: {value}" for key, value in _training(run, about, records).items()),
        "",
        "## Measured",
        "",
        *(() if about["parameters"] == evaluated else (f"With {_PARTS[evaluated]}, not with these parameters:", "")),
        *_measured(records),
        "",
        "## Use",
        "",
        *(_with_timm(about) if form == "timm" else _with_jax()),
        "",
        f"Images are normalised {'beforehand' if form == 'timm' else 'inside'}: {_normalisation(about)}.",
        "",
        "With rxrx_jax, a whole prepared dataset, and the next stage of training, a linear probe:",
        "",
        "```bash",
        "python -m rxrx_jax.embed --checkpoint=FOLDER --data=NAME_OR_FOLDER --out=embeddings.parquet",
        next_stage(run),
        "```",
        "",
    ]
    return "\n".join(lines)


def next_stage(run: dict) -> str:
    """The command that trains a linear probe of the exported folder on the data that the run had."""
    name = run["data"]["name"]
    keys = {"init.path": "FOLDER", "normalisation": run["normalisation"], "augment.crop": run["augment"]["crop"]}
    keys |= {f"model.{key}": value for key, value in sorted(run["model"].items())}
    config = "linear_probe.py" if name == "rxrx_sim" else shlex.quote(f"linear_probe.py:data={name}")
    options = (shlex.quote(f"--config.{key}={value}") for key, value in keys.items())
    return f"python -m rxrx_jax.main --config={config} {' '.join(options)}"


def _front_matter(run: dict, licence: str, form: str) -> list[str]:
    fields = {
        "library_name": form,
        "pipeline_tag": "image-feature-extraction",
        **page.license_fields(licence),  # of the data; whoever publishes the weights may add terms of their own
        "tags": ["microscopy", "cell-painting", "vision-transformer", pathlib.PurePath(run["data"]["name"]).stem],
    }
    if before := hub.repository(run["init"]["path"]):
        fields["base_model"] = before
    return page.front_matter(fields)


def _with_jax() -> list[str]:
    return [
        "With numpy and jax alone:",
        "",
        "```python",
        "from embed import load  # the file beside this one",
        "",
        'vectors = load(".")(images)  # uint8 [B, H, W, C] -> float32 [B, D]',
        "```",
    ]


def _with_timm(about: dict) -> list[str]:
    return [
        "With timm and PyTorch:",
        "",
        "```python",
        "import timm",
        "",
        'model = timm.create_model("local-dir:.", pretrained=True).eval()  # or hf-hub:OWNER/NAME',
        f"vectors = model(images)  # normalised [B, {about['channels']}, {about['crop']}, {about['crop']}] -> [B, D]",
        "```",
    ]


def _about_data(name: str, folder: str | None) -> dict[str, str]:
    """Description and licence of a dataset, as its builder states them."""
    if name == ARRAYS:
        return {"description": "Images that were given as arrays.", "license": "not stated"}
    return builders().builder_class(name, folder).about


def _held_out(transductive: bool | None) -> str:
    if transductive is None:
        return (
            "Whether this is transductive is **unknown**: training started from weights of another project, and what "
            "these had seen is not known. In this run no image of the held-out experiments took part."
        )
    if transductive:
        return (
            "**Transductive**: unlabelled images of the held-out experiments, or statistics of them, took part in "
            "training or in normalisation."
        )
    return "Not transductive: no image of the held-out experiments took part."


def _seen(before: Seen) -> list[str]:
    """What all stages together have seen, for whoever wants to score these weights on data of their own."""
    stages = ", ".join(f"`{name}`" for name in before.stages())
    lines = [
        f"Over all stages, training used the labels of {before.count('labels'):,} sites"
        + (f" (in {stages})" if stages else "")
        + f", the images of {before.count('images'):,} and the labels of {before.count('controls'):,} controls. "
        "`seen.parquet` lists them, each with a digest of its pixels; rxrx_jax refuses to score these weights on a "
        "site whose label is among them."
    ]
    if before.unknown:
        lines += ["", f"What was seen before is **unknown** for {', '.join(f'`{name}`' for name in before.unknown)}."]
    return lines


def _normalisation(about: dict) -> str:
    name = about["normalisation"]
    return {
        "image": "each channel of each image by its own mean and deviation, (x / 255 - mean) / sqrt(variance + 1e-5)",
        "image_unbiased": "each channel of each image by its own mean and deviation, of n - 1 degrees of freedom",
        "dataset": "by the mean and deviation of the training images, in config.json",
    }.get(name, f"by the mean and deviation of each {name}, which `mean` and `std` give")


def _training(run: dict, about: dict, records: list[dict]) -> dict:
    last = records[-1] if records else {}
    images = about["step"] * (run["data"]["minibatch"] + run["data"].get("unlabelled_minibatch", 0))
    found = {
        "parameters": f"{_PARTS[about['parameters']]} (`{about['parameters']}`)",
        "steps": f"{about['step']:,} of {run['resolved']['total_steps']:,}",
        "images seen": f"{images:,}",
        "optimiser": f"{run['optim']['name']}, learning rate {run['optim']['lr']}",
        "seed": run["seed"],
    }
    rates = [r for r in records if r.get("images_per_second_per_chip")]
    if rates and last.get("done"):
        chips = round(rates[-1]["images_per_second"] / rates[-1]["images_per_second_per_chip"])
        hours = last["train_seconds"] / 3600
        found["time"] = f"{hours:.2g} h on {chips} device{'s' * (chips > 1)}, {hours * chips:.2g} device hours"
        found["processor time"] = f"{last['cpu_seconds'] / 3600:.2g} h, evaluation included"
    if (step := last.get("selected_step")) is not None:
        found["selected"] = f"step {step:,}, by the best validation/site_accuracy of all evaluations"
    if run["init"]["path"]:
        found["started from"] = f"an encoder (`{run['init']['path']}`)"
    return found | {"SHA-256 of the parameters": f"`{about['parameters_sha256']}`"}


def _measured(records: list[dict]) -> list[str]:
    """The last evaluation, every value as metrics.jsonl has it."""
    final = [r for r in records if r.get("final")]
    if not final:
        return ["Nothing: the run is not finished."]
    values = {key: value for key, value in final[-1].items() if key not in ("step", "final")}
    if not values:
        return ["Nothing: the run has no evaluators."]
    rows = (
        f"| `{key}` | {value if not isinstance(value, float) else f'{value:.4g}'} |" for key, value in values.items()
    )
    return ["| metric | value |", "| --- | ---: |", *rows]
