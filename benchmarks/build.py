"""How fast the builders are, as ratios in one run: `python benchmarks/build.py [--source=DIR]`, DIR an RxRx1 tree.

decode_and_encode_share: share of a worker's time in decoding PNG files and encoding sites to serialised records, with
  the records written to memory (/dev/shm); the rest is reading files, histograms, hashes and array_record's writer.
share_with_disk: the same with the records written to the temporary folder's disk.
two_processes: sites per second with two processes over one (workers busy; starting them is not counted).
over_tfds: sites per second over a TFDS builder that gives the same pixels to features.Tensor's default encoding.
record_over_png: bytes of the records over the bytes of the PNG files.
peak_mb_rxrx1, peak_mb_rxrx3: peak memory of a worker; RxRx3 from simulated 2048-pixel, 16-bit plates in a tar.
The last line is one JSON object.
"""

import argparse
import concurrent.futures
import contextlib
import json
import multiprocessing
import pathlib
import re
import tempfile
import time

import imagecodecs
import numpy as np
import tensorflow_datasets as tfds
from common.sites import make_tree

from tfds_builders import prepare
from tfds_builders.common import decode, plates

PLATES, WELLS = 2, 308  # whole plates, as published


@contextlib.contextmanager
def timed(module, name: str, seconds: dict[str, float]):
    """Adds the time spent in module.name to seconds[name]."""
    original = getattr(module, name)

    def wrapper(*args):
        start = time.perf_counter()
        try:
            return original(*args)
        finally:
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - start

    setattr(module, name, wrapper)
    try:
        yield
    finally:
        setattr(module, name, original)


def make_task(tree: pathlib.Path, folder: pathlib.Path, name: str = "rxrx1", **settings) -> plates.Task:
    """Returns the task of a build, its plan made."""
    builder = prepare.builder_class(name)
    made = builder(data_dir=folder, source=tree, config=builder.make_config(**settings))
    working = folder / "working"
    working.mkdir(parents=True)
    return made._task(working)


def run_plates(task: plates.Task, names: list[tuple[str, int]]) -> tuple[float, float]:
    """Builds plates; returns when it started and when it ended, in this machine's time."""
    start = time.time()
    for name in names:
        plates.build_plate(task, *name)
    return start, time.time()


def share(tree: pathlib.Path, folder: pathlib.Path, name: str) -> dict[str, float]:
    """Returns the share of decoding and encoding in building one plate, and milliseconds per site."""
    task = make_task(tree, folder)
    seconds: dict[str, float] = {}
    with timed(decode, "decode", seconds), timed(plates._PlateWriter, "_encode", seconds):
        start, end = run_plates(task, task.plan.plates()[:1])
    return {
        name: sum(seconds.values()) / (end - start),
        "ms_per_site": 1000 * (end - start) / WELLS,
        "decode_ms": 1000 * seconds["decode"] / WELLS,
        "encode_ms": 1000 * seconds["_encode"] / WELLS,
    }


def processes_rate(tree: pathlib.Path, folder: pathlib.Path, processes: int) -> float:
    """Sites per second of a number of processes that share the plates evenly."""
    task = make_task(tree, folder)
    names = task.plan.plates()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        warm = [pool.submit(time.sleep, 1) for _ in range(processes)]  # imports are not counted
        concurrent.futures.wait(warm)
        times = list(pool.map(run_plates, [task] * processes, [names[i::processes] for i in range(processes)]))
    return PLATES * WELLS / (max(end for _, end in times) - min(start for start, _ in times))


class Plain(tfds.core.GeneratorBasedBuilder):
    """The same sites as a user of TFDS would write them first: a Tensor, in its default encoding."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, files: list[list[pathlib.Path]], **kwargs):
        self.files = files
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        features = {"image": tfds.features.Tensor(shape=(512, 512, 6), dtype=np.uint8)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, files in enumerate(self.files):
            yield i, {"image": np.stack([imagecodecs.png_decode(file.read_bytes()) for file in files], -1)}


def peak_megabytes(task: plates.Task) -> float:
    """Peak memory of a new process that builds the first plate."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, task).result()


def _peak(task: plates.Task) -> float:
    plates.build_plate(task, *task.plan.plates()[0])
    # VmHWM and not getrusage's maximum, which a process inherits from the one that started it
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def rxrx3_tree(folder: pathlib.Path) -> None:
    """A plate of RxRx3 with few, but full-sized, wells."""
    from rxrx_jax.simulate import layouts, screen

    small = screen.Screen(image_size=1024, train=("SIMA-01",), val=(), test=(), treatments=2, plates=1, replicates=2,
                          positive_controls=0, untreated_wells=2, sites_per_well=1)  # fmt: skip
    layouts.write_rxrx3(small, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, help="an RxRx1 tree with images/")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        what = make_tree(folder / "tree", flags.source, PLATES, WELLS)
        result = {"sites": what}

        task = make_task(folder / "tree", folder / "share")
        run_plates(task, task.plan.plates())  # warm: the files are in memory from here on
        result |= share(folder / "tree", folder / "disk", "share_with_disk")
        memory = pathlib.Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else folder) as fast:
            result |= share(folder / "tree", pathlib.Path(fast), "decode_and_encode_share")

        files = [[tree / f"{well}_s1_w{c}.png" for c in range(1, 7)]
                 for tree in (folder / "tree/images/HUVEC-01").iterdir()
                 for well in sorted({path.name.split("_")[0] for path in tree.iterdir()})]  # fmt: skip
        png = sum(file.stat().st_size for site in files for file in site)
        records = sum(path.stat().st_size for path in task.folder.glob("*.array_record"))
        result["record_over_png"] = records / png

        rates: dict[int, list[float]] = {1: [], 2: []}
        for repeat in range(3):
            for processes in rates:
                rates[processes].append(processes_rate(folder / "tree", folder / f"{processes}-{repeat}", processes))
        result["sites_per_second"] = {n: max(values) for n, values in rates.items()}
        result["two_processes"] = max(rates[2]) / max(rates[1])

        some = files[:60]
        start = time.time()
        Plain(some, data_dir=folder / "plain").download_and_prepare()
        plain = len(some) / (time.time() - start)
        result["over_tfds"] = max(rates[1]) / plain

        result["peak_mb_rxrx1"] = peak_megabytes(make_task(folder / "tree", folder / "memory1"))
        rxrx3_tree(folder / "rxrx3")
        result["peak_mb_rxrx3"] = peak_megabytes(make_task(folder / "rxrx3", folder / "memory3", "rxrx3"))
        result["peak_mb_rxrx3_16_bits"] = peak_megabytes(
            make_task(folder / "rxrx3", folder / "memory3b", "rxrx3", bits=16)
        )
    for key, value in result.items():
        print(f"{key:26}{value if isinstance(value, (str, dict)) else round(value, 3)}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
