"""croissant.json of a prepared folder: its files and tables for machines, as Croissant 1.0 describes datasets.

`write` is the whole interface. The format: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html. Its
readers know no array_record: the shards are sets of files, and the tables, of which sites.csv has a row per record, are
sets of records. mlcroissant reads those, in the tests too; it is not needed to write them.
"""

import csv
import json
import pathlib
from typing import Any

import numpy as np

from rxrx_jax.base import files
from rxrx_jax.base.page import card
from tfds_builders.common.types import SITE_COLUMNS
from tfds_builders.report.card import AGAIN, about, records

NAME = "croissant.json"
VERSION = "http://mlcommons.org/croissant/1.0"
# As the specification has it, word for word.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{key: f"cr:{key}" for key in (
        "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
        "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
        "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
    )},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}  # fmt: skip
FORMATS = {".csv": "text/csv", ".json": "application/json", ".html": "text/html", ".md": "text/markdown"}
TYPES = {"int32": "sc:Integer", "float32": "sc:Float"}  # of the records' features; all else is text
ABOUT = {
    "split": "train, id_test, val or test",
    "site_id": "EXPERIMENT_PLATE_WELL_SITE",
    "well_id": "EXPERIMENT_PLATE_WELL",
    "cell_type": "the cell line",
    "experiment": "the biological batch",
    "plate": "number or name of the plate in its experiment",
    "well": "row and column on the plate, A01 at the top left",
    "site": "number of the site in its well",
    "well_type": "treatment, positive_control or negative_control",
    "perturbation": "siRNA, gene or compound; empty where the source withholds it",
    "perturbation_id": "the class; -1 where the source withholds it",
    "concentration_um": "micromolar",
    "smiles": "the compound's structure",
}
assert set(SITE_COLUMNS) <= set(ABOUT)


def write(folder: pathlib.Path) -> None:
    """Writes croissant.json of a prepared folder, all of whose other files but SHA256SUMS are there.

    Raises UserError if the folder's own files are damaged."""
    found = about(folder)
    metadata = found["metadata"]
    description = ("SIMULATED DATA, no image is of a real cell. " if found["simulated"] else "") + found["description"]
    beside = sorted(path for path in folder.iterdir() if ".array_record-" not in path.name)
    height, width, channels = metadata["image_shape"]
    of = "the records of each site, one after the other" if "grid" in metadata else "each record"
    described = (
        f"{records(metadata)} in the order of sites.csv: an image [{height}, {width}, {channels}] of "
        f"{metadata['bits']} bits and the columns of the table, read with tensorflow_datasets. "
        f"manifest.csv has the SHA-256 of {of}."
    )
    types = _types(folder)
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": found["name"],
        "description": description,
        "license": card.license_url(found["license"]) or found["license"],
        **({"citeAs": found["citation"]} if found["citation"] else {}),
        **({"url": found["homepage"]} if found["homepage"] else {}),
        "version": found["version"],
        "distribution": [
            *(_file(path) for path in beside if path.name not in (NAME, files.SUMS)),
            *(_shards(found["name"], split, described) for split in found["splits"]),
        ],
        "recordSet": [
            _splits(found["splits"]),
            _table(folder / "sites.csv", "site_id", types),
            _table(folder / "perturbations.csv", "perturbation_id", types),
        ],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def _types(folder: pathlib.Path) -> dict[str, str]:
    """Column -> type, of those that are features of the records."""
    import tensorflow_datasets as tfds  # here: it takes a second, and importers of this module may not need it

    features = tfds.builder_from_directory(folder).info.features
    return {name: TYPES.get(np.dtype(feature.np_dtype).name, "sc:Text") for name, feature in features.items()}


def _file(path: pathlib.Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": FORMATS.get(path.suffix, "text/plain"),
        "sha256": files.sha256(path, AGAIN),
    }


def _shards(name: str, split: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"records-{split}",
        "name": f"records-{split}",
        "description": description,
        "encodingFormat": "application/octet-stream",
        "includes": f"{name}-{split}.array_record-*",
    }


def _splits(splits: dict[str, int]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"},
            {"@type": "cr:Field", "@id": "splits/records", "name": "records", "dataType": "sc:Integer"},
        ],
        "data": [{"splits/name": name, "splits/records": number} for name, number in splits.items()],
    }


def _table(path: pathlib.Path, key: str, types: dict[str, str]) -> dict[str, Any]:
    """A record set of a csv file with a field per column."""
    with path.open(newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    return {
        "@type": "cr:RecordSet",
        "@id": path.stem,
        "name": path.stem,
        "key": {"@id": f"{path.stem}/{key}"},
        "field": [_field(path, column, types.get(column, "sc:Text")) for column in columns],
    }


def _field(path: pathlib.Path, column: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{path.stem}/{column}",
        "name": column,
        **({"description": ABOUT[column]} if column in ABOUT else {}),
        "dataType": kind,
        "source": {"fileObject": {"@id": path.name}, "extract": {"column": column}},
    }
