"""What it costs to read one training image of 256 pixels from records of RxRx3, 2048x2048 pixels and 6 channels.

The sites are mosaics of 512-pixel sites, real ones of RxRx1 where a source is given, else simulated, in 16 bits with
noise below what 8 bits keep. The builder makes records of them. Used by scale.py.
"""

import io
import pathlib
import statistics
import tarfile
import time

import imagecodecs
import numpy as np
from common.sites import complete_sites, make_tree
from records import milliseconds

from rxrx_jax import data
from rxrx_jax.base.command import cores
from rxrx_jax.simulate import layouts
from tfds_builders import prepare

SIDE, TILE, CROP, CHANNELS = 2048, 512, 256, 6
WELLS, MINIBATCH, SECONDS, ROUNDS = 3, 8, 2, 3
CROPS = 16  # of one record, where it is read once for several
ENCODINGS = ("delta", "raw")  # `source` keeps 16 bits, and training reads 8


def measure(folder: pathlib.Path, source: pathlib.Path | None) -> dict:
    """{"sites", "cores", "encodings": {name: figures}} of records made in `folder`.

    MB: of a record. images_per_second_per_core: of the trainer's own loader, one random crop per record. read_ms and
    crops_ms: CPU time to read a whole record and to cut CROPS crops out of it.
    """
    what = make_tree(folder / "small", source, 1, 16)
    write_tree(folder / "tree", complete_sites(folder / "small"))
    result = {"sites": f"mosaics of {what}", "cores": len(cores()), "crops": CROPS, "encodings": {}}
    for name in ENCODINGS:
        path = prepare.prepare("rxrx3", folder / "tree", folder / "out", progress=False, encoding=name, tile=0)
        dataset = data.read_dataset(path)
        records = dataset.sources["train"]
        bytes_of = sum(file.stat().st_size for file in path.glob("*.array_record*"))
        rows = data.select(dataset, splits="train")
        minibatches = data.training_minibatches(
            dataset, {"train": data.make_sampler(dataset, rows, MINIBATCH, "experiment", 0, 0)}, 10**6, 0, CROP, 0
        )
        rates = [rate(minibatches) for _ in range(ROUNDS)]
        del minibatches
        result["encodings"][name] = {
            "MB": bytes_of / len(records) / 1e6,
            "images_per_second_per_core": statistics.median(rates) / len(cores()),
            "read_ms": milliseconds(lambda i, r=records: r[i][:, :], range(len(records))),
            "crops_ms": milliseconds(lambda i, r=records: crops(r[i][:, :]), range(len(records))),
        }
    return result


def rate(minibatches) -> float:
    """Images per second of an endless iterator of minibatches, after those that it had read ahead."""
    for _ in range(5):
        next(minibatches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        next(minibatches)
        count += MINIBATCH
    return count / (time.perf_counter() - start)


def crops(image: np.ndarray) -> list[np.ndarray]:
    """CROPS crops [CROP, CROP, C] of an image [H, W, C], copied as the loader does."""
    places = np.random.default_rng(0).integers(0, SIDE - CROP + 1, (CROPS, 2))
    out = np.empty((CROPS, CROP, CROP, CHANNELS), np.uint8)
    for lane, (top, left) in enumerate(places):
        window = image[top : top + CROP, left : left + CROP]
        if window.strides[-1] == 1:
            out[lane] = window
        else:
            for channel in range(CHANNELS):
                out[lane, ..., channel] = window[..., channel]
    return out


def write_tree(root: pathlib.Path, sites: list[list[pathlib.Path]]) -> None:
    """A published RxRx3 tree of one plate: metadata.csv and a tar of 16-bit PNG files."""
    random = np.random.default_rng(0)
    tiles = [np.stack([imagecodecs.imread(file) for file in files]) for files in sites]  # [6, 512, 512] uint8
    wells = [f"B{column:02d}" for column in range(1, WELLS + 1)]
    rows = [
        (f"gene-001_1_{well}", "gene-001", 1, well, "SRC", f"SRC_guide_{i % 6 + 1}", "", "", "CRISPR", "HUVEC")
        for i, well in enumerate(wells)
    ]
    layouts.write_csv(root / "metadata.csv", layouts.RXRX3, rows)
    layouts.write_csv(root / "splits.csv", ("experiment", "split"), [("gene-001", "train")])
    (root / "images/gene-001").mkdir(parents=True)
    with tarfile.open(root / "images/gene-001/Plate1.tar", "w") as tar:
        for well in wells:
            order = random.permutation((SIDE // TILE) ** 2).reshape(SIDE // TILE, -1) % len(tiles)
            for channel in range(CHANNELS):
                mosaic = np.block([[tiles[i][channel] for i in row] for row in order])
                content = imagecodecs.png_encode(sixteen_bits(mosaic, random), level=1)
                entry = tarfile.TarInfo(f"{well}_s1_w{channel + 1}.png")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def sixteen_bits(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """uint16 values that the builder's square root maps back to `image` uint8, uniform over those that do."""
    edges = np.square((np.arange(257) - 0.5).clip(0) / 255) * 65535
    low, high = np.ceil(edges[:-1]), np.minimum(np.ceil(edges[1:]), 65536)
    return (low[image] + random.random(image.shape) * (high - low)[image]).astype(np.uint16)
