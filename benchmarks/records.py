"""Record encodings by size and time: `python benchmarks/records.py [--source=DIR]`, DIR an RxRx1 tree.

For every encoding of the builders, through array_record and TFDS as training reads them: kB per site on disk and over
the PNG files it came from, ms to encode a site, ms to read one whole, and ms to read one and crop 256x256 of it.
(What zstd costs is spent in array_record's writer, and not in `encode ms`.) Below them other codecs alone.
CPU time of one thread, minimum over repeats; the last line is one JSON object.
"""

import argparse
import json
import pathlib
import tempfile
import time

import imagecodecs
import numpy as np
import tensorflow_datasets as tfds
from common.sites import make_tree

from tfds_builders import prepare
from tfds_builders.common import encodings, reading, settings
from tfds_builders.common.sources import Folders

REPEATS = 5
OTHERS = {  # name: (encode one site [C, H, W], decode)
    "zlib 6": (lambda x: imagecodecs.zlib_encode(x.tobytes(), level=6), imagecodecs.zlib_decode),
    "tall PNG": (lambda x: imagecodecs.png_encode(_tall(x), level=1), imagecodecs.png_decode),
    "JPEG-LS": (lambda x: imagecodecs.jpegls_encode(_tall(x)), imagecodecs.jpegls_decode),
    "JPEG 2000, reversible": (
        lambda x: imagecodecs.jpeg2k_encode(_tall(x), level=0, reversible=True),
        imagecodecs.jpeg2k_decode,
    ),
    "HTJ2K, reversible": (
        lambda x: imagecodecs.htj2k_encode(_tall(x), reversible=True),
        imagecodecs.htj2k_decode,
    ),
}


def _tall(image: np.ndarray) -> np.ndarray:
    return image.reshape(-1, image.shape[-1])  # [C * H, W]


def milliseconds(function, items) -> float:
    """CPU time of function(item) in this thread, the minimum over repeats of the mean over items."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.thread_time()
        for item in items:
            function(item)
        best = min(best, (time.thread_time() - start) / len(items))
    return 1000 * best


def crop(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[100:356, 77:333])  # [256, 256, C]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, help="an RxRx1 tree with images/")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        what = make_tree(folder / "tree", flags.source, plates=1, wells=20)
        reader = reading.FileReader(Folders(folder / "tree"), 6, (512, 512), 8, 8)
        rows = [{"well": well, "site": 1} for well, _, _ in _first_channels(reader)]
        with reader.open("HUVEC-01", 1) as sites:
            # (image [C, H, W], its files); the reader uses its image again
            read = [(image.copy(), files) for image, files in map(sites.read, rows)]
        png = np.mean([sum(map(len, files)) for _, files in read])
        result = {"sites": what, "png_kB": png / 1e3, "encodings": {}, "codecs": {}}
        for name in settings.ENCODINGS:
            path = prepare.prepare("rxrx1", folder / "tree", folder / "out", 1, progress=False, encoding=name)
            source = tfds.builder_from_directory(path).as_data_source("train")
            size = sum(split.num_bytes for split in source.dataset_info.splits.values()) / len(source)
            feature = encodings.image_feature(name, (512, 512, 6), 8)
            figures = {
                "kB": size / 1e3,
                "over_png": size / png,
                "encode_ms": milliseconds(
                    lambda item, n=name, f=feature: f.encode_example(encodings.encode(n, *item)), read
                ),
                "read_ms": milliseconds(lambda i, s=source: s[i]["image"], range(len(source))),
                "read_and_crop_ms": milliseconds(lambda i, s=source: crop(s[i]["image"]), range(len(source))),
            }
            result["encodings"][name] = figures
        for name, (encode, decode) in OTHERS.items():
            images = [image for image, _ in read]
            coded = [encode(image) for image in images]
            size = np.mean([len(data) for data in coded])
            figures = {
                "kB": size / 1e3,
                "over_png": size / png,
                "encode_ms": milliseconds(encode, images),
                "read_ms": milliseconds(decode, coded),
            }
            result["codecs"][name] = figures
    print("\n".join(table(result)))
    print(json.dumps(result))


def table(result: dict) -> list[str]:
    """Returns the lines of a Markdown table of the encodings, and of the codecs alone."""
    lines = [
        "| encoding | kB per site | over PNG | encode ms | read ms | read and crop ms |",
        "| --- " + "| ---: " * 5 + "|",
    ]
    for name, figures in [*result["encodings"].items(), *result["codecs"].items()]:
        crop = f"{figures['read_and_crop_ms']:.2f}" if "read_and_crop_ms" in figures else ""
        label = f"`{name}`" if name in result["encodings"] else f"codec alone: {name}"
        lines.append(
            f"| {label} | {figures['kB']:.0f} | {figures['over_png']:.3f} | {figures['encode_ms']:.2f} | "
            f"{figures['read_ms']:.2f} | {crop} |"
        )
    return lines


def _first_channels(reader):
    with reader.open("HUVEC-01", 1) as sites:
        return sorted(key for key in sites.files.keys if key[2] == 1)


if __name__ == "__main__":
    main()
