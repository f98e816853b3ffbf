"""README.md of a prepared folder: a dataset card, with front matter as the Hugging Face hub reads it.

`write` is the whole interface. It reads the folder's dataset_info.json and metadata.json and nothing else.
"""

import json
import pathlib
import re
from typing import Any

from rxrx_jax.base import files

AGAIN = "delete the folder and rebuild the dataset"
# A licence that is one of these has an identifier on the hub; any other is "other", with its own name.
HUB_LICENSES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "odc-by", "odbl", "pddl",
}  # fmt: skip
# As builders write one: NAME (URL), (c) OWNER; all but the name may be missing.
LICENSE = re.compile(r"(?P<name>.*?)(?:\s*\((?P<url>https?://[^\s()]+)\))?(?:,? \(c\) .*)?", re.DOTALL)
UNSTATED = "not stated"  # what the licence of plates starts with whose owner has given none


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
        "license": info.get("redistributionInfo", {}).get("license", UNSTATED),
        "citation": info.get("citation", ""),
        "homepage": (info.get("location", {}).get("urls") or [""])[0],
        "simulated": metadata.get("source_kind") == "simulated",
        "splits": {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]},
        "metadata": metadata,
    }


def license_url(text: str) -> str:
    """The address in a licence as builders write one; '' if it has none."""
    return LICENSE.fullmatch(text)["url"] or ""


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
        _escaped(found["description"]),
        "",
        *((found["homepage"], "") if found["homepage"] else ()),
        f"One record per site: an image of {height}x{width} pixels of {metadata['bits']} bits, and its row of "
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
        *(f"| w{i + 1} | {_escaped(channel)} |" for i, channel in enumerate(metadata["channels"])),
        "",
        *_section("Notes", [f"- {_escaped(note)}" for note in metadata["notes"]]),
        *_section("Licence", _block(found["license"])),
        *_section("Citation", _block(found["citation"]) if found["citation"] else ()),
        *_section("Use", _use(metadata["settings"]["encoding"])),
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


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
    """YAML between lines of ---; values are written as JSON, which YAML contains."""
    tags = ["biology", "microscopy", "high-content-screening", "array-record"]
    fields = {
        **_license(found["license"]),
        "pretty_name": found["name"],
        "tags": tags + ["simulated"] * found["simulated"],
        "size_categories": [size_category(sum(found["splits"].values()))],
        "viewer": False,  # it would take the tables for one dataset
    }
    return ["---", *(f"{key}: {_yaml(value)}" for key, value in fields.items()), "---", ""]


def _license(text: str) -> dict[str, str]:
    """license, and what the hub asks for beside one that it does not know: license_name, license_link."""
    if text.startswith(UNSTATED):
        return {"license": "unknown"}
    name = re.sub(r"[^a-z0-9.]+", "-", LICENSE.fullmatch(text)["name"].lower()).strip("-.")
    if name in HUB_LICENSES:
        return {"license": name}
    return {"license": "other", "license_name": name or "see-below", "license_link": license_url(text) or "LICENSE"}


def size_category(records: int) -> str:
    """The hub's name for a number of records: 'n<1K', '1K<n<10K' and so on."""
    names = ("1K", "10K", "100K", "1M", "10M", "100M")
    below = [name for power, name in enumerate(names, 3) if records >= 10**power]
    above = names[len(below)] if len(below) < len(names) else "1B"
    return f"{below[-1]}<n<{above}" if below else f"n<{above}"


def _yaml(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _escaped(text: str) -> str:
    """Text of others on one line of Markdown, none of which is markup."""
    return re.sub(r"([\\`*_\[\]<>&|~$#])", r"\\\1", " ".join(text.split()))


def _block(text: str) -> list[str]:
    """Text of others as it is, in a fence that it cannot close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}text", *text.splitlines(), fence]


def _section(title: str, lines: Any) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []
