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

SIDE, PART, CROP, CHANNELS = 2048, 512, 256, 6
WELLS, MINIBATCH, SECONDS, ROUNDS = 3, 8, 2, 5
CROPS = 16  # of one record, where it is read once for several
ENCODINGS = ("delta", "raw")  # `source` keeps 16 bits, and training reads 8
TILES = (128, 256, 512)  # sides of tiles, of `delta`


def measure(folder: pathlib.Path, source: pathlib.Path | None) -> dict:
    """{"sites", "cores", "crops", "encodings": {name: figures}, "tiles": {side: figures}} of records made in `folder`.

    MB: of a site. kB_per_image: of the records that a random crop touches, in the mean. images_per_second_per_core: of
    the trainer's own loader, one random crop per site, per second of the processor time of all of its threads, the
    median of rounds in which all ways take turns. several_per_second_per_core: the same with CROPS crops of each site.
    read_ms: CPU time to read all of a site.
    """
    what = make_tree(folder / "small", source, 1, 16)
    write_tree(folder / "tree", complete_sites(folder / "small"))
    result = {"sites": f"mosaics of {what}", "cores": len(cores()), "crops": CROPS, "encodings": {}, "tiles": {}}
    settings = {("encodings", name): dict(encoding=name, tile=0) for name in ENCODINGS}
    settings |= {("tiles", str(side)): dict(encoding="delta", tile=side) for side in TILES}
    loaders = {}
    for (kind, name), fields in settings.items():
        path = prepare.prepare("rxrx3", folder / "tree", folder / "out", progress=False, **fields)
        dataset = data.read_dataset(path)
        records = dataset.sources["train"]
        bytes_of = sum(file.stat().st_size for file in path.glob("*.array_record*")) / len(records)
        result[kind][name] = {
            "MB": bytes_of / 1e6,
            "kB_per_image": bytes_of * touched(fields["tile"]) / 1e3,
            "read_ms": milliseconds(lambda i, r=records: r[i][:, :], range(len(records))),
        }
        loaders[kind, name, "images_per_second_per_core"] = loader(dataset, MINIBATCH, 1)
        if fields == dict(encoding="delta", tile=0):
            loaders[kind, name, "several_per_second_per_core"] = loader(dataset, 2 * CROPS, CROPS)
    rates = {key: [] for key in loaders}
    for _ in range(ROUNDS):
        for key, made in loaders.items():
            rates[key].append(rate(made))
    for (kind, name, figure), found in rates.items():
        result[kind][name][figure] = statistics.median(found)
    return result


def loader(dataset: data.Dataset, minibatch: int, crops: int):
    """Returns a function that makes an endless iterator of minibatches of random crops."""
    rows = data.select(dataset, splits="train")
    sampler = data.make_sampler(dataset, rows, minibatch, "experiment", 0, 0, crops=crops)
    return lambda: data.training_minibatches(dataset, {"train": sampler}, 10**6, 0, CROP, 0)


def rate(make) -> float:
    """Images per second of this process's time on its processors, after those that were read ahead."""
    minibatches = make()
    for _ in range(5):
        next(minibatches)
    begin, start, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < SECONDS:
        count += len(next(minibatches)["train"]["valid"])
    return count / (time.process_time() - start)


def touched(tile: int) -> float:
    """The share of a site's tiles that a crop touches, in the mean over all places; 1 without tiles."""
    if not tile:
        return 1
    places = np.arange(SIDE - CROP + 1)
    along = ((places + CROP - 1) // tile - places // tile + 1).mean()
    return along**2 / (SIDE // tile) ** 2


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
            order = random.permutation((SIDE // PART) ** 2).reshape(SIDE // PART, -1) % len(tiles)
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
