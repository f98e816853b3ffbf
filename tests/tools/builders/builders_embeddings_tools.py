"""What the tests of published embeddings share: rows, embeddings of them in every form, and what a build made."""

import csv
import io
import json
import tarfile
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rxrx_jax.base import embeddings as embeddings_file
from tfds_builders.common.types import Table
from tfds_builders.embeddings import join, vectors

DIM = 3
SPLIT = {"HUVEC-01": "train", "HUVEC-02": "val", "RPE-01": "test"}


def site(experiment, plate, well, number):
    """A row as the metadata readers give it."""
    well_id = f"{experiment}_{plate}_{well}"
    name = f"s{ord(well[-1]) % 2}"
    kind = SPLIT[experiment]
    return {
        "split": "id_test" if kind == "train" and number > 1 else kind,
        "site_id": f"{well_id}_{number}",
        "well_id": well_id,
        "cell_type": experiment.split("-")[0],
        "experiment": experiment,
        "plate": plate,
        "well": well,
        "site": number,
        "well_type": "treatment",
        "perturbation": name,
        "perturbation_id": None,
        "concentration_um": float("nan") if well == "B02" else 0.1,
        "smiles": "",
        "original": {"site_id": "x"},
        "where": f"metadata.csv line {number}",
    }


ROWS = [
    site(experiment, plate, well, number)
    for experiment in SPLIT
    for plate in (1, 2, 10)
    for well in ("B02", "B03", "AA01")
    for number in (1, 2)
]
RNG = np.random.default_rng(0)
VALUES = {row["site_id"]: RNG.normal(size=DIM).astype(np.float32) for row in ROWS}
WELLS = {row["well_id"]: RNG.normal(size=DIM).astype(np.float32) for row in ROWS}


def builder(rows=ROWS, notes=()):
    return types.SimpleNamespace(
        extra_columns={"concentration_um": float, "smiles": str},
        about={"description": "d", "homepage": "h", "license": "l", "citation": "c"},
        read_table=lambda: Table(iter(rows), {"source": "here"}, list(notes)),
    )


def text(values, key="site_id", order=None):
    """The csv table of {id: values}."""
    lines = [",".join([key, *(f"feature_{i}" for i in range(DIM))])]
    lines += [",".join([name, *map(str, values[name])]) for name in order or values]
    return "\n".join(lines) + "\n"


class Made(types.SimpleNamespace):
    """columns, embedding, by_id {site_id: embedding}, set_aside [rows], unlisted [rows], about."""


def make(tmp_path, content, rows=ROWS, name="embeddings.csv"):
    """Builds from one file of this content."""
    source = tmp_path / name
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    return build(tmp_path / f"made{len(list(tmp_path.iterdir()))}", source, rows)


def build(folder, source, rows=ROWS):
    folder.mkdir()
    join.build(builder(rows), vectors.find(source), folder, progress=False)
    names = {"SHA256SUMS", "embeddings.parquet", "metadata.json", "set_aside.csv", "unlisted.csv"}
    assert {path.name for path in folder.iterdir()} == names
    return look(folder)


def look(folder):
    columns, embedding = embeddings_file.read(folder)
    read = lambda name: list(csv.DictReader((folder / name).read_text().splitlines()))  # noqa: E731
    return Made(
        folder=folder,
        columns=columns,
        embedding=embedding,
        by_id=dict(zip(columns["site_id"], embedding)),
        set_aside=[tuple(row.values()) for row in read("set_aside.csv")],
        unlisted=[tuple(row.values()) for row in read("unlisted.csv")],
        about=json.loads((folder / "metadata.json").read_text()),
    )


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def parquet(values, key="well_id", dtype=np.float32, changes=()):
    """The bytes of a Parquet file of {id: values}."""
    table = {key: list(values)}
    table |= {f"feature_{i}": np.array([v[i] for v in values.values()], dtype) for i in range(DIM)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(table | dict(changes)), buffer)
    return buffer.getvalue()


def tree(root):
    """Writes EXPERIMENT/PlateN/embeddings.parquet, as RxRx3's."""
    plates = {}
    for name, value in WELLS.items():
        experiment, plate, _ = name.split("_")
        plates.setdefault((experiment, plate), {})[name] = value
    for (experiment, plate), values in plates.items():
        folder = root / experiment / f"Plate{plate}"
        folder.mkdir(parents=True)
        (folder / "embeddings.parquet").write_bytes(parquet(values))
    return root


def tar(root, path):
    with tarfile.open(path, "w") as archive:
        for name in sorted(root.iterdir()):
            archive.add(name, name.name)
    return path
