"""Genes that a structure is predicted to be like: of a molecule that was never screened, and marked so wherever shown.

The file is of `rxrx_jax.predict_genes`: unit vectors, in one space, of a map's genes and of molecules at doses."""

import pathlib

import numpy as np

from rxrx_jax.base import embeddings, files
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.maps.build.make import MAP
from rxrx_jax.maps.folder import Map

GENE, PREDICTED = "gene", "predicted"  # kinds of rows
OF_MAP = b"rxrx_jax_map"  # of the file's metadata: the SHA-256 of the map's file
COLUMNS = ("kind", "name", "concentration_um")
AGAIN = "predict again with rxrx_jax.predict_genes"


def digest(folder: pathlib.Path) -> str:
    """By which a file of predictions knows its map."""
    return files.sha256(folder / MAP, "build the map again")


def write(path: pathlib.Path, folder: pathlib.Path, columns: dict, x: np.ndarray, metadata: dict[bytes, bytes]) -> None:
    """Args: folder, of the map; columns, each of COLUMNS [n]; x [n, d] float32, unit rows."""
    embeddings.write(path, columns, x, metadata | {OF_MAP: digest(folder).encode()})


def lines(path: pathlib.Path, found: Map, name: str, top: int) -> list[str]:
    """What `maps query` prints of a SMILES: for each dose the genes of the highest and lowest percentile, which is
    among all molecules and genes of the file at any dose. Raises UserError for a file of another map, and for a SMILES
    that it has not got."""
    import pyarrow.parquet as pq

    columns, x = embeddings.read(path)
    if missing := [one for one in COLUMNS if one not in columns]:
        raise UserError(f"--predicted={path} has no column {missing[0]}; {AGAIN}")
    if (pq.read_schema(path).metadata or {}).get(OF_MAP, b"").decode() != digest(found.path):
        raise UserError(f"--predicted={path} is not of the map in {found.path}; {AGAIN}")
    is_gene = columns["kind"] == GENE
    mine = np.flatnonzero(~is_gene & (columns["name"] == name))
    if not len(mine):
        some = ", ".join(shortened(str(one)) for one in dict.fromkeys(columns["name"][~is_gene].tolist()[:3]))
        raise UserError(f"{shortened(name)} is not in {path}, which has {some} and others as canonical SMILES; {AGAIN}")
    genes, unit = columns["name"][is_gene], x[is_gene].astype(np.float64)
    null = np.sort((x[~is_gene] @ unit.T).ravel())
    text = [f"PREDICTED from the structure of {name}, not measured"]
    marks = embeddings.read_provenance(path)
    if marks and marks[0]:
        text.append(f"marks: {marks[0]}")
    text += ["", "| gene | concentration, uM | cosine, predicted | percentile |", "| --- | --- | --- | --- |"]
    for row in mine[np.argsort(columns["concentration_um"][mine])]:
        cosine = unit @ x[row]
        percentile = (np.searchsorted(null, cosine) + np.searchsorted(null, cosine, "right")) / (2 * len(null))
        for i in np.argsort(-np.abs(percentile - 0.5), kind="stable")[:top]:
            dose = f"{columns['concentration_um'][row]:g}"
            text.append(f"| {genes[i]} | {dose} | {cosine[i]:.3f} | {percentile[i]:.4f} |")
    return text
