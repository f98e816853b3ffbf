"""Damages the input of every reader, by a seed, and checks what comes of it: nothing wrong, nothing lost in silence.

    python tests/fuzz/run.py [--trials=1000] [--seed=0] [--only=NAME] [--trial=N] [--json=FILE]

Trials are spread evenly over the readers. Each batch runs in a process of its own, whose memory and time are bounded;
what a killed process was doing is a finding. --only=NAME --trial=N repeats one trial and shows its traceback.
"""

import argparse
import collections
import json
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = (
    "tests/rxrx_jax/weights",
    "tests/tools",
    "tests/tools/builders",
    "tests/tools/checkpoint",
    "tests/tools/weights",
    ".",
)
PATHS = [str(HERE), *(str(ROOT / name) for name in TOOLS)]
sys.path[:0] = [path for path in PATHS if path not in sys.path]
ADDRESS_SPACE = 8 * 2**30  # bytes beyond what a process has when it starts: a trial that needs them fails
SILENCE = 10  # seconds after which a process is stopped
FINDINGS = ("traceback", "wrong", "time", "memory", "killed")


def targets() -> dict:
    """name -> Target."""
    import fuzz_folders
    import fuzz_images
    import fuzz_tables
    import fuzz_weights

    modules = fuzz_tables, fuzz_images, fuzz_weights, fuzz_folders
    return {target.name: target for module in modules for target in module.TARGETS}


def work(connection, names: list[str], seed: int, numbers: dict[str, list[int]]) -> None:
    """Runs trials and tells of each: (name, number, outcome, about), outcome '' before it begins."""
    import trials

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders and Orbax's threads say of damage
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        for name in names:
            bench = trials.Bench(targets()[name], pathlib.Path(folder))
            size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, resource.RLIM_INFINITY))
            for number in numbers[name]:
                connection.send((name, number, "", ""))
                connection.send((name, number, *bench.trial(seed, number)))
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    connection.close()


def run(names: list[str], seed: int, trials: int, progress: bool = False) -> dict:
    """Runs `trials` of these targets; returns figures and findings."""
    share, rest = divmod(trials, len(names))
    left = {name: list(range(share + (i < rest))) for i, name in enumerate(names)}
    outcomes = {name: collections.Counter() for name in names}
    findings, start, context = [], time.monotonic(), multiprocessing.get_context("spawn")
    while todo := [name for name in names if left[name]]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, todo, seed, left), daemon=True)
        process.start()
        theirs.close()
        name = number = None
        while True:
            try:
                told = ours.recv() if ours.poll(SILENCE) else None
            except EOFError:
                told = None
            if told is None:
                break
            name, number, outcome, about = told
            if not outcome:
                continue
            left[name].remove(number)
            outcomes[name][outcome] += 1
            if outcome in FINDINGS:
                findings.append({"target": name, "trial": number, "outcome": outcome, "about": about})
                if progress:
                    print(findings[-1], flush=True)
            if progress and not left[name]:
                print(f"{time.monotonic() - start:.0f} s: {name} {dict(outcomes[name])}", flush=True)
        process.join(timeout=2)
        alive = process.is_alive()
        process.kill()
        process.join()
        if number is None:
            raise RuntimeError(f"no trial began (exit code {process.exitcode})")
        if number in left[name]:
            left[name].remove(number)
            outcomes[name]["killed"] += 1
            about = f"silent for {SILENCE} s" if alive else f"exit code {process.exitcode}"
            findings.append({"target": name, "trial": number, "outcome": "killed", "about": about})
    total = sum(outcomes.values(), collections.Counter())
    return {
        "seed": seed,
        "trials": total.total(),
        "outcomes": dict(sorted(total.items())),
        "targets": {name: dict(sorted(counts.items())) for name, counts in outcomes.items()},
        "findings": findings,
        "seconds": round(time.monotonic() - start),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="readers whose names contain this")
    parser.add_argument("--trial", type=int, help="this one alone")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    names = [name for name in targets() if (options.only or "") in name]
    if options.trial is not None:
        import trials

        with tempfile.TemporaryDirectory() as folder:
            name = options.only if options.only in names else names[0]
            print(trials.Bench(targets()[name], pathlib.Path(folder)).trial(options.seed, options.trial, show=True))
        return 0
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    found = run(names, options.seed, options.trials, progress=True)
    found = {"commit": done.stdout.strip()} | found
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: found[key] for key in ("trials", "outcomes", "seconds")}))
    return bool(found["findings"])


if __name__ == "__main__":
    sys.exit(main())
