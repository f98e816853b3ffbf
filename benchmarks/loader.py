"""How fast minibatches are made, as ratios in one run: `python benchmarks/loader.py [--source=DIR]`, DIR an RxRx1 tree.

Every rate is of 256-pixel crops at random places of 512-pixel sites, in images per second on all cores of this machine.

over_torch: our minibatches (uint8, ready for the device) over those of a PyTorch DataLoader with two workers that reads
  the six PNG files of a site with PIL, crops, and standardises on the host; by encoding of the records. Needs torch.
over_reading: our minibatches over reading and decoding the same records whole, as TFDS's data source gives them, with a
  thread per core and nothing done with the images.
data_wait: share of the time that the trainer waits for minibatches of `delta` records while it trains a masked
  autoencoder with ViT-S/16 on this machine's CPU.
The last line is one JSON object.
"""

import argparse
import concurrent.futures
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
import tensorflow_datasets as tfds
from common.sites import make_tree
from PIL import Image

from rxrx_jax import data
from rxrx_jax.base.command import cores
from rxrx_jax.base.config import load
from rxrx_jax.training import metrics, train
from tfds_builders import prepare

WELLS, MINIBATCH, CROP = 300, 64, 256
SECONDS, ROUNDS = 2, 3
PAUSE = 4  # seconds in which a loader reads ahead what it reads ahead, so that it is idle when another is measured
ENCODINGS = ("delta", "raw")


def rate(minibatches, minibatch: int = MINIBATCH, seconds: float = SECONDS) -> float:
    """Images per second of an endless iterator of minibatches, after those that it had read ahead."""
    for _ in range(5):
        next(minibatches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(minibatches)
        count += minibatch
    return count / (time.perf_counter() - start)


def ours(dataset: data.Dataset, minibatch: int = MINIBATCH, crop: int = CROP):
    """Training minibatches; sites that are fewer than one are taken several times."""
    rows = data.select(dataset, splits="train")
    rows = np.tile(rows, -(-minibatch // len(rows)))
    samplers = {"train": data.make_sampler(dataset, rows, minibatch, "experiment", 0, 0)}
    return data.training_minibatches(dataset, samplers, 10**6, 0, crop, 0)


def reading(dataset: data.Dataset):
    """The same records through TFDS's own decoding, eight at a time on every core."""
    source = tfds.builder_from_directory(dataset.folder).as_data_source("train")
    random = np.random.default_rng(0)

    def read(_):
        return [record["image"].shape for record in source.__getitems__(random.integers(0, len(source), 8).tolist())]

    with concurrent.futures.ThreadPoolExecutor(len(cores())) as threads:
        while True:
            yield list(threads.map(read, range(MINIBATCH // 8)))


class Pictures:
    """A PyTorch dataset as one writes it first: [C, S, S] float32, standardised by image and channel."""

    def __init__(self, sites: list[list[pathlib.Path]]):
        self.sites = sites

    def __len__(self):
        return 10**6

    def __getitem__(self, i):
        image = np.stack([np.asarray(Image.open(file)) for file in self.sites[i % len(self.sites)]])
        top, left = np.random.randint(0, image.shape[1] - CROP + 1, 2)
        view = image[:, top : top + CROP, left : left + CROP].astype(np.float32) / 255
        return (view - view.mean((1, 2), keepdims=True)) / np.sqrt(view.var((1, 2), keepdims=True) + 1e-5)


def torch_loader(tree: pathlib.Path):
    try:
        import torch
    except ImportError:
        print("over_torch is left out: it needs PyTorch (pip install torch)")
        return None
    first = sorted(tree.glob("images/*/Plate*/*_w1.png"))
    pictures = Pictures([[f.with_name(f.name.replace("_w1.", f"_w{c}.")) for c in range(1, 7)] for f in first])
    return iter(torch.utils.data.DataLoader(pictures, MINIBATCH, num_workers=2, multiprocessing_context="spawn"))


def data_wait(folder: pathlib.Path) -> float:
    """Of the logged steps of a short run, by time; the first step compiles and is not logged."""
    values = load("mae_vit.py:rxrx1,variant=S/16")
    values["data"] |= {"folder": str(folder / "out"), "minibatch": 8}
    values |= {"log_steps": 2, "total_steps": 9, "evaluators": {}, "checkpoint_steps": 0}
    values["augment"]["crop"] = CROP
    values["model"]["dtype"] = "float32"  # bfloat16 is slow here, and a slow step hides a slow loader
    del values["total_epochs"]
    train.run(values, folder / "run")
    lines = [line for line in metrics.read(folder / "run/metrics.jsonl") if "data_wait" in line]
    return float(
        np.average([line["data_wait"] for line in lines], weights=[1 / line["images_per_second"] for line in lines])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, help="an RxRx1 tree with images/")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        result = {"sites": make_tree(folder / "tree", flags.source, 1, WELLS), "cores": len(cores())}
        loaders = {"torch": torch_loader(folder / "tree")}
        for name in ENCODINGS:
            path = prepare.prepare("rxrx1", folder / "tree", folder / "out", progress=False, encoding=name)
            loaders["ours", name] = ours(data.read_dataset(path))
            loaders["reading", name] = reading(data.read_dataset(path))
        found = {name: [] for name, loader in loaders.items() if loader}
        for _ in range(ROUNDS):  # in turns, so that whatever else the machine does meets all alike
            for name in found:
                found[name].append(rate(loaders[name]))
                time.sleep(PAUSE)
        loaders.clear()  # torch's workers end
        divide = lambda a, b: statistics.median(x / y for x, y in zip(found[a], found[b]))  # noqa: E731
        if "torch" in found:
            result["torch_images_per_second"] = statistics.median(found["torch"])
            result["over_torch"] = {name: divide(("ours", name), "torch") for name in ENCODINGS}
        result["images_per_second"] = {name: statistics.median(found["ours", name]) for name in ENCODINGS}
        result["over_reading"] = {name: divide(("ours", name), ("reading", name)) for name in ENCODINGS}
        result["data_wait"] = data_wait(folder)
    for key, value in result.items():
        print(f"{key:26}{value if isinstance(value, (str, dict)) else round(value, 4)}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
