"""A simulated screen as WILDS ships RxRx1: rxrx1_v1.0 with metadata.csv and one PNG of three colours per site."""

import pathlib

from builders_tools import write_csv
from PIL import Image

from rxrx_jax.simulate import screen as simulate

COLUMNS = ("site_id", "well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type", "sirna",
           "sirna_id")  # fmt: skip
OUT_OF = {"train": "train", "id_test": "train", "val": "val", "test": "test"}


def table(screen: simulate.Screen) -> list[dict[str, str]]:
    """The rows of metadata.csv. Of the simulated screen labels are moved to the ranges of RxRx1's kinds of wells."""
    rows = []
    for row in simulate.sites(screen):
        label = {"positive_control": 1108, "negative_control": 1138}.get(row["well_type"], row["perturbation_id"])
        names = dict(row, dataset=OUT_OF[row["split"]], sirna=row["perturbation"], sirna_id=label)
        rows.append({name: str(names[name]) for name in COLUMNS})
    return rows


def file_of(root: pathlib.Path, row: dict) -> pathlib.Path:
    return root / "images" / row["experiment"] / f"Plate{row['plate']}" / f"{row['well']}_s{row['site']}.png"


def write_wilds(screen: simulate.Screen, root) -> None:
    """Writes root/metadata.csv and root/images/EXPERIMENT/PlateN/WELL_sS.png with three channels of every site."""
    root = pathlib.Path(root)
    for row in simulate.sites(screen):
        path = file_of(root, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(simulate.render_site(screen, row)[..., :3]).save(path)
    write_csv(root / "metadata.csv", table(screen))
