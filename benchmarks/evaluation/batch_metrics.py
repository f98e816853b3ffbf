"""Time and memory of batch metrics: `python benchmarks/evaluation/batch_metrics.py [--peer=PYTHON] [--out=FILE]`.

Prints one JSON line. 9,216 wells of six experiments, each of four plates with 64 untreated wells and 320 perturbations,
384 random features. Each case runs in processes of its own on one thread, in turns, after what it imports: the least
seconds and processor seconds of the repeats, and the largest memory of a process, imports included. "all" is every
metric but the leakage probes, with what shuffled embeddings give; "average_precision" is mean average precision with
p-values by 10,000 random orders, and "copairs" the same by copairs, where the interpreter `--peer` has it.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

EXPERIMENTS, PLATES, UNTREATED, PERTURBATIONS, DIM = 6, 4, 64, 320, 384
NULL = 10_000


def wells():
    """(x [n, 384], perturbation, experiment, plate, untreated), each [n]; 0 is untreated."""
    experiment, place, well = (codes.ravel() for codes in np.indices((EXPERIMENTS, PLATES, UNTREATED + PERTURBATIONS)))
    untreated = well < UNTREATED
    perturbation = np.where(untreated, 0, 1 + place * PERTURBATIONS + well - UNTREATED)
    random = np.random.default_rng(0)
    x = random.normal(size=(len(well), DIM)) + 0.3 * random.normal(size=(perturbation.max() + 1, DIM))[perturbation]
    return x, perturbation, experiment, experiment * PLATES + place, untreated


def function(case: str):
    """What is timed; it returns how many wells were compared and, of average precision, its mean."""
    x, perturbation, experiment, plate, untreated = wells()
    if case == "copairs":
        import pandas as pd
        from copairs import map as scores

        about = {"perturbation": perturbation, "experiment": experiment, "plate": plate, "untreated": untreated}
        about, pairs = pd.DataFrame(about), (["perturbation"], ["experiment"], ["plate"], ["untreated"])

        def by_copairs():
            ap = scores.average_precision(about, x, *pairs, progress_bar=False)
            with tempfile.TemporaryDirectory() as cache:
                settings = dict(progress_bar=False, cache_dir=cache)
                found = scores.mean_average_precision(ap[~untreated], ["perturbation"], NULL, 0.05, 0, **settings)
            return float(found.mean_average_precision.mean())

        return by_copairs
    import types

    from scipy import special, stats  # noqa: F401  # imported by what is timed
    from sklearn import metrics, neighbors  # noqa: F401

    from rxrx_jax.evaluate.batch_metrics import score
    from rxrx_jax.evaluate.batch_metrics.wells import Wells

    names = np.arange(len(x)).astype(str)
    made = Wells(x, names, np.zeros(len(x), int), perturbation, experiment, plate, untreated)
    if case == "average_precision":
        return lambda: score.average_precision(made)["mean_average_precision"]
    dataset = types.SimpleNamespace(experiments=names, cell_types=["one"])
    return lambda: dict(score.score("batch_metrics", made, tuple(score.METRICS), dataset))


def measure(case: str) -> dict:
    """In this process."""
    timed = function(case)
    wall, cpu = time.perf_counter(), time.process_time()
    found = timed()
    used = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    used["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return used | ({} if isinstance(found, dict) else {"mean_average_precision": found})


def in_a_process(case: str, python: str) -> dict:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, "1") | {"PYTHONWARNINGS": "ignore"}
    if case != "copairs":
        environment["PYTHONPATH"] = str(pathlib.Path(__file__).parents[2])
    # -P: the file coverage.py beside this one is not the package that numba looks for.
    done = subprocess.run(
        [python, "-P", __file__, f"--measure={case}"], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", default="", help="an interpreter that has copairs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, help="also into this file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        print(json.dumps(measure(flags.measure)))
        return
    cases = {"average_precision": sys.executable} | ({"copairs": flags.peer} if flags.peer else {})
    runs = [{case: in_a_process(case, python) for case, python in cases.items()} for _ in range(flags.repeats)]
    found: dict = {"wells": EXPERIMENTS * PLATES * (UNTREATED + PERTURBATIONS), "features": DIM, "threads": 1}
    for case in cases:
        found[case] = {key: min(run[case][key] for run in runs) for key in ("seconds", "cpu_seconds")}
        found[case]["peak_mb"] = max(run[case]["peak_mb"] for run in runs)
        found[case]["mean_average_precision"] = runs[0][case]["mean_average_precision"]
    if flags.peer:
        for key in ("seconds", "cpu_seconds"):
            found[f"times_fewer_{key}"] = found["copairs"][key] / found["average_precision"][key]
    found["all"] = in_a_process("all", sys.executable)
    line = json.dumps(found)
    print(line)
    if flags.out:
        flags.out.write_text(line + "\n")


if __name__ == "__main__":
    main()
