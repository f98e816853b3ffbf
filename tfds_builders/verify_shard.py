"""Compares the records of one shard of a prepared folder with their rows of sites.csv and manifest.csv."""

import hashlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import mirror, stores

AGAIN = "copy the folder again, or rebuild the dataset"


def read_features(folder: pathlib.Path) -> Any:
    """Returns the TFDS features of a folder's records. Raises UserError if the files that describe them are damaged."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder).info.features
    except Exception as error:  # TFDS raises many kinds
        raise UserError(f"{folder}: features.json or dataset_info.json is damaged ({error}); {AGAIN}") from error


def compare(
    folder: pathlib.Path, path: pathlib.Path, first: int, sites: list[dict], manifest: list[dict], about: dict
) -> dict[str, Any]:
    """Compares the records of one shard with their rows; its pixels are of one plate.

    Args:
      folder: the prepared folder.
      path: of the shard.
      first: index in the split of its first site.
      sites, manifest: the rows of its sites.
      about: of metadata.json, "image_shape" and, where an image is several records, "grid"; "address" of the folder
        where it is in an object store, from which the shard is fetched while it is compared.

    Returns:
      {"wrong": what is wrong, a sentence each, "records": number of sites, "read": of those that could be read, and if
      there are any, "experiment", "plate", "split", "digests", "moments" and "histogram" as of plates.build_plate}.
    """
    if address := about.get("address"):
        whole = path.with_name(path.name.replace(mirror.RECORDS, ".whole-"))  # not a name of record files
        try:
            stores.download(f"{address}/{path.name}", whole)
            found = compare(folder, whole, first, sites, manifest, about | {"address": ""})
        finally:
            whole.unlink(missing_ok=True)
        return found | {"wrong": [line.replace(whole.name, path.name) for line in found["wrong"]]}
    from array_record.python.array_record_module import ArrayRecordReader

    from tfds_builders.common import encodings, plates, repeats

    features, tiles = read_features(folder), math.prod(about.get("grid", (1,)))
    wrong = []
    histogram, read, digests = 0, 0, []
    try:
        if not path.is_file():  # opening a pipe would wait for someone to write
            raise ValueError("not a regular file")
        if files.is_pointer(path):
            raise ValueError("a Git LFS pointer, not the file: run `git lfs pull`")
        reader = ArrayRecordReader(str(path))
        found = reader.num_records()
    except Exception as error:  # the library raises several types for a damaged file
        return {"wrong": [f"{path.name}: cannot be read ({error})"], "records": len(sites), "read": 0}
    if found != len(sites) * tiles:
        wrong.append(f"{path.name}: holds {found} records in place of {len(sites) * tiles}")
    for i, (site, entry) in enumerate(zip(sites[: found // tiles], manifest, strict=False)):
        name = f"{path.name} record {i * tiles} ({site['site_id']})"
        sizes, digest, images = 0, hashlib.sha256(), []
        for tile in range(tiles):
            of_tile = f"{path.name} record {i * tiles + tile} ({site['site_id']}, tile {tile})" if tiles > 1 else name
            try:
                record = reader.read([i * tiles + tile])[0]
            except Exception as error:
                wrong.append(f"{of_tile}: cannot be read ({error})")
                continue
            sizes += len(record)
            digest.update(record)
            try:
                example = features.deserialize_example_np(record)
            except Exception as error:
                wrong.append(f"{of_tile}: cannot be decoded ({error})")
                continue
            row = site | ({"tile": str(tile)} if tiles > 1 else {})
            try:
                wrong += [f"{of_tile}: {text}" for text in _differences(example, row)]
            except (KeyError, ValueError) as error:
                wrong.append(f"{of_tile}: cannot be compared with sites.csv ({error!r})")
            images.append(example["image"])
        if entry["site_id"] != site["site_id"] or entry["index"] != str(first + i):
            wrong.append(f"{name}: manifest.csv has {entry['site_id']} index {entry['index']} in its place")
        if str(sizes) != entry["bytes"] or digest.hexdigest() != entry["sha256"]:
            wrong.append(f"{name}: its bytes are not those of manifest.csv")
        if len(images) < tiles:
            continue
        image = encodings.join(images, tuple(about["image_shape"])) if "grid" in about else images[0]
        counts = plates.histograms(np.moveaxis(image, -1, 0))
        mean = counts @ np.arange(counts.shape[1]) / counts[0].sum()
        if any(f"{value:.6g}" != entry[f"mean_w{c + 1}"] for c, value in enumerate(mean)):
            wrong.append(f"{name}: mean intensities differ from manifest.csv")
        histogram, read = histogram + counts, read + 1
        digests += repeats.digests(np.moveaxis(image, -1, 0), counts)
    result = {"wrong": wrong, "records": len(sites), "read": read}
    if read:
        result |= {
            "experiment": sites[0]["experiment"],
            "plate": sites[0]["plate"],
            "split": sites[0]["split"],
            "digests": digests,
            "moments": plates.moments(histogram, read),
            "histogram": histogram.reshape(len(histogram), 256, -1).sum(-1).tolist(),
        }
    return result


def _differences(example: dict[str, Any], site: dict[str, str]) -> Iterator[str]:
    """Yields the differences between a record and its row of sites.csv."""
    for key, value in example.items():
        if key == "image":
            continue
        if isinstance(value, bytes):
            same = value.decode() == site[key]
        elif isinstance(value, (float, np.floating)):
            same = math.isnan(value) if site[key] == "" else np.float32(site[key]) == value
        else:
            same = str(value) == site[key]
        if not same:
            yield f"{key} is {value!r}, in sites.csv {site[key]!r}"
