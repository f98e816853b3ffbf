"""Embeds a whole prepared dataset with a run's encoder, an exported folder or a file of published weights.

    python -m rxrx_jax.embed --checkpoint=WORKDIR --data=rxrx1 --out=embeddings.parquet
    python -m rxrx_jax.embed --checkpoint=model.safetensors --data=FOLDER --out=wells.parquet --per=well --pool=channels
    python -m rxrx_jax.embed --checkpoint=hf://owner/name --data=rxrx1 --out=embeddings.h5ad
    python -m rxrx_jax.embed --checkpoint=runs/mole --data=smiles.csv --out=embeddings.parquet    # embed_molecules.py

An image larger than the crop that the model was trained with is cut into tiles of that size, and its embedding is the
mean of theirs. Interrupted, the same command resumes at the next plate and ends with the same bytes. It runs on all
devices of one machine. The result is a file as `rxrx_jax.base.embeddings` reads it or, as AnnData, csv or by the names
of cytominer, one for other tools (`rxrx_jax.maps.exchange`).
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from rxrx_jax import data, datasets, embed_molecules, weights
from rxrx_jax.base import command, embeddings, sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import Seen
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.data.augment import plain, plate_statistics
from rxrx_jax.data.roles import held_out_rows
from rxrx_jax.evaluate import protocols
from rxrx_jax.evaluate.embeddings import columns
from rxrx_jax.maps import exchange
from rxrx_jax.models.vit import Encoder
from rxrx_jax.training import checkpoint
from rxrx_jax.training.provenance import former
from rxrx_jax.training.provenance.marks import SEEN_AS, Ledger
from rxrx_jax.weights import export

KEY = b"rxrx_jax"  # of the Parquet file's metadata: what made the embeddings, as JSON


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder with its parameters and how its images were prepared; crop in pixels; what the parameters have seen;
    and channels, those that it takes of the images that it was opened for, () = all."""

    encoder: Encoder
    params: dict
    crop: int
    normalisation: str
    seen: Seen
    channels: tuple[int, ...] = ()


def open_model(path: str, channels: int, source: str | None = None) -> Model:
    """The encoder of a run's workdir or checkpoint, of a folder that weights.export wrote, or of a file of weights.

    Args:
      channels: of the images, of which it takes those that it was trained on (`data.channels`).
      source: the part of a run's state to take, one of checkpoint.PARTS, or which of several sets of tensors in a file;
        None for the one that the run was evaluated with, or the teacher.

    Raises UserError naming what does not fit.
    """
    if checkpoint.is_run(path):
        folder = checkpoint.find_checkpoint(path)
        run = checkpoint.read_config(folder)
        encoder, crop = export.make_encoder(run, folder.parent.parent), run["augment"]["crop"]
        chosen = data.channels_for(tuple(run["data"].get("channels", ())), channels, path)
        channels = len(chosen) or channels
        source = source or checkpoint.published_part(str(folder))
        stored = checkpoint.stored_shapes(str(folder), source).get("encoder")
        if stored and not encoder.style.channel_agnostic:
            _check_channels(path, stored["embed"]["kernel"].shape[0] // encoder.patch**2, channels)
        view = jax.ShapeDtypeStruct((1, crop, crop, channels), jnp.float32)
        shapes = jax.eval_shape(encoder.init, jax.random.key(0), view)["params"]
        place = sharding.one_device()
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
        params = checkpoint.load_parameters(str(folder), "encoder", shapes, source)
        return Model(encoder, params, crop, run["normalisation"], former.seen_by(path), chosen)
    chosen = data.channels_for(tuple(weights.about(path).get("data_channels", ())), channels, path)
    channels = len(chosen) or channels
    imported = weights.load(path, channels, part=source or "")
    if not isinstance(imported.encoder, Encoder):
        raise UserError(f"{path} holds a convolutional network: only a vit can embed a dataset")
    if imported.channels is not None:
        _check_channels(path, imported.channels, channels)
    for note in imported.notes:
        print(f"{path}: {note}", file=sys.stderr)
    seen = weights.seen(path)
    return Model(imported.encoder, imported.params["encoder"], imported.crop, imported.normalisation, seen, chosen)


def _check_channels(path: str, expected: int, given: int) -> None:
    if given != expected:
        raise UserError(f"{path} takes images of {expected} channels and these have {given}")


def make_embed(model: Model, shape: tuple[int, int, int], pool: str | None, block: int | None):
    """The function (params, minibatch, statistics) -> [B, D] float32, jitted, for images of `shape` [H, W, C].

    Args:
      pool: "mean" of the patch tokens, "channels" for the mean of each channel's, one after the other [C*D], or None
        for the model's own.
      block: 1 for the output of the first block, without the final norm; None for the model's own embedding.
    """
    encoder, style = model.encoder, model.encoder.style
    if pool == "channels" and (not style.channel_agnostic or block is not None):
        raise UserError("--pool=channels needs a channel-agnostic model, and no --block")
    if block is not None and not 1 <= block <= encoder.size.depth:
        raise UserError(f"--block={block}: the model has blocks 1 to {encoder.size.depth}")
    if min(shape[:2]) < model.crop:
        raise UserError(f"the model was trained on {model.crop} pixels and the images have {shape[0]}x{shape[1]}")
    if pool == "mean":
        encoder = encoder.clone(style=dataclasses.replace(style, pool="mean"))
    augment = plain(model.normalisation, model.crop)
    at = np.array([(y, x) for y in corners(shape[0], model.crop) for x in corners(shape[1], model.crop)], np.int32)

    def embed(params, minibatch, statistics):
        def one(corner):
            start, size = (0, corner[0], corner[1], 0), (len(minibatch["image"]), model.crop, model.crop, shape[2])
            tile = jax.lax.dynamic_slice(minibatch["image"], start, size)
            images = augment.evaluation({"image": tile, "plate": minibatch["plate"]}, statistics)
            made: Any = encoder.apply({"params": params}, images)
            found = made[1]
            if pool == "channels":
                return found["channel_embeddings"].reshape(len(images), -1)
            return found["embedding"] if block is None else found["block_embeddings"][block - 1]

        return jax.lax.map(one, at).mean(axis=0, dtype=jnp.float32)

    return jax.jit(embed)


def corners(side: int, crop: int) -> list[int]:
    """Where tiles of `crop` pixels start along `side`: side by side, the last one moved inwards to end with it."""
    return [*range(0, side - crop, crop), side - crop]


def embed_dataset(model: Model, dataset: data.Dataset, out: pathlib.Path, pool=None, per="site", block=None,
                  minibatch=64, names=exchange.NAMES[0]) -> None:  # fmt: skip
    """Writes the embeddings of every site or well of a dataset to `out`; resumes where it was stopped.

    Rows go plate by plate, sites as in the dataset's table. With per="well" a row is the mean of a well's sites: site
    0, site_id WELL_0, and in train if any of its sites is. `names` is one of exchange.NAMES. Raises UserError if `out`
    holds other embeddings, or for another suffix than exchange.SUFFIXES.
    """
    exchange.check(out)
    if not len(dataset.sites):
        raise UserError(f"{dataset.folder} holds no sites; there is nothing to embed")
    mesh = sharding.make_mesh()
    sharding.check_minibatch(mesh, minibatch, "--minibatch")
    dataset = data.with_channels(dataset, model.channels)
    embed = make_embed(model, dataset.image_shape, pool, block)
    statistics = plate_statistics(dataset, model.normalisation)
    dataset = dataclasses.replace(dataset, roles=protocols.roles(dataset, protocols.DEFAULT))
    ledger = Ledger(model.seen, dataset, data.pixel_digests(dataset), dataset.roles.fit, model.normalisation)
    marks, seen = ledger.marks(held_out_rows(dataset)), model.seen.to_bytes(names=False)
    job = {
        "parameters_sha256": parameters_sha256(model.params),
        "crop": model.crop,
        "normalisation": model.normalisation,
        "marks": marks,
        "seen_sha256": hashlib.sha256(seen).hexdigest(),
        "pool": pool or model.encoder.style.pool,
        "per": per,
        "block": block,
        "sites_sha256": hashlib.sha256("\n".join(dataset.sites.site_id).encode()).hexdigest(),
    }
    job |= {"channels": model.channels} if model.channels else {}
    job |= {} if names == exchange.NAMES[0] else {"names": names}
    job, parts = json.dumps(job, sort_keys=True), out.with_name(out.name + ".parts")
    if out.exists():
        if exchange.made_by(out, KEY) != job.encode():
            what = "does not say which embeddings it holds" if out.suffix == ".csv" else "holds other embeddings"
            raise UserError(f"--out={out} exists and {what}; use another or delete it")
        shutil.rmtree(parts, ignore_errors=True)  # of a run that was killed between its last two lines
        print(f"{out} is finished; nothing to do", file=sys.stderr)
        return
    claim(parts, job)

    plates = dataset.sites.plate
    order = np.argsort(plates, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(plates[order])) + 1)  # of each plate
    paths = [parts / f"plate-{plates[group[0]]:06d}.npy" for group in rows]
    done = sum(len(group) for group, path in zip(rows, paths) if path.exists())
    params = sharding.to_every_device(model.params, mesh)
    with jax.set_mesh(mesh), tqdm.tqdm(total=len(order), initial=done, unit=" images", desc="embed") as bar:
        for group, path in zip(rows, paths):
            if not path.exists():
                found = []
                for host_minibatch in data.evaluation_minibatches(dataset, group, minibatch):
                    used = {key: host_minibatch[key] for key in ("image", "plate")}
                    found.append(embed(params, sharding.to_device(used, mesh), statistics))
                    if len(found) > 1:  # one minibatch ahead of the device, so that images do not pile up
                        found[-2] = np.asarray(found[-2])
                    bar.update(int(host_minibatch["valid"].sum()))
                save(path, np.concatenate([np.asarray(part) for part in found])[: len(group)])
    metadata = {KEY: job.encode()} | embeddings.provenance(marks, seen)
    own = out if exchange.is_own(out, names) else parts / embeddings.NAME
    finish(dataset, own, rows, paths, per, metadata, ledger.of_sites)
    if own != out:
        exchange.write(own, out, names)
    shutil.rmtree(parts)


def claim(parts: pathlib.Path, job: str) -> None:
    """Makes the folder of the finished plates; that of another job is refused."""
    about = parts / "job.json"
    if not about.exists():
        shutil.rmtree(parts, ignore_errors=True)  # half removed: its plates may be of any job
        parts.mkdir(parents=True)
        temporary = about.with_suffix(".tmp")
        temporary.write_text(job)
        os.replace(temporary, about)
    elif about.read_text() != job:
        raise UserError(f"{parts} holds plates of other embeddings; delete it or use another --out")


def save(path: pathlib.Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.save(file, array)
    os.replace(temporary, path)


def finish(dataset: data.Dataset, out: pathlib.Path, rows: list, paths: list, per: str, metadata: dict,
           seen: Callable) -> None:  # fmt: skip
    """Writes the plates to one file, whole plates per row group; complete once it appears. Args: seen: for rows of
    the dataset, [n], what was seen of each."""
    partial, writer, form = out.with_name(out.name + ".partial"), None, None
    group = []
    for i, (chosen, path) in enumerate(zip(rows, paths)):
        part = columns(dataset, chosen) | {"seen": seen(chosen)}, np.load(path)
        group.append(by_well(*part) if per == "well" else part)
        if sum(len(embedding) for _, embedding in group) < embeddings.GROUP and i + 1 < len(rows):
            continue
        names = {name: np.concatenate([part[name] for part, _ in group]) for name in group[0][0]}
        embedding = np.concatenate([embedding for _, embedding in group])
        if writer is None or form is None:
            kinds = {name: embeddings.KINDS[values.dtype.kind] for name, values in names.items()}
            form = embeddings.schema(kinds, embedding.shape[1]).with_metadata(metadata)
            writer = embeddings.open_writer(partial, form)
        writer.write_table(embeddings.table(form, names, embedding), row_group_size=len(embedding))
        group = []
    if writer:
        writer.close()
    os.replace(partial, out)


def by_well(part: dict[str, np.ndarray], embedding: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows of sites -> rows of wells, in the order in which they first appear."""
    _, first, well = np.unique(part["well_id"], return_index=True, return_inverse=True)
    order = np.argsort(first)
    mean = np.stack([embedding[well == w].mean(axis=0) for w in order])
    found = {name: values[first[order]] for name, values in part.items()}
    found["split"] = np.array([min(part["split"][well == w], key=data.SPLITS.index) for w in order])
    most = [max(part["seen"][well == w], key=SEEN_AS.index) for w in order]
    found["seen"] = np.array(most, str)
    found["site_id"] = np.array([f"{name}_0" for name in found["well_id"]])
    return found | {"site": np.zeros_like(found["site"])}, mean


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.embed", description="Embeds a whole prepared dataset.")
    parser.add_argument(
        "--checkpoint", required=True, help="a run's workdir, an exported folder, a file of weights, or hf://owner/name"
    )
    parser.add_argument("--data", required=True, help="name of a dataset, its prepared folder, or a builder's .py file")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the .parquet, .h5ad or .csv file to write")
    parser.add_argument(
        "--parameters",
        metavar="PART",
        help=f"part of a run's state, {' or '.join(checkpoint.PARTS)} (default: the one it was evaluated with), or of "
        "a file of weights, as student (default: the only one, or the teacher)",
    )
    parser.add_argument("--pool", choices=("mean", "channels"), help="default: as the model was trained")
    parser.add_argument("--per", choices=("site", "well"), default="site", help="what a row is (default: site)")
    parser.add_argument(
        "--block", type=int, help="embed with the output of this block, 1 = first (default: the model's)"
    )
    parser.add_argument(
        "--names", choices=exchange.NAMES, default=exchange.NAMES[0],
        help="of columns; cytominer: Metadata_Plate, Image_Embedding_0 and so on, for pycytominer and copairs",
    )  # fmt: skip
    parser.add_argument("--minibatch", type=int, default=64, help="images at a time (default: 64)")
    parser.add_argument("--folder", help="of prepared datasets (default: TFDS_DATA_DIR or ~/tensorflow_datasets)")
    flags = parser.parse_args(argv)
    if embed_molecules.is_of_molecules(flags.checkpoint):
        return embed_molecules.run(flags)
    dataset = datasets.open(flags.data, flags.folder)
    model = open_model(flags.checkpoint, dataset.image_shape[2], flags.parameters)
    embed_dataset(model, dataset, flags.out, flags.pool, flags.per, flags.block, flags.minibatch, flags.names)


if __name__ == "__main__":
    sys.exit(command.run(main))
