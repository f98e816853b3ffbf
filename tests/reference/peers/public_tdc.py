"""Writes public_tdc.json: PyTDC's scaffold splits of a simulated library and of public tables, seeds 0 to 5.

pip download --no-deps --no-binary :all: PyTDC==1.1.15 && tar xzf pytdc-1.1.15.tar.gz; pip install pandas tqdm rdkit
cd tests && python -m reference.peers.public_tdc PATH_OF/tdc/utils/split.py FOLDER_WITH_esol.csv_AND_clintox.csv.gz

Its file is run as it is; of the rest of the package it needs a function that prints, which is left out here.
"""

import csv
import gzip
import hashlib
import importlib.util
import json
import pathlib
import sys
import types

PATH = pathlib.Path(__file__).with_name("public_tdc.json")
FRACTIONS, SEEDS = ((0.8, 0.1, 0.1), (0.875, 0.125, 0.0)), range(6)
NAMES = {"train": "train", "validation": "valid", "test": "test"}  # ours: theirs


def smiles_of(path: pathlib.Path) -> list[str]:
    """The SMILES of a table that RDKit can read, in their order."""
    from rdkit import Chem, rdBase

    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file, rdBase.BlockLogs():
        return [row["smiles"] for row in csv.DictReader(file) if Chem.MolFromSmiles(row["smiles"]) is not None]


def digest(places) -> str:
    """Of the places of a split, whatever their order."""
    return hashlib.sha256(",".join(map(str, sorted(int(place) for place in places))).encode()).hexdigest()[:16]


def key(name: str, fractions: tuple[float, ...], seed: int) -> str:
    return f"{name} {'/'.join(map(str, fractions))} {seed}"


def split_with_tdc(path: str):
    """create_scaffold_split of a split.py."""
    for name in ("tdc_utils", "tdc_utils.misc"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["tdc_utils"].__path__ = []
    sys.modules["tdc_utils.misc"].print_sys = lambda text: None
    spec = importlib.util.spec_from_file_location("tdc_utils.split", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.create_scaffold_split


def main(split: str, folder: str) -> None:
    import pandas as pd

    from rxrx_jax.molecules import library

    create = split_with_tdc(split)
    of_one_scaffold = [f"{'C' * n}c1ccccc1" for n in range(1, 31)]  # more than half of a validation set
    lists = {"simulated": library.simulated(200, 7) + of_one_scaffold}
    lists |= {name: smiles_of(pathlib.Path(folder) / name) for name in ("esol.csv", "clintox.csv.gz")}
    found = {}
    for name, smiles in lists.items():
        table = pd.DataFrame({"Drug": smiles, "place": range(len(smiles))})
        for fractions in FRACTIONS:
            for seed in SEEDS:
                made = create(table, seed, list(fractions), "Drug")
                found[key(name, fractions, seed)] = {
                    ours: digest(made[theirs]["place"]) for ours, theirs in NAMES.items()
                }
    content = {"PyTDC": "1.1.15", "simulated": lists["simulated"], "splits": found}
    PATH.write_text(json.dumps(content, indent=0) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
