"""Speed of maps against the public tools: `python benchmarks/evaluation/maps.py [--old=FOLDER] [--out=docs/maps.json]`.

Every case runs in a process of its own, ours and theirs, at the same number of threads, after what it imports: seconds,
CPU seconds, whose ratio other work on the machine disturbs less, and the largest memory of the process, imports
included; of calls that take less than 5 seconds the least of seven. Theirs are EFAAR 1.0 (recall, consistency,
magnitude, TVN) and proxbias 0.11 (Brunner-Munzel), which needs EFAAR 0.1 in FOLDER; a case whose tool is not installed
has ours alone. The inputs are random numbers of the sizes named. The case `map` is ours alone: 100,000 wells of 17,063
genes are aligned, aggregated and put to all benchmarks; so is `page`, of a map of 20,000 genes: seconds to write the
page, its bytes, and the seconds until Chromium has opened it and drawn the heat map. How they were installed says
tests/reference/maps/make.py.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import unittest.mock

import numpy as np

DIM, SOURCES, PAIRS = 128, 5, 20_000
CASES = {  # name: (size, threads)
    "recall 2,000": (2_000, 1),
    "recall 8,000": (8_000, 1),
    "consistency": (2_000, 1),
    "magnitude": (2_000, 1),
    "brunner_munzel": (2_000, 1),
    "tvn": (4_000, 1),
    "map": (100_000, 2),
    "page": (20_000, 1),
}
ALONE = ("map", "page")
GENES = 17_063
OLD = ("brunner_munzel",)  # need EFAAR 0.1
SHORT, REPEATS = 5.0, 7  # seconds of a call that is repeated, ours or theirs, and how often
REPLICATES, CONTROLS, BATCHES = 8, 1_000, 10
NULL = [f"P{i}" for i in range(20)]  # perturbations, for their null


def relation_files(folder: pathlib.Path, genes: int) -> None:
    """Five files of pairs, of which one entity in ten is not in the map."""
    rng = np.random.default_rng(0)
    for k in range(SOURCES):
        pairs = rng.integers(0, int(genes * 1.1), (PAIRS, 2))
        text = "".join(f"G{a},G{b}\n" for a, b in pairs.tolist())
        (folder / f"{('Reactome', 'HuMAP', 'CORUM', 'SIGNOR', 'StringDB')[k]}.txt").write_text(
            "entity1,entity2\n" + text
        )


def wells(size: int):
    """(x [size * 8 + 1,000, 128], perturbation): of as many perturbations, and controls."""
    names = np.array([f"P{i}" for i in np.repeat(np.arange(size), REPLICATES)] + ["control"] * CONTROLS, object)
    return np.random.default_rng(0).normal(size=(len(names), DIM)), names


def batches(size: int):
    """(x [size, 128], batch, is_control): 10 batches, half of their wells controls."""
    rng = np.random.default_rng(0)
    batch = np.array([f"b{i}" for i in np.arange(size) % BATCHES], object)
    return rng.normal(size=(size, DIM)), batch, np.arange(size) // BATCHES % 2 == 0


def of_arms(size: int):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, DIM)), rng.integers(0, 40, size)


def ours(case: str, size: int, folder: pathlib.Path):
    """What is timed, as a function."""
    with contextlib.suppress(ImportError):
        import pandas  # noqa: F401  # where it is installed, pyarrow imports it at its first conversion
    from scipy import special, stats  # noqa: F401  # imported by what is timed

    from rxrx_jax.maps import relate
    from rxrx_jax.maps.benchmark import proximity, recall, relations, univariate

    if case.startswith("recall"):
        relation_files(folder, size)
        x, names = np.random.default_rng(0).normal(size=(size, DIM)), np.array([f"G{i}" for i in range(size)], object)
        return lambda: recall.all_pairs(x, names, relations.read_folder(folder), draws=0)
    if case in ("consistency", "magnitude"):
        x, names = wells(size)
        codes = np.where(names == "control", -1, np.arange(len(names)) // REPLICATES)
        if case == "consistency":
            return lambda: univariate.consistency(x, codes)
        return lambda: univariate.magnitude(x, codes, univariate.Reference(x, np.flatnonzero(codes < 0)))
    if case == "brunner_munzel":
        x, arm = of_arms(size)
        return lambda: proximity.per_arm(relate.unit(x), arm, 40)
    if case == "tvn":
        from rxrx_jax.adapt.correct.tvn import tvn

        made = batches(size)
        return lambda: tvn(*made)
    return made_page(size, folder) if case == "page" else whole_map(size, folder)


def whole_map(size: int, folder: pathlib.Path):
    """A screen of genes on 40 arms, a tenth of its wells controls, with 2,000 wells per experiment."""
    from rxrx_jax.maps import folder as folders
    from rxrx_jax.maps import table
    from rxrx_jax.maps.benchmark import relations, run
    from rxrx_jax.maps.benchmark.genome import ARMS, Genome
    from rxrx_jax.maps.build import make

    genes, rng = min(GENES, size // 5), np.random.default_rng(0)
    relation_files(folder, genes)
    names = np.array([f"G{i}" for i in range(genes)] + ["control"], object)
    of = np.where(np.arange(size) % 10 == 0, genes, np.arange(size) % genes)
    experiment = rng.integers(0, max(2, size // 2_000), size)
    columns = {"perturbation": names[of], "experiment": np.array([f"E{i}" for i in experiment], object)}
    x = (rng.normal(size=(size, DIM)) + rng.normal(size=(genes + 1, DIM))[of]).astype(np.float32)
    profiles = table.Profiles(x, columns, tuple(f"embedding_{i}" for i in range(DIM)))
    arm = np.array(ARMS[:40], object)[rng.integers(0, 40, genes)]
    genome = Genome(names[:-1], arm, np.arange(genes), np.arange(genes))
    settings = make.Settings(align="tvn_shrunk", controls="control", arms="shrunk")

    def function():
        make.build(profiles, folder / "map", settings, genome)
        run.run(folders.read(folder / "map"), run.Known(relations.read_folder(folder), genome))

    return function


def made_page(size: int, folder: pathlib.Path):
    """The page of genes on 40 arms in 200 complexes, with its relations."""
    from rxrx_jax.maps.benchmark import relations
    from rxrx_jax.maps.benchmark.genome import ARMS, Genome
    from rxrx_jax.maps.folder import Map
    from rxrx_jax.maps.show import page

    relation_files(folder, size)
    rng = np.random.default_rng(0)
    names = np.array([f"G{i}" for i in range(size)], object)
    x = rng.normal(size=(size, DIM)) + rng.normal(size=(200, DIM))[rng.integers(0, 200, size)]
    blank, one = np.full(size, "", object), np.ones(size, np.int32)
    columns = {"perturbation": names, "kind": np.full(size, "gene", object), "gene": names, "guide": blank,
               "concentration_um": np.full(size, np.nan), "n_replicates": one, "n_batches": one}  # fmt: skip
    genome = Genome(names, np.array(ARMS[:40], object)[rng.integers(0, 40, size)], np.arange(size), np.arange(size))
    made = Map(folder, columns, x.astype(np.float32), {"marks": ""})
    known = relations.read_folder(folder)
    return lambda: page.write(made, folder / page.NAME, known, genome, "benchmarks/evaluation/maps.py")


def opened(path: pathlib.Path) -> dict[str, float]:
    """Bytes of a page; seconds until Chromium has it with its search in use, and until the heat map is drawn too."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.locator(".neighbours tbody tr").first.wait_for()
        seconds = time.perf_counter() - start
        page.locator("#view").scroll_into_view_if_needed()
        page.locator("[data-name=heat][data-drawn]").wait_for()
        drawn = time.perf_counter() - start
        browser.close()
    return {"bytes": path.stat().st_size, "seconds_to_open": seconds, "seconds_to_heat_map": drawn}


def theirs(case: str, size: int, folder: pathlib.Path):
    """The same of the public tool. Raises ImportError where it is not installed."""
    for name in ("scvi", "scvi.model"):  # gigabytes, for an embedding that is not asked for
        sys.modules.setdefault(name, unittest.mock.MagicMock())
    import pandas as pd

    if case == "brunner_munzel":
        np.NaN = np.nan  # as NumPy 1 had it
        from proxbias import metrics

        x, arm = of_arms(size)
        names = [f"G{i}" for i in range(size)], [metrics.ARMS_ORD[a] for a in arm]
        index = pd.MultiIndex.from_arrays(names, names=["gene", "chromosome_arm"])

        def function():
            u = x / np.linalg.norm(x, axis=1, keepdims=True)
            return metrics.bm_metrics(pd.DataFrame(u @ u.T, index, index))

        return function
    from efaar_benchmarking import benchmarking, efaar
    from sklearn.utils import Bunch

    if case.startswith("recall"):
        relation_files(folder, size)
        x = np.random.default_rng(0).normal(size=(size, DIM))
        made = Bunch(features=pd.DataFrame(x), metadata=pd.DataFrame({"gene": [f"G{i}" for i in range(size)]}))
        return lambda: benchmarking.known_relationship_benchmark(made, "gene", benchmark_data_dir=str(folder))
    if case == "tvn":
        x, batch, is_control = batches(size)
        about = pd.DataFrame({"batch": batch, "what": np.where(is_control, "control", "treated")})
        return lambda: efaar.tvn_on_controls(x, about, "what", "control", "batch")
    x, names = wells(size)
    about = pd.DataFrame({"name": names})
    if case == "consistency":
        return lambda: benchmarking.pert_signal_consistency_benchmark(x, about, "name", NULL, ["control"], n_jobs=1)
    return lambda: benchmarking.pert_signal_magnitude_benchmark(x, about, "name", NULL, "control", n_jobs=1)


def timed(function) -> tuple[float, float]:
    """Seconds and processor seconds of one call."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu


def measure(who: str, case: str, size: int) -> dict[str, float]:
    """In this process: seconds of a call, after imports and inputs, and the peak of memory in MB after the first."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        function = {"ours": ours, "theirs": theirs}[who](case, size, pathlib.Path(folder))
        seconds, cpu = timed(function)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if cpu < SHORT and case not in ALONE:
            seconds, cpu = map(min, zip((seconds, cpu), *(timed(function) for _ in range(REPEATS - 1))))
        page = pathlib.Path(folder, "page.html")
        more = opened(page) if page.exists() else {}
    return more | {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak}


def in_a_process(who: str, case: str, size: int, threads: int, old: str) -> dict[str, float] | None:
    """`measure` in a new process of so many threads; None where the tool is not installed."""
    path = [old] if old and case in OLD and who == "theirs" else []
    path.append(str(pathlib.Path(__file__).parents[2]))  # before a package that is installed
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = (
        os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": os.pathsep.join([*path, *sys.path[1:]])}
    )
    # -P: the file coverage.py beside this one is not the package that numba looks for.
    argv = [sys.executable, "-P", __file__, f"--measure={who}", f"--case={case}", f"--size={size}"]
    own = sorted(os.sched_getaffinity(0))[:threads]  # ours has threads of its own, by the cores it may use
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, own)
    )
    if done.returncode:
        missing = "ImportError" in done.stderr or "ModuleNotFoundError" in done.stderr
        if who == "theirs" and missing:
            return None
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--old", default="", help="folder with EFAAR 0.1, which proxbias needs")
    parser.add_argument("--out", type=pathlib.Path, help="the results as JSON")
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--size", type=int, help="in place of a case's own")
    parser.add_argument("--measure", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        print(json.dumps(measure(flags.measure, flags.case[0], flags.size)))
        return
    found = {}
    for case in flags.case or CASES:
        size, threads = CASES[case]
        row = {"size": flags.size or size, "threads": threads}
        for who in ("ours", "theirs") if case not in ALONE else ("ours",):
            row[who] = in_a_process(who, case, row["size"], threads, flags.old)
        if row.get("theirs"):
            row["times_faster"] = row["theirs"]["cpu_seconds"] / row["ours"]["cpu_seconds"]
            row["memory_ratio"] = row["ours"]["peak_mb"] / row["theirs"]["peak_mb"]
        found[case] = row
        print(case, json.dumps(row), flush=True)
        if flags.out:
            flags.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
