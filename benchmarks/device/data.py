"""The parts of device_check.py that read images: the loader, and the trainer's own command.

PYTHONPATH=.:benchmarks python -m device.data --pack=FILE.tar.xz     # the datasets that the bundle holds
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time

import ml_collections

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # it is loaded as a config, too
from device.lines import Setting  # noqa: E402

ENCODINGS = ("raw", "delta")
# Few sites, since the bundle must be small: all stay in memory, and what is measured is decoding and not a disk.
SCREEN = dict(image_size=512, train=("SIMA-01",), val=(), test=(), plates=1, treatments=2, replicates=2,
              positive_controls=1, positive_wells=1, untreated_wells=1, sites_per_well=1)  # fmt: skip
TINY = SCREEN | dict(image_size=64)
MINIBATCH, CROP, SECONDS = 256, 256, 4.0


def get_config(argument):
    """This file is the config of a rehearsed run too, of a small ConvNet, which compiles quickly. The argument is the
    folder where its dataset is made."""
    from rxrx_jax.base.config import load

    config = load("convnet.py:normalisation=plate")
    screen = dict(image_size=32, treatments=4, replicates=2, positive_controls=1, untreated_wells=1)
    screen |= dict(train=("SIMA-01", "SIMA-02"), val=("SIMA-03",), test=())
    config["data"] |= {"folder": argument, "minibatch": 8, "builder": config["data"]["builder"] | screen}
    config["model"]["widths"] = (8, 16)
    config["augment"]["crop"] = 32
    config |= {"log_steps": 2, "total_steps": 6, "evaluation_minibatch": 16, "evaluators": {"accuracy": {}}}
    del config["total_epochs"]
    return ml_collections.ConfigDict(config)


def main_command(setting: Setting, _):
    """`python -m rxrx_jax.main --config=mae_vit.py` in an empty folder: it makes the simulated screen, trains,
    evaluates and saves. Its wall time has all of that in it."""
    folder, workdir = setting.folder / "screens", setting.folder / "main"
    config = [f"--config={__file__}:{folder}"] if setting.rehearse else ["--config=mae_vit.py"]
    config += [] if setting.rehearse else [f"--config.data.folder={folder}"]
    command = [sys.executable, "-m", "rxrx_jax.main", *config, f"--workdir={workdir}"]
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wall_seconds = time.perf_counter() - begin
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout.strip().rpartition(chr(10))[2]}")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rates = [line for line in lines if "images_per_second" in line]
    keys = ("done", "step", "train_seconds", "memory_per_chip", "parameters_sha256")
    found = {"wall_seconds": wall_seconds} | {key: lines[-1][key] for key in keys}
    found |= {"training_images_per_second": rates[-1]["images_per_second"], "data_wait": rates[-1]["data_wait"]}
    yield found | {"first_loss": rates[0]["loss"], "last_loss": rates[-1]["loss"]}


def loader(setting: Setting, _):
    """A line for each encoding: images per second of random crops of 512-pixel sites, on all cores of this machine."""
    from loader import ours, rate

    from rxrx_jax import data
    from rxrx_jax.base.command import cores
    from tfds_builders import prepare

    screen, minibatch, crop = (TINY, 8, 32) if setting.rehearse else (SCREEN, MINIBATCH, CROP)
    seconds = 0.2 if setting.rehearse else SECONDS
    for encoding in ENCODINGS:
        path = prepare.prepare("rxrx_sim", out=setting.data, progress=False, encoding=encoding, **screen)
        dataset = data.read_dataset(path)
        speed = rate(ours(dataset, minibatch, crop), minibatch, seconds)
        found = {"encoding": encoding, "images_per_second": speed, "images_per_second_per_core": speed / len(cores())}
        found |= {"cores": len(cores()), "minibatch": minibatch, "crop": crop, "side": screen["image_size"]}
        yield found | {"sites": len(dataset.sites)}


def pack(file: pathlib.Path) -> None:
    """Writes an archive of the datasets that `loader` reads, those of a rehearsal too, without their reports."""
    from tfds_builders import prepare

    with tempfile.TemporaryDirectory() as folder:
        for screen in (SCREEN, TINY):
            for encoding in ENCODINGS:
                prepare.prepare("rxrx_sim", out=folder, progress=False, encoding=encoding, **screen)
        with tarfile.open(file, "w:xz") as archive:
            for path in sorted(pathlib.Path(folder).rglob("*")):
                if path.is_file() and path.name != "report.html":
                    archive.add(path, path.relative_to(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=pathlib.Path, required=True)
    pack(parser.parse_args().pack)
