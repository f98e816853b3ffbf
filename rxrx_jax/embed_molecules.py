"""Embeds molecules with a run's encoder: what `python -m rxrx_jax.embed` does where the checkpoint is of molecules.

    python -m rxrx_jax.embed --checkpoint=runs/mole --data=smiles.csv --out=embeddings.parquet

The data are a csv file with a column of SMILES, plain or gzipped, or molecules that `tfds_builders.prepare molecules`
made with the vocabulary of the checkpoint. Of a csv file every row that holds a molecule has an embedding, in their
order; the others are named. `seen` says of each whether its structure ("image") or a label of it ("label") took part
in making the parameters.
"""

import csv
import hashlib
import json
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base import embeddings, files, sharding
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import Seen
from rxrx_jax.data.builders import builders
from rxrx_jax.data.molecules import evaluation_minibatches
from rxrx_jax.data.molecules.library import SIMULATED, Library, open_library, read_library
from rxrx_jax.maps import exchange
from rxrx_jax.models.molecule import MoleculeEncoder, make_molecule_encoder
from rxrx_jax.molecules import records
from rxrx_jax.molecules.records import VOCABULARY
from rxrx_jax.training import checkpoint
from rxrx_jax.training.provenance import former
from rxrx_jax.training.provenance.marks import Ledger
from rxrx_jax.training.step import make_keys

KEY = b"rxrx_jax"  # of the Parquet file's metadata, as in `rxrx_jax.embed`
TABLES = (".csv", ".tsv", ".gz", ".txt", ".smi")
SHOWN = 3  # rows that are set aside and named


def run(flags) -> None:
    """The command line of `rxrx_jax.embed`. Raises UserError for an option that is of images alone."""
    for name, usual in (("pool", None), ("per", "site"), ("names", exchange.NAMES[0])):
        if getattr(flags, name) != usual:
            raise UserError(f"--{name}={getattr(flags, name)} is of images, and {flags.checkpoint} embeds molecules")
    embed_data(
        flags.checkpoint,
        flags.data,
        pathlib.Path(flags.out),
        flags.parameters,
        flags.block,
        flags.minibatch,
        flags.folder,
    )


def is_of_molecules(path: str) -> bool:
    """Whether `path` is a run's workdir, or one of its checkpoints, whose encoder reads molecules."""
    if not checkpoint.is_run(path):
        return False
    root = files.locate(path)
    for folder in (root, root.parent.parent):
        if (folder / "config.json").exists():
            about = files.read_json(folder / "config.json", "put back a copy of it, or give another run")
            return bool(about.get("resolved", {}).get(former.VOCABULARY))
    return False


def open_encoder(path: str, part: str | None = None) -> tuple[MoleculeEncoder, dict, bytes, Seen]:
    """(encoder, parameters, vocabulary.json, what the parameters have seen) of a run.

    Args: part, of its state, one of checkpoint.PARTS; None for the one that it was evaluated with.

    Raises UserError for a run without a checkpoint, one whose parameters are those that it started with, and one whose
    vocabulary is missing or is not that which it was trained with."""
    folder = checkpoint.find_checkpoint(path)
    run, workdir = checkpoint.read_config(folder), folder.parent.parent
    stored = workdir / VOCABULARY
    if not stored.exists():
        raise UserError(f"{workdir} has no {VOCABULARY}: copy there the one of {run['data']['name']}, its dataset")
    known = files.read_json(stored, "copy it again from the run's dataset")
    theirs = run["resolved"].get(former.VOCABULARY, "")
    if known.get("digest") != theirs:
        raise UserError(f"{stored} is of another vocabulary ({str(known.get('digest'))[:12]}) than the checkpoint "
                        f"({theirs[:12]}): copy there the one of its dataset")  # fmt: skip
    encoder = make_molecule_encoder(Config(run).model, len(known["tokens"]) + 4)
    view = {"tokens": jnp.zeros((1, 2), jnp.int32), "distances": jnp.zeros((1, 2, 2), jnp.uint8)}
    init = jax.jit(lambda key: encoder.init(jax.random.split(key)[0], **view)["params"])
    fresh = init(make_keys(run["seed"])["init"])
    place = sharding.one_device()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), fresh)
    params = checkpoint.load_parameters(str(folder), "encoder", shapes, part or checkpoint.published_part(str(folder)))
    unchanged = jax.tree.map(lambda a, b: bool(np.allclose(a, b, rtol=1e-6, atol=1e-9)), params, fresh)
    if folder.name == "0" or all(jax.tree.leaves(unchanged)):
        raise UserError(f"{path}: its encoder is untrained, and random weights say nothing of a molecule: train it")
    return encoder, params, stored.read_bytes(), former.seen_by(path)


def embed(encoder: MoleculeEncoder, params: dict, library: Library, block: int | None = None,
          minibatch: int = 64) -> np.ndarray:  # fmt: skip
    """The embedding of every molecule of a library: float32 [rows, D]. Args: block, 1 for what the CLS token is after
    the first one; None for the last."""
    if block is not None and not 1 <= block <= encoder.size.depth:
        raise UserError(f"--block={block}: the model has blocks 1 to {encoder.size.depth}")

    @jax.jit
    def run(params, tokens, distances):
        found = encoder.apply({"params": params}, tokens, distances)[1]
        return found["embedding"] if block is None else found["block_embeddings"][block - 1]

    rows = np.arange(len(library.split))
    out = np.zeros((len(rows), encoder.size.width), np.float32)
    for places, columns in evaluation_minibatches(library, rows, minibatch):
        out[places] = np.asarray(run(params, columns["tokens"], columns["distances"]))[: len(places)]
    return out


def embed_data(path: str, data: str, out: pathlib.Path, part: str | None = None, block: int | None = None,
               minibatch: int = 64, folder: str | None = None) -> None:  # fmt: skip
    """Writes the embeddings of a csv file of SMILES, or of prepared molecules, to `out`.

    Columns: row of the source, smiles, inchikey, of prepared molecules split, seen, and the embedding.
    Raises UserError, also where `out` holds other embeddings."""
    exchange.check(out)
    encoder, params, vocabulary, seen = open_encoder(path, part)
    with tempfile.TemporaryDirectory() as temporary:
        if pathlib.Path(data).suffix in TABLES:
            library, columns, places = of_table(pathlib.Path(data), vocabulary, pathlib.Path(temporary))
        else:
            library, columns, places = _of_dataset(data, folder)
        former.check_vocabulary(path, checkpoint.read_config(path), library.vocabulary, "--checkpoint=")
        ledger = Ledger(seen, library, library.digests, np.zeros(0, np.int64), "")
        marks, content = ledger.marks(np.arange(len(library.split))), seen.to_bytes(names=False)
        job = {
            "parameters_sha256": sharding.parameters_sha256(params),
            "vocabulary": library.vocabulary,
            "marks": marks,
            "seen_sha256": hashlib.sha256(content).hexdigest(),
            "block": block,
            "molecules_sha256": hashlib.sha256("\n".join(columns["smiles"].tolist()).encode()).hexdigest(),
        }
        job = json.dumps(job, sort_keys=True).encode()
        if out.exists():
            if exchange.made_by(out, KEY) != job:
                raise UserError(f"--out={out} exists and may hold other embeddings: use another, or delete it")
            print(f"{out} is finished; nothing to do", file=sys.stderr)
            return
        columns["seen"] = ledger.of_sites(places)
        found = embed(encoder, params, library, block, minibatch)[places]
        metadata = {KEY: job} | embeddings.provenance(marks, content)
        own = out if exchange.is_own(out, exchange.NAMES[0]) else pathlib.Path(temporary) / embeddings.NAME
        embeddings.write(own, columns, found, metadata)
        if own != out:
            exchange.write(own, out)


def _of_dataset(name: str, folder: str | None) -> tuple[Library, dict[str, np.ndarray], np.ndarray]:
    library = open_library(name, {}, folder)
    if library.folder is None:
        raise UserError(f"--data={name}: these molecules are in memory")
    return library, _columns(library.folder, ("row", "split", "smiles", "inchikey")), np.arange(len(library.split))


def of_table(path: pathlib.Path, vocabulary: bytes, temporary: pathlib.Path):
    """As `_of_dataset`, of a csv file: prepared in a temporary folder, with the rows of a molecule that stands there
    several times put back."""
    (temporary / VOCABULARY).write_bytes(vocabulary)
    given = {"source": path, "out": temporary, "vocabulary": str(temporary / VOCABULARY)}
    prepared = builders().prepare(SIMULATED, **given)
    library, columns = read_library(prepared), _columns(prepared, ("row", "smiles", "inchikey"))
    bad = _read(prepared / "set_aside.csv")
    for line in bad[:SHOWN]:
        print(f"{path}, row {line['row']}: {line['reason']}", file=sys.stderr)
    if bad:
        print(f"{len(bad):,} rows of {path} have no embedding", file=sys.stderr)
    place = {row: at for at, row in enumerate(columns["row"].tolist())}
    place |= {int(line["row"]): place[int(line["kept_row"])] for line in _read(prepared / "duplicates.csv")
              if int(line["kept_row"]) in place}  # fmt: skip
    rows = np.array(sorted(place), np.int32)
    places = np.array([place[row] for row in rows.tolist()], np.int64)
    return library, {name: values[places] for name, values in columns.items()} | {"row": rows}, places


def _columns(folder: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    table = records.open_folder(folder).table
    return {name: table[name] if name == "row" else table[name].astype(str) for name in names}


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
