"""A small screen as a table, and maps made of it."""

import pathlib

import numpy as np
from reference.maps import cases

from rxrx_jax.maps import table
from rxrx_jax.maps.table import Profiles

DOSES = (0.1, 1.0)


def screen() -> Profiles:
    """Four batches: controls, 12 genes of eight replicates (the last has one), and a compound at two doses."""
    x, batch, perturbation = cases.screen()
    random = np.random.default_rng(0)
    dose = [d for d in DOSES for _ in range(12)]
    x = np.concatenate([x, random.normal(size=(24, x.shape[1])) + np.array(dose)[:, None]])
    batch = np.concatenate([batch, np.array([f"b{i % 4}" for i in range(24)], object)])
    n = len(batch)
    columns = {
        "well_id": np.array([f"w{i}" for i in range(n)], object),
        "experiment": batch,
        "perturbation": np.concatenate([perturbation, np.array(["aspirin"] * 24, object)]),
        "concentration_um": np.array([np.nan] * (n - 24) + dose),
    }
    return Profiles(x, columns, tuple(f"embedding_{i}" for i in range(x.shape[1])))


def write(profiles: Profiles, path: pathlib.Path) -> pathlib.Path:
    table.write(profiles, path)
    return path
