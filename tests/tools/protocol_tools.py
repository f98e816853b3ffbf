"""For tests of protocols: tables without records, made of rows, and RxRx1's whole design; and a small tree of images
in the published layout."""

import csv
import functools
import types

import numpy as np
import pytest

from rxrx_jax.data import Sites
from rxrx_jax.evaluate.protocols import wilds_ood
from rxrx_jax.simulate import export
from rxrx_jax.simulate.design import Screen, sites
from tfds_builders import prepare
from tfds_builders.common.rows import splits

NAMES = wilds_ood.named(HEPG2=[1], HUVEC=[1, 2, 17, 18, 21], RPE=[1, 9], U2OS=[1, 5])
SCREEN = Screen(
    treatments=8, replicates=1, positive_controls=1, positive_wells=2, untreated_wells=1, image_size=32,
    val=(), test=(), cell_types=("SIMA",), train=tuple(f"SIMA-{i:02d}" for i in range(len(NAMES))),
)  # fmt: skip
PUBLISHED = {"treatment": 0, "positive_control": 1108 - 8, "negative_control": 1138 - 9}  # what is added to labels


def published(root):
    """(a tree, where it is prepared): the simulated screen with RxRx1's experiments and numbers of classes."""
    export.write_published(SCREEN, root / "tree")
    (root / "tree" / "splits.csv").unlink()
    table, named = root / "tree" / "metadata.csv", dict(zip(SCREEN.experiments, NAMES))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for simulated, name in named.items():
        (root / "tree" / "images" / simulated).rename(root / "tree" / "images" / name)
    for row in rows:
        name = named[row["experiment"]]
        row |= {key: row[key].replace(row["experiment"], name) for key in ("site_id", "well_id")}
        row |= {"experiment": name, "cell_type": name.split("-")[0]}
        row |= {"dataset": "train" if name in wilds_ood.TRAIN else "test"}
        row["sirna_id"] = int(row["sirna_id"]) + PUBLISHED[row["well_type"]]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    prepare.prepare("rxrx1", root / "tree", root / "data", 1, progress=False)
    return root / "tree", root / "data"


def table(rows, classes):
    """A dataset of dicts with experiment, well, site, split, label: a table alone."""
    column = lambda key, kind: np.array([row[key] for row in rows], kind)  # noqa: E731
    experiments, experiment = np.unique(column("experiment", str), return_inverse=True)
    cell_types, cell_type = np.unique([name.rpartition("-")[0] for name in experiments], return_inverse=True)
    well_id = np.array([f"{row['experiment']}_{row['well']}" for row in rows])
    unused = dict.fromkeys(("index", "site_id"))
    places = np.char.add(np.char.add(column("experiment", str), "/"), np.char.partition(column("well", str), "_")[:, 0])
    plates, plate = np.unique(places, return_inverse=True)
    sites = Sites(
        split=column("split", str),
        well_id=well_id,
        site=column("site", np.int32),
        well_type=np.array([row.get("well_type", "treatment") for row in rows], str),
        plate=plate,
        label=column("label", np.int32),
        experiment=experiment.astype(np.int32),
        cell_type=cell_type[experiment],
        **unused,
    )
    names = dict(experiments=experiments.tolist(), plates=plates.tolist(), cell_types=cell_types.tolist())
    return types.SimpleNamespace(sites=sites, classes=["x"] * classes, **names)


def screen(**settings):
    """The simulated screen's table, without images."""
    found = Screen(**settings)
    rows = [row | {"well": f"{row['plate']}_{row['well']}", "label": row["perturbation_id"]} for row in sites(found)]
    return table(rows, found.classes)


def rxrx1(shared_data, labelled=True):
    """RxRx1's whole design, which withholds half the test labels; `labelled` gives these wells the treatments that
    their experiment has not. Skips without."""
    path = shared_data / "rxrx1" / "metadata_rebuilt.csv"
    if not path.exists():
        pytest.skip(f"RxRx1's design is not there: {path}")
    return _rxrx1(path, labelled)


@functools.cache
def _rxrx1(path, labelled):
    with open(path, newline="") as f:
        rows = list(csv.DictReader(f))
    for row in rows:
        row |= {"well": f"{row['plate']}_{row['well']}", "site": int(row["site"])}
        row |= {"split": splits.by_site(splits.WILDS, row["experiment"], row["site"])}
        row["label"] = int(row["sirna_id"] or -1)
    if labelled:
        free, given = {}, {}
        for row in rows:
            free.setdefault(row["experiment"], set(range(1108))).discard(row["label"])
        for row in (row for row in rows if row["label"] < 0):
            if row["well_id"] not in given:
                given[row["well_id"]] = free[row["experiment"]].pop()
            row["label"] = given[row["well_id"]]
    return table(rows, 1139)
