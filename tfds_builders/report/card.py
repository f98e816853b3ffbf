"""README.md of a prepared folder: a dataset card, with front matter as the Hugging Face hub reads it.

`write` is the whole interface. It reads the folder's dataset_info.json and metadata.json and nothing else.
"""

import pathlib
from typing import Any

from rxrx_jax.base import files
from rxrx_jax.base.page import card

AGAIN = "delete the folder and rebuild the dataset"


def about(folder: pathlib.Path) -> dict[str, Any]:
    """What a prepared folder says of itself: name, config, version, description, license, citation, homepage,
    simulated, splits (name -> records), and metadata, which is metadata.json."""
    info = files.read_json(folder / "dataset_info.json", AGAIN)
    metadata = files.read_json(folder / "metadata.json", AGAIN)
    return {
        "name": info["name"],
        "config": info.get("configName", "default"),
        "version": info["version"],
        "description": info.get("description", ""),
        "license": info.get("redistributionInfo", {}).get("license", card.UNSTATED),
        "citation": info.get("citation", ""),
        "homepage": (info.get("location", {}).get("urls") or [""])[0],
        "simulated": metadata.get("source_kind") == "simulated",
        "splits": {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]},
        "metadata": metadata,
    }


def write(folder: pathlib.Path) -> None:
    """Writes README.md. Raises UserError if the folder's own files are damaged."""
    found = about(folder)
    metadata, name = found["metadata"], found["name"]
    height, width, _ = metadata["image_shape"]
    warning = ["**SIMULATED DATA. No image is of a real cell; results on it say nothing about real cells.**", ""]
    lines = [
        *_front_matter(found),
        f"# {name}",
        "",
        *(warning if found["simulated"] else ()),
        card.escaped(found["description"]),
        "",
        *((found["homepage"], "") if found["homepage"] else ()),
        f"{records(metadata)}: an image of {height}x{width} pixels of {metadata['bits']} bits, and its row of "
        f"`sites.csv`. Config `{found['config']}`, version {found['version']}.",
        "",
        "| split | records |",
        "| --- | ---: |",
        *(f"| {split} | {number:,} |" for split, number in found["splits"].items()),
        "",
        f"Set aside, and not in the records: {metadata['set_aside']:,} (`set_aside.csv` names each with its reason). "
        "`report.html` shows images, counts and plate maps.",
        "",
        "| channel | shows |",
        "| --- | --- |",
        *(f"| w{i + 1} | {card.escaped(channel)} |" for i, channel in enumerate(metadata["channels"])),
        "",
        *_section("Notes", [f"- {card.escaped(note)}" for note in metadata["notes"]]),
        *_section("Licence", card.block(found["license"])),
        *_section("Citation", card.block(found["citation"]) if found["citation"] else ()),
        *_section("Use", _use(metadata["settings"]["encoding"])),
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def records(metadata: dict[str, Any]) -> str:
    """How many records a site has, in words."""
    if "grid" not in metadata:
        return "One record per site"
    (rows, columns), tile = metadata["grid"], metadata["tile"]
    return f"{rows * columns:,} records per site, its tiles of {tile}x{tile} pixels row by row"


def _use(encoding: str) -> list[str]:
    ours = encoding in ("delta", "source")
    needs = f"rxrx_jax, whose {encoding} encoding the records have" if ours else "tensorflow-datasets"
    return [
        f"Reading needs {needs}, and no TensorFlow:",
        "",
        "```python",
        "import tensorflow_datasets as tfds",
        "",
        'source = tfds.builder_from_directory(".").as_data_source()  # by split: source["train"][0]["image"]',
        "```",
        "",
        "`SHA256SUMS` has the SHA-256 of every file here but the records, `manifest.csv` that of each record;",
        "`python -m tfds_builders.verify .` compares all of them. `croissant.json` describes the files to machines.",
    ]


def _front_matter(found: dict[str, Any]) -> list[str]:
    tags = ["biology", "microscopy", "high-content-screening", "array-record"]
    fields = {
        **card.license_fields(found["license"], "LICENSE"),
        "pretty_name": found["name"],
        "tags": tags + ["simulated"] * found["simulated"],
        "size_categories": [size_category(sum(found["splits"].values()))],
        "viewer": False,  # it would take the tables for one dataset
    }
    return card.front_matter(fields)


def size_category(records: int) -> str:
    """The hub's name for a number of records: 'n<1K', '1K<n<10K' and so on."""
    names = ("1K", "10K", "100K", "1M", "10M", "100M")
    below = [name for power, name in enumerate(names, 3) if records >= 10**power]
    above = names[len(below)] if len(below) < len(names) else "1B"
    return f"{below[-1]}<n<{above}" if below else f"n<{above}"


def _section(title: str, lines: Any) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []
