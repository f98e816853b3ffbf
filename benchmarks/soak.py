"""Kills a training run on two emulated hosts again and again, and asks whether it still ends with the same parameters.

    python benchmarks/soak.py [--kills=50] [--seed=0] [--steps=N] [--out=FOLDER] [--json=FILE]

A small ConvNet on the simulated screen is trained on two processes, once without a stop; then again, while one of the
two, drawn again each time, is sent SIGKILL at a moment drawn uniformly from 0 to 1.6 times what a start takes: while it
starts, compiles, trains, saves in the background or evaluates. The launcher's rule starts both again. A run that has
ended is followed by another one until there were enough kills. All must end with the same SHA-256 of all parameters,
or this command fails; it also reports how many steps a restart lost at most. The seed decides who is killed and
after how many seconds; what the run is doing then depends on the machine. Prints one JSON object on its last line.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import sys
import tempfile
import time

import ml_collections

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # launch/

CHECKPOINT_STEPS = 5


def get_config(argument):
    """This file is the run's config too: a ConvNet on a small simulated screen. The argument is "STEPS,FOLDER", how
    long it is and where the dataset is made."""
    from rxrx_jax.base.config import load

    config = load("convnet.py")
    screen = dict(image_size=32, treatments=4, replicates=2, train=("SIMA-01", "SIMA-02"), val=("SIMA-03",), test=())
    steps, _, folder = argument.partition(",")
    config["data"] |= {"folder": folder, "minibatch": 64, "builder": config["data"]["builder"] | screen}
    config["augment"]["crop"] = 32
    config |= {"log_steps": 5, "checkpoint_steps": CHECKPOINT_STEPS, "evaluate_steps": 50}
    config |= {
        "watchdog_timeout_seconds": 120.0,
    }
    config |= {"total_steps": int(steps)}
    del config["total_epochs"]
    return ml_collections.ConfigDict(config)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000, help="of a run")
    parser.add_argument("--out", type=pathlib.Path, help="folder of runs and data; default a temporary folder")
    parser.add_argument("--json", type=pathlib.Path, help="a file for the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = soak(options, options.out or pathlib.Path(temporary))
    line = json.dumps(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(line)
    sys.exit(0 if found["same"] else 1)


def soak(options, out: pathlib.Path) -> dict:
    from tfds_builders import prepare

    steps = options.steps
    flags = [f"--config={__file__}:{steps},{out / 'data'}"]
    data = get_config(f"{steps},{out / 'data'}").data
    prepare.prepare(data.name, out=data.folder, progress=False, **data.builder)
    code, _, start = life(out / "whole", flags)
    assert code == 0, (out / "whole/hosts/0.log").read_text()
    whole = last_line(out / "whole")
    print(f"without a stop: {steps} steps, the first reported after {start:.1f} s", flush=True)

    draw, kills, during, ends, logs = random.Random(options.seed), 0, collections.Counter(), [], []
    while kills < options.kills:  # a run may end before it was killed often enough: then another one continues
        workdir = out / f"killed-{len(ends)}"
        while True:
            after = draw.uniform(0, 1.6 * start) if kills < options.kills else None
            host = draw.randrange(2)
            code, doing, _ = life(workdir, flags, host, after)
            if code == 0:
                break
            kills += 1
            during[doing] += 1
            print(f"kill {kills}: host {host} after {after:.1f} s, {doing}", flush=True)
        ends.append(last_line(workdir)["parameters_sha256"])
        logs.append((workdir / "hosts/0.log").read_text())
    return {
        "steps": steps, "checkpoint_steps": CHECKPOINT_STEPS, "seed": options.seed, "kills": kills,
        "runs": len(ends), "killed_while": dict(sorted(during.items())),
        "most_steps_lost": max(map(most_lost, logs)), "damaged_checkpoints": "".join(logs).count("is damaged"),
        "same": set(ends) == {whole["parameters_sha256"]},
        "parameters_sha256": ends[0],
    }  # fmt: skip


def life(workdir: pathlib.Path, flags: list[str], host: int = 0, after: float | None = None):
    """(exit code of the run, what it was doing, seconds until it reported a step) of one start of both hosts, one of
    which is killed after so many seconds; None waits for the end."""
    from launch import local

    log = workdir / "hosts/0.log"
    before = log.stat().st_size if log.exists() else 0
    begin, doing, told = time.monotonic(), "", None
    running = local.start(2, 1, [*flags, f"--workdir={workdir}"], logs=workdir)

    def look():
        nonlocal doing, told
        printed = log.read_bytes()[before:].decode(errors="replace")
        seconds = time.monotonic() - begin
        if told is None and "\nstep " in printed:
            told = seconds
        if after is not None and seconds > after and not doing and running[host].poll() is None:
            doing = phase(printed, workdir)
            running[host].kill()

    return local.wait(running, grace=0.5, show=look), doing, told


def phase(printed: str, workdir: pathlib.Path) -> str:
    """What a run that has printed this was doing."""
    if any(workdir.glob("checkpoints/*tmp*")):
        return "saving"
    if " per chip during a step" not in printed:
        return "starting"
    return "training" if "\nstep " in printed else "compiling or restoring"


def most_lost(log: str) -> int:
    """The most steps that a restart lost, by the steps in a log."""
    told = most = 0
    for step, restored in re.findall(r"^step (\d+)/|^resuming .* from step (\d+)$", log, re.MULTILINE):
        if restored:
            most = max(most, told - int(restored))
        told = int(step or restored)
    return most


def last_line(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])


if __name__ == "__main__":
    main()
