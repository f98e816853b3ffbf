"""Genes of a map that molecules are predicted to be like, from their structure: `maps query` prints them.

    python -m rxrx_jax.predict_genes --checkpoint=runs/molecule_map --map=DIR --data=smiles.csv --out=predicted.parquet
    python -m rxrx_jax.maps query DIR SMILES --predicted=predicted.parquet

The run is of `molecule_map.py`, trained against embeddings in the space of the map (`data.phenomics`). The file holds
unit vectors in the space that its two towers share: of every gene, by the tower of wells, and of every molecule at each
dose, by the other. Nothing in it is measured, and every print says so.
"""

import argparse
import pathlib
import sys
import tempfile

import jax
import numpy as np

from rxrx_jax import embed_molecules
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.molecules import evaluation_minibatches
from rxrx_jax.data.source import make_source
from rxrx_jax.maps import folder as maps
from rxrx_jax.maps.show import predicted
from rxrx_jax.tasks import make_task
from rxrx_jax.training import checkpoint
from rxrx_jax.training.provenance.marks import Ledger


def predict(path: str, folder: pathlib.Path, data: pathlib.Path, out: pathlib.Path, minibatch: int = 64) -> None:
    """Args: path, of the run; folder, of the map; data, a csv file of SMILES. Raises UserError for a run of another
    task, a map of another width, and as `embed_molecules` does."""
    if not embed_molecules.is_of_molecules(path):
        raise UserError(f"--checkpoint={path} is not a run on molecules: give one of molecule_map.py")
    run = checkpoint.read_config(path)
    if run["task"]["name"] != "contrast":
        raise UserError(f"--checkpoint={path} is of task.name={run['task']['name']}: give a run of molecule_map.py")
    _, _, vocabulary, seen = embed_molecules.open_encoder(path)
    found = maps.read(folder)
    config = Config(run)
    source = make_source(config, None)
    screened, task = source.dataset, make_task(config, source)
    genes, x, _ = found.genes
    if x.shape[1] != screened.width:
        raise UserError(f"{folder} has {x.shape[1]} features and {path} was trained against {screened.width}: train "
                        "molecule_map.py with data.phenomics in the space of this map")  # fmt: skip
    params = checkpoint.stored_parameters(path, checkpoint.published_part(path))
    of_genes = task.of_wells(params, ((x - screened.centre) / screened.scale).astype(np.float32))
    with tempfile.TemporaryDirectory() as temporary:
        library, columns, places = embed_molecules.of_table(data, vocabulary, pathlib.Path(temporary))
        run_it = jax.jit(task.of_molecules)
        doses, rows = screened.doses, np.arange(len(library.split))
        ours = np.zeros((len(doses), len(rows), of_genes.shape[1]), np.float32)
        for at, minibatch_columns in evaluation_minibatches(library, rows, minibatch):
            views = {name: minibatch_columns[name] for name in ("tokens", "distances")}
            for dose in range(len(doses)):
                made = run_it(params, views, np.full(minibatch, dose))
                ours[dose, at] = np.asarray(made)[: len(at)]
        ledger = Ledger(seen, library, library.digests, np.zeros(0, np.int64), "")
        provenance = embeddings.provenance(ledger.marks(rows), seen.to_bytes(names=False))
    smiles = np.unique(columns["smiles"], return_index=True)[1]
    smiles, places = columns["smiles"][np.sort(smiles)], places[np.sort(smiles)]
    n, g = len(smiles) * len(doses), len(genes)
    table = {
        "kind": np.array([predicted.GENE] * g + [predicted.PREDICTED] * n),
        "name": np.concatenate([genes.astype(str), np.tile(smiles, len(doses))]),
        "concentration_um": np.concatenate([np.full(g, np.nan), np.repeat(doses, len(smiles))]),
    }
    vectors = np.concatenate([np.asarray(of_genes), *(ours[dose, places] for dose in range(len(doses)))])
    predicted.write(out, folder, table, vectors.astype(np.float32), provenance)
    print(f"wrote {out}: {len(smiles):,} molecules at {len(doses)} doses and {g:,} genes, all predicted")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.predict_genes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", required=True, help="the workdir of a run of molecule_map.py")
    parser.add_argument("--map", type=pathlib.Path, required=True, metavar="DIR", help="of rxrx_jax.maps build")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a csv file with a column of SMILES")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the .parquet file to write")
    parser.add_argument("--minibatch", type=int, default=64, help="molecules at a time (default: 64)")
    flags = parser.parse_args(argv)
    predict(flags.checkpoint, flags.map, flags.data, flags.out, flags.minibatch)


if __name__ == "__main__":
    sys.exit(command.run(main))
