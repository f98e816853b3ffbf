"""Writes the simulated screen as files: as RxRx1 was published, as Kaggle shipped it, and as the later datasets.

    python -m rxrx_jax.simulate.export --out DIR --form published --set seed=1 layout=reshuffled
    python -m rxrx_jax.simulate.export --out DIR --form rxrx3

All forms are what the builders of the real data read, so a simulated screen exercises them end to end.
"""

import argparse
import functools
import pathlib
import sys

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import TREATMENT
from rxrx_jax.simulate import layouts
from rxrx_jax.simulate.design import Screen, parse, sites
from rxrx_jax.simulate.layouts import write_channels, write_csv, write_splits
from rxrx_jax.simulate.morphology import generator
from rxrx_jax.simulate.render import render_site

METADATA = (
    "site_id", "well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type", "sirna",
    "sirna_id",
)  # fmt: skip


def dataset(screen: Screen, experiment: str) -> str:
    """'train' or 'test', as the published metadata divides experiments: validation counts as 'test'."""
    return "train" if experiment in screen.splits["train"] else "test"


def write_published(screen: Screen, root) -> None:
    """Writes root/metadata.csv, root/splits.csv and root/images/EXPERIMENT/PlateN/WELL_sS_wC.png."""
    root = pathlib.Path(root)
    rows = sites(screen)
    table = []
    for row in rows:
        renamed = dict(row, dataset=dataset(screen, row["experiment"]), sirna=row["perturbation"],
                       sirna_id=row["perturbation_id"])  # fmt: skip
        table.append([renamed[column] for column in METADATA])
    write_csv(root / "metadata.csv", METADATA, table)
    write_splits(screen, root)
    for row in rows:
        write_channels(row, render_site(screen, row), root / "images")


def write_kaggle(screen: Screen, root, strings: bool = False) -> None:
    """Writes root/{train,test}{,_controls}.csv, root/splits.csv and root/{train,test}/EXPERIMENT/PlateN/...

    A row of these tables is a well; its sites are implied. test.csv has no labels. strings: labels are
    'sirna_N', numbered in another order than the integers, and 'UNTREATED', as in the competition's relaunch.
    """
    root = pathlib.Path(root)
    rows = sites(screen)
    order = generator(screen.seed, "kaggle strings").permutation(screen.classes - 1)
    names = [f"sirna_{i}" for i in order] + ["UNTREATED"]
    tables = {"train": [], "test": [], "train_controls": [], "test_controls": []}
    for row in rows:
        if row["site"] != 1:
            continue
        part = dataset(screen, row["experiment"])
        label = names[row["perturbation_id"]] if strings else row["perturbation_id"]
        well = [row["well_id"], row["experiment"], row["plate"], row["well"]]
        if row["well_type"] == TREATMENT:
            tables[part].append(well + ([label] if part == "train" else []))
        else:
            tables[f"{part}_controls"].append([*well, label, row["well_type"]])
    columns = ["id_code", "experiment", "plate", "well", "sirna"]
    write_csv(root / "train.csv", columns, tables["train"])
    write_csv(root / "test.csv", columns[:-1], tables["test"])
    for part in ("train_controls", "test_controls"):
        write_csv(root / f"{part}.csv", [*columns, "well_type"], tables[part])
    write_splits(screen, root)
    for row in rows:
        write_channels(row, render_site(screen, row), root / dataset(screen, row["experiment"]))


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    forms = {
        "published": write_published,
        "kaggle": write_kaggle,
        "kaggle_strings": functools.partial(write_kaggle, strings=True),
        "rxrx2": layouts.write_rxrx2,
        "rxrx19a": layouts.write_rxrx19a,
        "rxrx19b": layouts.write_rxrx19b,
        "rxrx3": layouts.write_rxrx3,
        "rxrx3_core": layouts.write_rxrx3_core,
        "rxrx3_core_webdataset": functools.partial(layouts.write_rxrx3_core, form="webdataset"),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="an empty or new folder")
    parser.add_argument("--form", choices=forms, default="published")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the screen")
    options = parser.parse_args(argv)
    if options.out.exists() and any(options.out.iterdir()):
        raise UserError(f"--out={options.out} is not empty; choose a new folder")
    screen = parse(options.set)
    forms[options.form](screen, options.out)
    print(f"wrote the simulated screen to {options.out} as {options.form}")


if __name__ == "__main__":
    sys.exit(command.run(main))
