"""Embeds a whole prepared dataset with a run's encoder, an exported folder or a file of published weights.

    python -m rxrx_jax.embed --checkpoint=WORKDIR --data=rxrx1 --out=embeddings.parquet
    python -m rxrx_jax.embed --checkpoint=model.safetensors --data=FOLDER --out=wells.parquet --per=well --pool=channels
    python -m rxrx_jax.embed --checkpoint=hf://owner/name --data=rxrx1 --out=embeddings.h5ad
    python -m rxrx_jax.embed --checkpoint=runs/mole --data=smiles.csv --out=embeddings.parquet    # embed_molecules.py

    python -m rxrx_jax.embed --checkpoint=WORKDIR --data=rxrx3 --out=FOLDER    # a file of each plate
    python -m launch.slurm --nodes=8 --gpus=8 --workdir=/shared/FOLDER -- embed --checkpoint=WORKDIR --data=rxrx3

An image larger than the crop that the model was trained with is cut into tiles of that size, and its embedding is the
mean of theirs. Interrupted, the same command resumes and ends with the same bytes. It runs on all devices of one or
several hosts. The result is a file, or a folder of files, as `rxrx_jax.base.embeddings` reads it or, as AnnData, csv or
by the names of cytominer, a file for other tools (`rxrx_jax.maps.exchange`).
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from rxrx_jax import data, datasets, embed_molecules, weights
from rxrx_jax.base import command, embeddings, files, hosts, sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import Seen
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.data.augment import plain, plate_statistics
from rxrx_jax.data.roles import held_out_rows
from rxrx_jax.embedding import job
from rxrx_jax.embedding.work import Work, check_manifest
from rxrx_jax.evaluate import protocols
from rxrx_jax.maps import exchange
from rxrx_jax.models.vit import Encoder
from rxrx_jax.training import checkpoint, claims
from rxrx_jax.training.provenance import former
from rxrx_jax.training.provenance.marks import Ledger
from rxrx_jax.training.safety.preemption import Preemption, Stopped
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


def make_encode(model: Model, shape: tuple[int, int, int], pool: str | None, block: int | None):
    """The function (params, tiles uint8 [B, S, S, C] of the model's crop, plate [B], statistics) -> [B, D], for tiles
    of images of `shape` [H, W, C].

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

    def one(params, tiles, plate, statistics):
        images = augment.evaluation({"image": tiles, "plate": plate}, statistics)
        made: Any = encoder.apply({"params": params}, images)
        found = made[1]
        if pool == "channels":
            return found["channel_embeddings"].reshape(len(images), -1)
        return found["embedding"] if block is None else found["block_embeddings"][block - 1]

    return one


def make_embed(model: Model, shape: tuple[int, int, int], pool: str | None, block: int | None):
    """The function (params, minibatch, statistics) -> [B, D] float32, jitted, for images of `shape` [H, W, C]; the
    other arguments as of `make_encode`."""
    encode, tops, lefts = make_encode(model, shape, pool, block), *corners_of(shape, model.crop)
    at = np.array([(y, x) for y in tops for x in lefts], np.int32)

    def embed(params, minibatch, statistics):
        def one(corner):
            start, size = (0, corner[0], corner[1], 0), (len(minibatch["image"]), model.crop, model.crop, shape[2])
            tile = jax.lax.dynamic_slice(minibatch["image"], start, size)
            return encode(params, tile, minibatch["plate"], statistics)

        return jax.lax.map(one, at).mean(axis=0, dtype=jnp.float32)

    return jax.jit(embed)


def make_embed_tiles(model: Model, shape: tuple[int, int, int], pool: str | None, block: int | None):
    """The function (params, tiles uint8 [B, R, T, S, S, C], plate [B], statistics) -> [R, B, D] float32, jitted:
    the mean of each of R rows of tiles of images of `shape`; the other arguments as of `make_encode`."""
    encode = make_encode(model, shape, pool, block)

    def embed(params, tiles, plate, statistics):
        rows = tiles.shape[1:3]
        each = jnp.moveaxis(tiles.reshape(len(tiles), -1, *tiles.shape[3:]), 1, 0)  # [R*T, B, S, S, C]
        found = jax.lax.map(lambda tile: encode(params, tile, plate, statistics), each)
        return found.reshape(*rows, *found.shape[1:]).mean(axis=1, dtype=jnp.float32)

    return jax.jit(embed)


def corners_of(shape: tuple[int, int, int], crop: int) -> tuple[list[int], list[int]]:
    """(tops, lefts) of the tiles of images of `shape` [H, W, C]."""
    return corners(shape[0], crop), corners(shape[1], crop)


def corners(side: int, crop: int) -> list[int]:
    """Where tiles of `crop` pixels start along `side`: side by side, the last one moved inwards to end with it."""
    return [*range(0, side - crop, crop), side - crop]


def embed_dataset(model: Model, dataset: data.Dataset, out: epath.PathLike, pool=None, per="site", block=None,
                  minibatch=64, names=exchange.NAMES[0], unreadable=0, by_plates=False,
                  stopping=lambda: False) -> None:  # fmt: skip
    """Writes the embeddings of every site or well of a dataset to `out`; resumes where it was stopped; for all hosts.

    Args: out, a file named as exchange.SUFFIXES says, or, without a suffix or with `by_plates`, a folder for a file of
    each plate (`rxrx_jax.embedding`), also in an object store; minibatch, images at a time of each host; names, one of
    exchange.NAMES; unreadable, how many records may be left out because they cannot be read; stopping, asked between
    minibatches.

    Rows go plate by plate, sites as in the dataset's table. With per="well" a row is the mean of a well's sites: site
    0, site_id WELL_0, and in train if any of its sites is. Raises UserError if `out` holds other embeddings, or for
    another suffix, and Stopped after `stopping()`.
    """
    out = files.locate(out)
    single = bool(out.suffix) and not by_plates and not files.is_remote(out)
    if single:
        exchange.check(pathlib.Path(out))
    elif names != exchange.NAMES[0]:
        raise UserError(f"--names={names} needs a file as --out")
    if not len(dataset.sites):
        raise UserError(f"{dataset.folder} holds no sites; there is nothing to embed")
    mesh = sharding.make_local_mesh()
    sharding.check_minibatch(mesh, minibatch, "--minibatch")
    check_manifest(dataset)
    dataset = data.with_channels(dataset, model.channels)
    embed = make_embed_tiles(model, dataset.image_shape, pool, block)
    statistics = plate_statistics(dataset, model.normalisation)
    dataset = dataclasses.replace(dataset, roles=protocols.roles(dataset, protocols.DEFAULT))
    ledger = Ledger(model.seen, dataset, data.pixel_digests(dataset), dataset.roles.fit, model.normalisation)
    marks, seen = ledger.marks(held_out_rows(dataset)), model.seen.to_bytes(names=False)
    made_by = {
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
    made_by |= {"channels": model.channels} if model.channels else {}
    made_by |= {} if names == exchange.NAMES[0] else {"names": names}
    about = json.dumps(made_by, sort_keys=True)
    hosts.check_equal_across_hosts({"embedding": about})
    folder = out.with_name(out.name + ".parts") if single else out
    if hosts.on_first_host(lambda: is_finished(out, folder, about, single)):
        hosts.say(f"{out} is finished; nothing to do")
        return
    params = sharding.to_every_device(model.params, mesh)

    def placed(tiles, plate):
        return embed(params, *sharding.to_device((tiles, plate), mesh), statistics)

    work = Work(
        dataset=dataset,
        about=about,
        embed=placed,
        crop=model.crop,
        tops=corners_of(dataset.image_shape, model.crop)[0],
        lefts=corners_of(dataset.image_shape, model.crop)[1],
        per=per,
        metadata={KEY: about.encode()} | embeddings.provenance(marks, seen),
        seen=ledger.of_sites,
        minibatch=minibatch,
        unreadable=unreadable,
        chips=mesh.size,
    )
    with contextlib.ExitStack() as stack:
        hosts.on_first_host(lambda: stack.enter_context(claims.alone(folder)) and None)
        hosts.on_first_host(lambda: job.claim(folder, about, own=single))
        with jax.set_mesh(mesh):
            index = job.run(work, folder, stopping)
        if single:
            hosts.on_first_host(lambda: join(folder, pathlib.Path(out), work.metadata, names))
    if single:
        hosts.on_first_host(lambda: shutil.rmtree(folder, ignore_errors=True))
    if lost := len(index["unreadable"]):
        hosts.say(f"{lost} records could not be read, named above, and are left out")


def is_finished(out: epath.Path, folder: epath.Path, about: str, single: bool) -> bool:
    """Whether `out` holds these embeddings, all of them. Raises UserError where it holds others."""
    if not single:
        if (folder / job.JOB).exists():
            job.claim(folder, about, own=False)
        return (folder / embeddings.INDEX).exists()
    if not out.exists():
        return False
    if exchange.made_by(pathlib.Path(out), KEY) != about.encode():
        what = "does not say which embeddings it holds" if out.suffix == ".csv" else "holds other embeddings"
        raise UserError(f"--out={out} exists and {what}; use another or delete it")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed between its last two lines
    return True


def join(folder: epath.Path, out: pathlib.Path, metadata: dict, names: str) -> None:
    """Writes the plates in a folder to one file, whole plates per row group."""
    own = out if exchange.is_own(out, names) else pathlib.Path(folder) / embeddings.NAME
    embeddings.join(own, embeddings.parts(folder).values(), metadata)
    if own != out:
        exchange.write(own, out, names)


def make_parser() -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.embed", description="Embeds a whole prepared dataset.")
    parser.add_argument(
        "--checkpoint", required=True, help="a run's workdir, an exported folder, a file of weights, or hf://owner/name"
    )
    parser.add_argument("--data", required=True, help="name of a dataset, its prepared folder, or a builder's .py file")
    out = parser.add_mutually_exclusive_group(required=True)
    out.add_argument(
        "--out", help="the .parquet, .h5ad or .csv file to write, or a folder for a .parquet file of each plate"
    )
    out.add_argument("--workdir", help="such a folder, which all hosts see, or a gs:// address")
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
    parser.add_argument("--minibatch", type=int, default=64, help="images at a time of each host (default: 64)")
    parser.add_argument(
        "--unreadable", type=int, default=0, help="records that may be left out because they are damaged (default: 0)"
    )
    parser.add_argument("--folder", help="of prepared datasets (default: TFDS_DATA_DIR or ~/tensorflow_datasets)")
    parser.add_argument("--multihost", action="store_true", help="join the other hosts of a Cloud TPU slice")
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    flags = make_parser().parse_args(argv)
    if embed_molecules.is_of_molecules(flags.checkpoint):
        if not flags.out:
            raise UserError("--workdir is for images; a checkpoint of molecules needs --out")
        return embed_molecules.run(flags)
    hosts.join(flags.multihost)
    try:
        with Preemption() as preemption, hosts.leaving(Stopped):
            # Before gigabytes of weights are read, and while no thread reads any that the exit would have to stop.
            sharding.check_minibatch(sharding.make_local_mesh(), flags.minibatch, "--minibatch")
            dataset = datasets.open(flags.data, flags.folder)
            model = open_model(flags.checkpoint, dataset.image_shape[2], flags.parameters)
            embed_dataset(model, dataset, flags.out or flags.workdir, flags.pool, flags.per, flags.block,
                          flags.minibatch, flags.names, flags.unreadable, by_plates=bool(flags.workdir),
                          stopping=lambda: bool(preemption.flag(1).any()))  # fmt: skip
    except Stopped:
        pass
    hosts.part()


if __name__ == "__main__":
    sys.exit(command.run(main))
