"""On which chromosome arm a gene lies, and where on it.

A gene is on the long arm (q) if it ends behind the middle of its chromosome's centromere, else on the short one (p); a
gene of several chromosomes has no arm. That is the rule of proxbias 0.11, whose own table leaves out genes that begin
with LOC and, by an error of its pattern, with LO: here only names LOC and a number are left out.
"""

import dataclasses
import pathlib
import re

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import foreign

TABLE = ("gene", "chrom", "start", "end", "chrom_arm_name")  # columns of a table of genes and their arms
REFSEQ = ("name2", "chrom", "txStart", "txEnd")  # of UCSC's ncbiRefSeq
CENTROMERES = ("chrom", "chromStart", "chromEnd")
CHROMOSOMES = tuple(f"chr{name}" for name in (*range(1, 23), "X", "Y"))
ARMS = tuple(f"{name}{arm}" for name in CHROMOSOMES for arm in "pq")  # in order


@dataclasses.dataclass(frozen=True)
class Genome:
    """gene [g], text; arm [g], such as chr1p; start and end [g], base pairs."""

    gene: np.ndarray
    arm: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def places(self, names: np.ndarray) -> np.ndarray:
        """The number here of each of `names` [n], -1 for a gene that is not here."""
        number = {name: i for i, name in enumerate(self.gene.tolist())}
        return np.array([number.get(name, -1) for name in names.tolist()], np.int64)


def read(path: pathlib.Path) -> Genome:
    """Reads a table gene, chrom, start, end, chrom_arm_name (.tsv, .tsv.gz, .csv), or makes it of a folder with UCSC's
    tables: one file named *refseq*, one named centromeres*. Raises UserError for other files and a gene twice."""
    if path.is_dir():
        return from_ucsc(_only(path, "refseq"), _only(path, "centromeres"))
    columns = foreign.read_columns(path)
    _need(columns, TABLE, path)
    gene, arm = columns["gene"].astype(object), columns["chrom_arm_name"].astype(object)
    if unknown := sorted({str(name) for name in arm.tolist()} - set(ARMS)):
        raise UserError(f"{path}: {unknown[0]!r} is not a chromosome arm such as chr1p")
    _, first, count = np.unique(gene.astype(str), return_index=True, return_counts=True)
    if (count > 1).any():
        raise UserError(f"{path}: the gene {gene[first[count > 1][0]]} is there twice")
    return Genome(gene, arm, columns["start"], columns["end"])


def from_ucsc(refseq: pathlib.Path, centromeres: pathlib.Path) -> Genome:
    """Genes with their arms from UCSC's tables of transcripts and of centromere models."""
    genes, spans = foreign.read_columns(refseq), foreign.read_columns(centromeres)
    _need(genes, REFSEQ, refseq)
    _need(spans, CENTROMERES, centromeres)
    middle = {}
    for name in CHROMOSOMES:
        here = spans["chrom"] == name
        if not here.any():
            raise UserError(f"{centromeres} has no centromere of {name}")
        middle[name] = (spans["chromStart"][here].min() + spans["chromEnd"][here].max()) / 2
    placed = np.isin(genes["chrom"].astype(str), CHROMOSOMES)
    placed &= np.array([not re.match(r"LOC\d", name) for name in genes["name2"].tolist()])
    name, chrom = genes["name2"][placed].astype(str), genes["chrom"][placed].astype(str)
    gene, of = np.unique(name, return_inverse=True)
    start, end = np.full(len(gene), np.iinfo(np.int64).max), np.zeros(len(gene), np.int64)
    np.minimum.at(start, of, genes["txStart"][placed])
    np.maximum.at(end, of, genes["txEnd"][placed])
    number = np.searchsorted(np.sort(CHROMOSOMES), chrom)
    lowest, highest = np.full(len(gene), len(CHROMOSOMES)), np.full(len(gene), -1)
    np.minimum.at(lowest, of, number)
    np.maximum.at(highest, of, number)
    where = np.sort(CHROMOSOMES)[lowest]
    arm = [f"{c}{'q' if e > middle[c] else 'p'}" for c, e in zip(where.tolist(), end.tolist())]
    one = lowest == highest
    return Genome(gene[one].astype(object), np.array(arm, object)[one], start[one], end[one])


def read_expression(path: pathlib.Path) -> dict[str, float]:
    """Gene -> its mean zFPKM over the rows that have it, of a table gene, zfpkm. Raises UserError for another."""
    columns = foreign.read_columns(path)
    _need(columns, ("gene", "zfpkm"), path)
    known = np.isfinite(columns["zfpkm"].astype(float))
    gene, of = np.unique(columns["gene"][known].astype(str), return_inverse=True)
    mean = np.bincount(of, columns["zfpkm"][known]) / np.bincount(of)
    return dict(zip(gene.tolist(), mean.tolist()))


def _need(columns: dict, names: tuple[str, ...], path: pathlib.Path) -> None:
    if missing := [name for name in names if name not in columns]:
        raise UserError(f"{path} has no column {missing[0]}; it needs {', '.join(names)}")
    for name in names:
        if name in ("start", "end", "txStart", "txEnd", "chromStart", "chromEnd") and columns[name].dtype.kind != "i":
            raise UserError(f"{path}: the column {name} must hold whole numbers")
        if name == "zfpkm" and columns[name].dtype.kind not in "if":
            raise UserError(f"{path}: the column {name} must hold numbers")


def _only(folder: pathlib.Path, word: str) -> pathlib.Path:
    found = [p for p in folder.iterdir() if word in p.name.lower() and ".tsv" in "".join(p.suffixes)]
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found)} tables named *{word}*.tsv where one should be")
    return found[0]
