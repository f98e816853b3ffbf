"""Converts the published weights of the sEH proxy, and compares the proxy with measured activities.

    python -m rxrx_jax.generate.rewards.seh convert best_params.pkl.gz seh_proxy.npz
    python -m rxrx_jax.generate.rewards.seh compare seh_proxy.npz seh_chembl.csv

The pickle (GFNOrg/gflownet, MIT: mols/data/pretrained_proxy) is read with a list of what it may name: numpy arrays, and
nothing else. The table is one of ChEMBL, with semicolons: of IC50 with the relation = the median pChEMBL value of each
canonical SMILES.
"""

import argparse
import csv
import gzip
import io
import pathlib
import pickle
import sys
from typing import Any

import numpy as np

from rxrx_jax.base import command, files
from rxrx_jax.base.errors import UserError, reason, shortened
from rxrx_jax.generate.rewards import proxy

# What pickles of numpy arrays name, in releases 1 and 2.
ALLOWED = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),  # of bytes that Python 2 or protocol 2 wrote
}
LARGEST = 2**28  # bytes of it are unpacked, where the published file has 3 MB
COLUMNS = ("Smiles", "pChEMBL Value", "Standard Type", "Standard Relation")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(f"names {shortened(f'{module}.{name}')}, which an array does not need: it is not read")
        return super().find_class(module, name)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """p0, p1 ...: the arrays of a pickled list, gzipped or not. Nothing in the file is run.

    Raises UserError: a missing or damaged file, one that names anything but arrays, anything but a list of arrays.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            content = file.read(LARGEST)
        found = _Reader(io.BytesIO(content), encoding="latin1").load()
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is mols/data/pretrained_proxy/best_params.pkl.gz") from None
    except Exception as error:  # a damaged pickle raises anything
        raise UserError(f"{path} is damaged or not a pickle ({reason(error)}); download it again") from error
    if not isinstance(found, list | tuple) or not all(
        isinstance(one, np.ndarray) and one.dtype.kind == "f" for one in found
    ):
        raise UserError(f"{path} holds {shortened(found)}: expected a list of arrays of floating-point numbers")
    return {f"p{i}": np.asarray(one) for i, one in enumerate(found)}


def convert(source: pathlib.Path, out: pathlib.Path) -> None:
    """Writes the arrays of a published pickle as an .npz. Raises UserError unless they are the sEH proxy's."""
    weights = read(source)
    proxy.check(weights, str(source))
    with files.writing(out) as file:
        np.savez_compressed(file, **weights)
    print(f"{out}: {len(weights)} arrays, {sum(one.size for one in weights.values()):,} numbers")


def activities(path: pathlib.Path) -> dict[str, float]:
    """Canonical SMILES -> the median of its pChEMBL values, -log10 of moles per litre."""
    from rxrx_jax.generate.rewards.chemistry import canonical

    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter=";")
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path} has no column {missing[0]!r}: expected a table of ChEMBL with semicolons")
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({reason(error)})") from error
    found: dict[str, list[float]] = {}
    for row in rows:
        value, exact = row["pChEMBL Value"], row["Standard Relation"].strip("'") == "="
        if value and exact and row["Standard Type"] == "IC50" and row["Smiles"]:
            found.setdefault(canonical(row["Smiles"]), []).append(float(value))
    if not found:
        raise UserError(f"{path} has no row with an exact IC50 and a SMILES")
    return {one: float(np.median(values)) for one, values in found.items()}


def compare(weights: pathlib.Path, table: pathlib.Path) -> tuple[int, float]:
    """(molecules, Spearman's rank correlation of the proxy with the measured activities)."""
    from rxrx_jax.molecules import metrics

    measured = activities(table)
    predicted = proxy.predict(proxy.load(weights), list(measured))
    found = metrics.score("spearman", np.array(list(measured.values())), predicted)
    print(f"{len(measured):,} molecules: Spearman {found:.3f} of the proxy with the median pChEMBL of IC50")
    return len(measured), found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function, *names in ((convert, "source", "out"), (compare, "weights", "table")):
        one = commands.add_parser(function.__name__, help=function.__doc__.partition("\n")[0])
        one.set_defaults(function=function, names=names)
        for name in names:
            one.add_argument(name, type=pathlib.Path)
    arguments = parser.parse_args(argv)
    arguments.function(*(getattr(arguments, name) for name in arguments.names))


if __name__ == "__main__":
    sys.exit(command.run(main))
