"""Fetches the published archives of a dataset and unpacks them into the layout that prepare reads.

    python -m tfds_builders.download rxrx1 --to=DIR [--only=metadata,images,embeddings]

Stopped or cut off, the same command resumes where it was. An archive that is in DIR already, fetched by hand, is
used as it is. RxRx3 and RxRx3-core ask for consent on their own pages: for these, the command says what to fetch
and where to put it, and exits with 2.
"""

import argparse
import json
import pathlib
import sys

from rxrx_jax.base import command, files
from rxrx_jax.base.errors import UserError
from tfds_builders import prepare
from tfds_builders.downloads import fetch, unpack

BASE = "https://storage.googleapis.com/rxrx/"
PARTS = ("metadata", "embeddings", "images")  # small ones first
# Objects below BASE, in the order in which they are tried: names of objects know upper and lower case.
OBJECTS = {
    "rxrx1": {
        "metadata": ("rxrx1/rxrx1-metadata.zip",),
        "embeddings": ("rxrx1/rxrx1-dl-embeddings.zip",),
        "images": ("rxrx1/rxrx1-images.zip",),
    },
    "rxrx2": {
        "metadata": ("rxrx2/rxrx2-metadata.zip", "RxRx2/RxRx2-metadata.zip"),
        "embeddings": ("rxrx2/rxrx2-dl-embeddings.zip", "RxRx2/RxRx2-DL-embeddings.zip"),
        "images": ("rxrx2/rxrx2-images.zip", "RxRx2/RxRx2-images.zip"),
    },
    "rxrx19a": {
        "metadata": ("RxRx19a/RxRx19a-metadata.zip",),
        "embeddings": ("RxRx19a/RxRx19a-DL-embeddings.zip",),
        "images": ("RxRx19a/RxRx19a-images.zip",),
    },
    "rxrx19b": {
        "metadata": ("rxrx19b/rxrx19b-metadata.zip", "RxRx19b/RxRx19b-metadata.zip"),
        "embeddings": ("rxrx19b/rxrx19b-dl-embeddings.zip", "RxRx19b/RxRx19b-DL-embeddings.zip"),
        "images": ("rxrx19b/rxrx19b-images.zip", "RxRx19b/RxRx19b-images.zip"),
    },
}
# The objects whose whole URL stands in two independent public repositories or more. All others are believed, not
# checked: one source only, or the names of the datasets that are known carried over to the others.
CONFIRMED = {
    "rxrx1/rxrx1-metadata.zip",
    "rxrx1/rxrx1-dl-embeddings.zip",
    "rxrx1/rxrx1-images.zip",
    "RxRx19a/RxRx19a-metadata.zip",
}
PAGES = {name: f"https://www.rxrx.ai/{name}#Download" for name in OBJECTS}
MANUAL = {
    "rxrx1_wilds": """\
RxRx1 as WILDS ships it, three channels of 256x256 pixels (7.4 GB), is fetched by its own package:
  pip install wilds
  python -c "import wilds; wilds.get_dataset('rxrx1', root_dir='{to}', download=True)"
That gives rxrx1_v1.0 in {to}, which holds metadata.csv and images/: the folder to give to prepare as --source.
By hand, unpack https://worksheets.codalab.org/rest/bundles/0x6b7a05a3056a434498f0bb1252eb8440/contents/blob/ there.""",
    "rxrx3": """\
RxRx3 is available after signing in and accepting Recursion's non-commercial licence. Fetch by hand, from
https://rxrx3.rxrx.ai/downloads, into DIR = {to}:
  metadata.csv               DIR/metadata.csv
  images, one tar per plate    DIR/images/EXPERIMENT/PlateN.tar (compound-003/Plate36.tar), not unpacked; any subset
  embeddings.tar             DIR/embeddings.tar, not unpacked""",
    "rxrx3_core": """\
RxRx3-core is on Hugging Face, under Recursion's non-commercial licence: read it at
https://huggingface.co/datasets/recursionpharma/rxrx3-core, then
  pip install huggingface_hub
  hf download recursionpharma/rxrx3-core --repo-type=dataset --local-dir={to}
That gives DIR = {to}:
  metadata_rxrx3_core.csv                     the table
  data/train-*.parquet                        the images
  OpenPhenom_rxrx3_core_embeddings.parquet    embeddings""",
}

INSIDE = {"rxrx1_wilds": "rxrx1_v1.0"}  # the folder of one that brings its own, and has no embeddings


def urls(name: str, part: str) -> list[str]:
    """Returns where a part of a dataset may be, in the order in which to try."""
    return [BASE + found for found in OBJECTS[name][part]]


def download(name: str, to: pathlib.Path, parts: tuple[str, ...] = PARTS, progress: bool = True) -> None:
    """Fetches and unpacks the chosen parts (of PARTS) of a dataset into `to`. Raises UserError."""
    with files.not_left_empty(to):
        to.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            if part in parts:
                _download_part(name, part, to, progress)


def _download_part(name: str, part: str, to: pathlib.Path, progress: bool) -> None:
    paths = [to / pathlib.PurePosixPath(url).name for url in urls(name, part)]
    path = next((path for path in paths if path.exists()), paths[0])
    done = path.with_name(path.name + ".json")  # that the archive was unpacked; it may be deleted then
    if not path.exists() and done.exists():
        print(f"{part}: unpacked before; delete {done} to fetch it again")
        return
    if path.exists():
        print(f"{part}: {path} is there", flush=True)
    else:
        _fetch_first(name, part, path, progress)
    counts = unpack.unpack(path, to, strip=name, progress=progress)
    done.write_text(json.dumps({"archive": path.name, "size": path.stat().st_size, **counts}) + "\n")
    print(f"{part}: {counts['unpacked']:,} files unpacked, {counts['there']:,} were there as they should be")
    if counts["replaced"]:
        print(f"note: {counts['replaced']:,} files in {to} differed from those in {path.name} and were replaced")


def _fetch_first(name: str, part: str, path: pathlib.Path, progress: bool) -> None:
    """Fetches the first of a part's objects that is there."""
    problems = []
    for found in OBJECTS[name][part]:
        believed = "" if found in CONFIRMED else " (this address is believed, not checked)"
        print(f"{part}: {BASE}{found}{believed}", flush=True)
        try:
            # PNG files do not shrink: what is in an archive of images needs its size once more.
            fetch.fetch(BASE + found, path, room=1 if part == "images" else 0, progress=progress)
            return
        except fetch.NotThere as error:
            problems.append(str(error))
    raise UserError(
        f"{'; '.join(problems)}. Fetch the {part} by hand from {PAGES[name]}, save them as {path} and run this again"
    )


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise UserError(f"--only={text}: expected some of {','.join(PARTS)}")
    return parts


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    known = sorted({*OBJECTS, *MANUAL})
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.download", description="Fetches and unpacks the published archives of a dataset."
    )
    parser.add_argument("name", help=f"the dataset: {', '.join(known)}")
    parser.add_argument("--to", required=True, help="the folder to fetch into: the --source of prepare")
    parser.add_argument("--only", default=",".join(PARTS), help="metadata, images, embeddings (default: all three)")
    flags = parser.parse_args(argv)
    to = pathlib.Path(flags.to).expanduser().absolute()
    parts = _parts(flags.only)
    if flags.name not in known:
        raise UserError(f"no dataset to download is called {flags.name!r}; there are: {', '.join(known)}")
    about = prepare.builder_class(flags.name).about
    print(f"licence    {about['license']}\nhomepage   {about['homepage']}\ncite       {_one_line(about['citation'])}")
    if flags.name in MANUAL:
        print(MANUAL[flags.name].format(to=to))
    else:
        download(flags.name, to, parts)
    for module, needs in (("prepare", "images"), ("prepare_embeddings", "embeddings")):
        if needs in parts and (flags.name not in INSIDE or needs == "images"):
            print(
                f"then       python -m tfds_builders.{module} {flags.name} --source={to / INSIDE.get(flags.name, '')}"
            )
    return 2 if flags.name in MANUAL else 0


def _one_line(citation: str) -> str:
    return " ".join(citation.split())


if __name__ == "__main__":
    sys.exit(command.run(main))
