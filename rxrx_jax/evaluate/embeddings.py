"""The embeddings of every site in workdir/embeddings.parquet, for maps, probes and pictures: written, and read back as
far as protocols and metrics need a dataset."""

import re
import types
from collections.abc import Iterator

import numpy as np

from rxrx_jax.base import embeddings, hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles, Sites
from rxrx_jax.data.roles import held_out_rows

NEEDED = ("split", "well_id", "cell_type", "experiment", "perturbation_id")


def evaluate(context) -> Iterator[tuple[str, float]]:
    """The columns of sites.csv, `seen` ("label", "image" or "" by what the parameters have seen of a row) and embedding
    [n, D] float32, as `rxrx_jax.base.embeddings` reads them, in the order of its rows. Yields
    `embeddings/sites`, and `marks/embeddings` for what is scored on the held-out rows."""
    rows, embedding = context.embeddings()
    path, table = context.workdir / embeddings.NAME, columns(context.dataset, rows)
    marks = context.marks(np.intersect1d(rows, held_out_rows(context.dataset)))
    metadata = None
    if context.ledger:
        table["seen"] = context.ledger.of_sites(rows)
        metadata = embeddings.provenance(marks, context.ledger.seen.to_bytes(names=False))
    hosts.on_first_host(lambda: embeddings.write(path, table, embedding.astype(np.float32), metadata))
    yield "embeddings/sites", len(rows)
    yield "marks/embeddings", marks


def columns(dataset, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of sites.csv for the dataset's `rows` [n], as far as the dataset holds them: each [n]."""
    sites = dataset.sites
    names = {key: np.array(getattr(dataset, key), str) for key in ("experiments", "cell_types")}
    names["classes"] = np.array([*dataset.classes, ""], str)  # the last for a label of -1
    label = sites.label[rows]
    plate = np.array([name.rpartition("/")[2] for name in dataset.plates], str)
    if all(re.fullmatch("0|[1-9][0-9]{0,8}", name) for name in plate.tolist()):
        plate = plate.astype(np.int32)  # as published datasets have them; others have names: BR00117006, 007
    return {
        "split": sites.split[rows],
        "site_id": sites.site_id[rows],
        "well_id": sites.well_id[rows],
        "cell_type": names["cell_types"][sites.cell_type[rows]],
        "experiment": names["experiments"][sites.experiment[rows]],
        "plate": plate[sites.plate[rows]],
        "well": np.array([name.rpartition("_")[2] for name in sites.well_id[rows]], str),
        "site": sites.site[rows],
        "well_type": sites.well_type[rows],
        "perturbation": names["classes"][label],
        "perturbation_id": label,
    }


def as_dataset(found: dict[str, np.ndarray]) -> types.SimpleNamespace:
    """What protocols and `accuracy.of_protocol` need of a dataset, from the columns of an embeddings file: sites,
    experiments, plates, cell_types, classes and roles, of no protocol yet; types of wells and plates are None where
    the file has none. Raises UserError for a missing column."""
    if missing := [name for name in NEEDED if name not in found]:
        raise UserError(f"the embeddings have no column {', '.join(missing)}")
    if len(wrong := np.flatnonzero(found["perturbation_id"] < -1)):
        raise UserError(f"the embeddings have the perturbation_id {found['perturbation_id'][wrong[0]]} in row "
                        f"{wrong[0]}: use -1 for one that is not known")  # fmt: skip
    for name in ("well_id", "experiment"):
        if len(wrong := np.flatnonzero(found[name] == "")):
            raise UserError(f"row {wrong[0]} of the embeddings has no {name}: embed again, or leave it out")
    experiments, experiment = np.unique(found["experiment"], return_inverse=True)
    cell_types, cell_type = np.unique(found["cell_type"], return_inverse=True)
    label, plates, plate = found["perturbation_id"], [], None
    if "plate" in found:
        plates, plate = np.unique(
            [f"{e}/{p}" for e, p in zip(found["experiment"], found["plate"])], return_inverse=True
        )
        plates = plates.tolist()
    sites = Sites(
        split=found["split"],
        index=None,
        site_id=found.get("site_id"),
        well_id=found["well_id"],
        site=found.get("site", np.zeros(len(label), np.int32)),
        well_type=found.get("well_type"),
        label=label,
        experiment=experiment,
        plate=plate,
        cell_type=cell_type,
    )
    return types.SimpleNamespace(
        sites=sites,
        experiments=experiments.tolist(),
        plates=plates,
        cell_types=cell_types.tolist(),
        classes=range(int(label.max(initial=-1)) + 1),
        roles=Roles(),
    )
