"""A folder that `build` wrote, read back: the map, its replicates, and its genes, one row each."""

import dataclasses
import functools
import pathlib

import numpy as np

from rxrx_jax.base import embeddings, files
from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import relate
from rxrx_jax.maps.build.aggregate import aggregate
from rxrx_jax.maps.build.make import FACTS, MAP, REPLICATES

AGAIN = "build the map again"
BENCHMARK = "benchmark.json"


@dataclasses.dataclass(frozen=True)
class Map:
    """path; columns of map.parquet, each [n]; features [n, d] float32; facts, of build.json."""

    path: pathlib.Path
    columns: dict[str, np.ndarray]
    features: np.ndarray
    facts: dict

    @functools.cached_property
    def genes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(names [g], distinct and sorted; features [g, d] float64, the mean over a gene's guides; guides [g])."""
        rows = np.flatnonzero(self.columns["kind"] == "gene")
        names, of = np.unique(self.columns["gene"][rows].astype(str), return_inverse=True)
        if not len(rows):
            return names.astype(object), np.zeros((0, self.features.shape[1])), np.zeros(0, np.int64)
        means, counts = aggregate(self.features[rows], of)
        return names.astype(object), means, counts

    def compounds(self) -> np.ndarray:
        """The numbers of rows that are compounds."""
        return np.flatnonzero(self.columns["kind"] == "compound")

    @functools.cached_property
    def replicates(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """(columns [m], features [m, d], the same at length 1, float64) of the aligned wells. Raises UserError for one
        without direction."""
        columns, x = embeddings.read(self.path / REPLICATES)
        name = lambda i: f"an aligned replicate of {self.label(int(columns['map_row'][i]))}"  # noqa: E731
        return columns, x, relate.unit(x, name)

    def label(self, i: int) -> str:
        """How to name row i: the perturbation, its guide and its concentration."""
        about = {name: values[i] for name, values in self.columns.items()}
        guide = f" guide {about['guide']}" if about["guide"] and "_guide_" not in about["perturbation"] else ""
        dose = f" {about['concentration_um']:g} uM" if np.isfinite(about["concentration_um"]) else ""
        return f"{about['perturbation']}{guide}{dose}"


def read(path: pathlib.Path) -> Map:
    """Reads the map in a folder. Raises UserError where there is none."""
    if not (path / MAP).exists():
        raise UserError(
            f"{path} holds no {MAP}; make one: python -m rxrx_jax.maps build --embeddings=FILE --out={path}"
        )
    columns, features = embeddings.read(path / MAP)
    if missing := {"perturbation", "kind", "gene", "guide", "concentration_um"} - columns.keys():
        raise UserError(f"{path / MAP} has no column {sorted(missing)[0]}; {AGAIN}")
    return Map(path, columns, features, files.read_json(path / FACTS, AGAIN))
