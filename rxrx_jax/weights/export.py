"""Makes a folder to publish from a run.

    python -m rxrx_jax.weights.export --checkpoint=WORKDIR --out=FOLDER
    python -m rxrx_jax.weights.export --checkpoint=WORKDIR --out=FOLDER --format=timm

FOLDER holds model.safetensors (all parameters under their own names, from the part of the state that the run was
evaluated with or that --parameters names), config.json (the model, its normalisation and crop), README.md (a model card
made from the run's files), seen.parquet (the sites whose labels and images it has seen) and embed.py, which embeds
images with numpy and jax alone. With --format=timm tensors and config.json are timm's, for PyTorch, without embed.py.
`rxrx_jax.weights.load`, `rxrx_jax.embed` and `init.path` read it.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import safetensors.numpy
from etils import epath

from rxrx_jax import models
from rxrx_jax.base import command, seen
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import mirror
from rxrx_jax.base.sharding import named_leaves, parameters_sha256
from rxrx_jax.data.builders import builders
from rxrx_jax.models.vit import Encoder
from rxrx_jax.training import checkpoint, metrics
from rxrx_jax.training.provenance import former
from rxrx_jax.weights import ABOUT, FILE, card, standalone, to_timm

FORMATS = ("rxrx_jax", "timm")


def export(path: str, out: pathlib.Path, source: str | None = None, form: str = "rxrx_jax") -> None:
    """Writes the folder; it appears when complete.

    Args: path, a run's workdir or one of its checkpoint folders; out, which must not exist or be empty; source, the
    part of the state to take, one of checkpoint.PARTS, None for the one that the run was evaluated with; form, one of
    FORMATS.

    Raises UserError for a network other than a ViT, one that timm does not have, a part that the run does not have,
    and "params" that are not those the run has recorded.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} exists and is not empty; use another")
    folder = checkpoint.find_checkpoint(path)
    workdir = folder.parent.parent
    run = checkpoint.read_config(folder)
    encoder = make_encoder(run, workdir)
    if form == "timm":
        to_timm.check(encoder)
    evaluated = checkpoint.published_part(str(folder))
    source = source or evaluated
    params = checkpoint.stored_parameters(str(folder), source)
    sha256 = parameters_sha256(params)
    records = metrics.read(workdir / "metrics.jsonl") if (workdir / "metrics.jsonl").exists() else []
    recorded = [r["parameters_sha256"] for r in records if r.get("done") and str(r["step"]) == folder.name]
    if source == "params" and recorded and recorded[-1] != sha256:
        raise UserError(f"{folder} is damaged: its parameters are not those that {workdir}/metrics.jsonl records")

    before = former.seen_by(path)
    about = describe(run, encoder, params, before) | {"step": int(folder.name)}
    about |= {"parameters": source, "parameters_sha256": sha256}
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if form == "timm":
        flat, config = to_timm.tensors(encoder, params["encoder"], about["crop"]), to_timm.config(encoder, about)
    else:
        flat, config = {name: np.ascontiguousarray(leaf) for name, leaf in named_leaves(params).items()}, about
        shutil.copyfile(standalone.__file__, partial / "embed.py")
    (partial / ABOUT).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    safetensors.numpy.save_file(flat, partial / FILE, metadata={"format": "pt" if form == "timm" else form})
    shutil.copymode(partial / ABOUT, partial / FILE)  # safetensors leaves it to its owner alone
    (partial / "README.md").write_text(card.write(run, about, records, evaluated, before, form))
    seen.write(partial / seen.NAME, before)
    os.replace(partial, out)


def make_encoder(run: dict, workdir: epath.PathLike) -> Encoder:
    """The encoder of a run's config. Raises UserError if it is not a ViT."""
    encoder = models.make_encoder(Config(run["model"], "model."))
    if not isinstance(encoder, Encoder):
        raise UserError(f"{workdir} trained a {run['model']['name']}: only a vit can be exported")
    return encoder


def describe(run: dict, encoder: Encoder, params: dict, before: seen.Seen) -> dict:
    """config.json: `encoder` holds every size and Style; `model` the keys of config.model to train on with it;
    `transductive` whether images of the run's held-out experiments took part, None where that is unknown; `seen` how
    many sites were seen as what; `data_channels` those of the data's that were trained on, where they were chosen."""
    rows = params["encoder"]["embed"]["kernel"].shape[0]
    fields = dataclasses.asdict(encoder.size) | {"patch": encoder.patch} | dataclasses.asdict(encoder.style)
    about = {
        "encoder": fields,
        "model": run["model"],
        "channels": None if encoder.style.channel_agnostic else rows // encoder.patch**2,
        "crop": run["augment"]["crop"],
        "normalisation": run["normalisation"],
        "transductive": run["resolved"]["transductive"] or (None if before.unknown else False),
        "seen": {kind: before.count(kind) for kind in seen.KINDS} | {"unknown": list(before.unknown)},
        "provenance": run["resolved"].get("provenance"),
        "data": run["data"]["name"],
    }
    if chosen := run["data"].get("channels"):
        about["data_channels"] = list(chosen)
    return about | (dataset_statistics(run) if run["normalisation"] == "dataset" else {})


def dataset_statistics(run: dict) -> dict:
    """{"mean", "std"} [C] of the training images in pixel units, of the channels that the run read, from the prepared
    dataset."""
    data = run["data"]
    folder = builders().find(data["name"], data.get("folder"), **data["builder"])
    path = mirror.local(folder, data.get("cache") or "") / "statistics.json"
    try:
        found = json.loads(path.read_text())["dataset"]
        chosen = data.get("channels") or range(len(found["mean"]))
        return {key: [found[key][i] for i in chosen] for key in ("mean", "std")}
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{path} has the mean and deviation to normalise with and cannot be read ({error})") from error


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rxrx_jax.weights.export", description="Makes a folder to publish from a run."
    )
    parser.add_argument("--checkpoint", required=True, help="a run's workdir, or one of its checkpoint folders")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder to make")
    parser.add_argument(
        "--parameters",
        choices=checkpoint.PARTS,
        help="part of the state (default: the one that the run was evaluated with)",
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of tensors and config.json")
    flags = parser.parse_args(argv)
    export(flags.checkpoint, flags.out, flags.parameters, flags.format)
    print(f"{flags.out}: {', '.join(sorted(path.name for path in flags.out.iterdir()))}")


if __name__ == "__main__":
    sys.exit(command.run(main))
