"""Writes the simulated screen as folders: as RxRx1 was published, and as Kaggle shipped it.

    python -m rxrx_jax.simulate.export --out DIR --form published --set seed=1 layout=reshuffled

Both forms are what the builders of the real data read, so a simulated screen exercises them end to end.
"""

import argparse
import csv
import functools
import pathlib

from rxrx_jax.simulate.design import CHANNELS, Screen, parse, sites
from rxrx_jax.simulate.morphology import generator
from rxrx_jax.simulate.render import render_site

METADATA = (
    "site_id", "well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type", "sirna",
    "sirna_id",
)  # fmt: skip


def dataset(screen: Screen, experiment: str) -> str:
    """'train' or 'test', as the published metadata divides experiments: validation counts as 'test'."""
    return "train" if experiment in screen.train else "test"


def write_published(screen: Screen, root) -> None:
    """Writes root/metadata.csv, root/splits.csv and root/images/EXPERIMENT/PlateN/WELL_sS_wC.png."""
    root = pathlib.Path(root)
    rows = sites(screen)
    table = []
    for row in rows:
        renamed = dict(row, dataset=dataset(screen, row["experiment"]), sirna=row["perturbation"],
                       sirna_id=row["perturbation_id"])  # fmt: skip
        table.append([renamed[column] for column in METADATA])
    _write_csv(root / "metadata.csv", METADATA, table)
    _write_splits(screen, root)
    for row in rows:
        _write_channels(screen, row, root / "images")


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
        if row["well_type"] == "treatment":
            tables[part].append(well + ([label] if part == "train" else []))
        else:
            tables[f"{part}_controls"].append([*well, label, row["well_type"]])
    columns = ["id_code", "experiment", "plate", "well", "sirna"]
    _write_csv(root / "train.csv", columns, tables["train"])
    _write_csv(root / "test.csv", columns[:-1], tables["test"])
    for part in ("train_controls", "test_controls"):
        _write_csv(root / f"{part}.csv", [*columns, "well_type"], tables[part])
    _write_splits(screen, root)
    for row in rows:
        _write_channels(screen, row, root / dataset(screen, row["experiment"]))


def _write_csv(path: pathlib.Path, columns, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _write_splits(screen: Screen, root: pathlib.Path) -> None:
    splits = {name: split for split in ("train", "val", "test") for name in getattr(screen, split)}
    _write_csv(root / "splits.csv", ("experiment", "split"), sorted(splits.items()))


def _write_channels(screen: Screen, row: dict, images: pathlib.Path) -> None:
    from PIL import Image  # the screen itself needs no imaging library

    folder = images / row["experiment"] / f"Plate{row['plate']}"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = render_site(screen, row)
    for channel in range(CHANNELS):
        path = folder / f"{row['well']}_s{row['site']}_w{channel + 1}.png"
        Image.fromarray(pixels[..., channel]).save(path, compress_level=1)


def main(arguments=None) -> None:
    forms = {
        "published": write_published,
        "kaggle": write_kaggle,
        "kaggle_strings": functools.partial(write_kaggle, strings=True),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="an empty or new folder")
    parser.add_argument("--form", choices=forms, default="published")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the screen")
    options = parser.parse_args(arguments)
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out={options.out} is not empty; choose a new folder")
    try:
        screen = parse(options.set)
    except ValueError as error:
        parser.error(str(error))
    forms[options.form](screen, options.out)
    print(f"wrote {len(sites(screen))} simulated sites to {options.out}")


if __name__ == "__main__":
    main()
