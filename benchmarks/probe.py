"""The probes' logistic regression against scikit-learn's on the same rows, cores and criterion.

    python benchmarks/probe.py [--rows=40612] [--features=384] [--classes=1139] [--tolerance=1e-4] [--only=rxrx_jax]

prints one JSON line. Each fit is a process of its own and starts at zero, at C = 1. seconds: of the whole call, ours
the second time, since a table of probes compiles once and fits dozens; first_seconds: with the compilation;
cpu_seconds: of all threads, which other work on the machine changes little; peak_mib: the largest resident memory of
the process, of which data_mib was there before the fit; gradient: the largest entry of the mean loss's gradient at the
end, computed again in float64. Both stop where they find it under the tolerance, or after 500 steps. ratio, ratio_cpu:
of scikit-learn's, in each of its dtypes, over ours.

The features are of this size in RxRx1's WILDS split and a ViT-S, and drawn: a mean for each class, a shift for each of
33 experiments and noise, mixed so that the eigenvalues of their covariance fall as 1/i, as those of embeddings do.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time

import numpy as np

FITS = ("rxrx_jax", "scikit-learn float32", "scikit-learn float64")


def draw(rows: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [rows, features], standardised, and labels int64 [rows]."""
    random = np.random.default_rng(0)
    labels = np.arange(rows) % classes
    parts = random.normal(size=(classes, features)), random.normal(size=(33, features))
    x = parts[0][labels] + parts[1][random.integers(0, 33, rows)] + random.normal(size=(rows, features))
    axes = np.linalg.qr(random.normal(size=(features, features)))[0]
    x = x * np.sqrt(1 / np.arange(1, features + 1)) @ axes
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), labels


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(function, *given, **more):
    """What it returns, its seconds, and the processor's."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = function(*given, **more)
    return found, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def fit(name: str, sizes: tuple[int, int, int], tolerance: float) -> dict:
    """One fit, and what it cost."""
    x, labels = draw(*sizes)
    found = {}
    if name == "rxrx_jax":
        from rxrx_jax.evaluate.probes import logistic

        found["data_mib"] = round(peak_mib())
        first = timed(logistic.fit, x, labels, tolerance=tolerance)[1]
        model, cost = timed(logistic.fit, x, labels, tolerance=tolerance)
        found |= {f"first_{key}": value for key, value in first.items()} | cost
        found |= {"steps": model.steps, "converged": model.converged}
        weights = model.weights[:-1] / model.deviation[:, None], model.weights[-1:]
        weights = weights[0], weights[1] - model.centre @ weights[0]
    else:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        x = x.astype(name.split()[1])
        found["data_mib"] = round(peak_mib())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model, cost = timed(LogisticRegression(max_iter=500, tol=tolerance).fit, x, labels)
        steps = int(model.n_iter_[0])
        found |= cost | {"steps": steps, "converged": steps < 500}
        weights = model.coef_.T, model.intercept_[None]
    found["peak_mib"] = round(peak_mib())
    return found | {"gradient": largest_gradient(x, labels, *weights)}


def largest_gradient(x: np.ndarray, labels: np.ndarray, w: np.ndarray, b: np.ndarray) -> float:
    """Of the mean loss at C = 1, in float64, a thousand rows at a time."""
    gradient, offset = w.astype(np.float64), np.zeros(b.shape[1])
    for at in range(0, len(x), 1000):
        part = x[at : at + 1000].astype(np.float64)
        logits = part @ w + b
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(p)), labels[at : at + 1000]] -= 1
        gradient += part.T @ p
        offset += p.sum(0)
    return float(max(np.abs(gradient).max(), np.abs(offset).max()) / len(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("rows", 40_612), ("features", 384), ("classes", 1_139)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--only", choices=FITS, action="append")
    flags = parser.parse_args()
    sizes = flags.rows, flags.features, flags.classes
    found: dict = dict(zip(("rows", "features", "classes"), sizes), tolerance=flags.tolerance, cores=os.cpu_count())
    spawn = multiprocessing.get_context("spawn")
    for name in flags.only or FITS:
        with spawn.Pool(1) as pool:
            found[name] = pool.apply(fit, (name, sizes, flags.tolerance))
        print(name, found[name], file=sys.stderr)
    ours = found.get("rxrx_jax")
    others = [name for name in FITS[1:] if name in found]
    if ours:
        for ratio, key in (("ratio", "seconds"), ("ratio_cpu", "cpu_seconds")):
            found[ratio] = {name: round(found[name][key] / ours[key], 1) for name in others}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
