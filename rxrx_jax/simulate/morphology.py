"""What a cell looks like, and what shifts it: cell type, perturbation, experiment, plate, well.

A cell is described by 16 morphology parameters. Each is positive and lives on a log scale,
    value = base[cell type] * exp(unit * z),    z = perturbation + experiment + plate + well + cell,
so a shift of 1 in z means "one unit" of that parameter for every source of variation. The experiment, plate
and well parts of z are the biological side of the batch effect: no normalisation of intensities removes them.
The optical side (gain, background, blur, illumination, bleed-through, noise) is in `Nuisance`.

How the strengths below were chosen: by the shares of pixel variance that `variance.py` prints (experiment
about 20 to 25 %, perturbation about 4 to 7 %, see there) and by looking at the pictures, and by nothing else;
no classifier's score on held-out experiments was consulted, and none should be when they are changed.

Every draw depends on the seed and on names alone (never on the layout or on the order of calls).
"""

import dataclasses
import functools
import hashlib

import numpy as np

from rxrx_jax.base import spellings

# name: (one unit on the log scale, base value for SIMA, SIMB, SIMC); lengths in fields of view
PARAMETERS = {
    "nucleus_size": (0.11, 0.056, 0.050, 0.064),  # radius
    "nucleus_elongation": (0.10, 1.30, 1.10, 1.22),  # ratio of the axes
    "chromatin_amplitude": (0.30, 0.20, 0.28, 0.16),  # relative to the mean
    "chromatin_scale": (0.22, 0.80, 0.60, 0.95),  # wavelength in nucleus radii
    "nucleoli_number": (0.28, 3.0, 2.0, 4.2),
    "nucleoli_size": (0.18, 0.20, 0.26, 0.18),  # radius in nucleus radii
    "er_spread": (0.20, 0.62, 0.75, 0.55),  # decay length in cell radii
    "er_granularity": (0.30, 0.34, 0.24, 0.42),  # relative to the mean
    "actin_fibres": (0.35, 0.50, 0.20, 0.90),  # relative to the cortex
    "actin_frequency": (0.20, 17.0, 14.0, 20.0),  # cycles per field of view
    "mitochondria_granularity": (0.22, 15.0, 19.0, 13.0),  # cycles per field of view
    "mitochondria_spread": (0.20, 0.52, 0.42, 0.66),  # decay length in cell radii
    "golgi_dispersion": (0.28, 0.55, 0.40, 0.75),  # in nucleus radii
    "golgi_amount": (0.25, 1.0, 0.7, 1.2),
    "cell_count": (0.22, 14.0, 20.0, 10.0),  # per field of view
    "cell_spread": (0.12, 0.145, 0.112, 0.185),  # radius of the cell body
}
NAMES = tuple(PARAMETERS)
UNIT = np.array([row[0] for row in PARAMETERS.values()])
BASE = dict(zip(("SIMA", "SIMB", "SIMC"), np.array([row[1:] for row in PARAMETERS.values()]).T))
# mean stain intensity of a cell's brightest part per channel, in grey levels before the microscope
STAIN = {
    "SIMA": np.array([75.0, 56.0, 48.0, 56.0, 50.0, 54.0]),
    "SIMB": np.array([84.0, 68.0, 46.0, 66.0, 56.0, 48.0]),
    "SIMC": np.array([68.0, 48.0, 58.0, 46.0, 43.0, 62.0]),
}

# Strengths, in units of z (biology) or of the log (gains).
SHIFTED = 5  # parameters that a perturbation shifts
PERTURBATION_Z, PERTURBATION_STAIN, CELL_TYPE_PART = 2.0, 0.18, 0.3
POSITIVE_CONTROL = 1.8  # times a treatment's shifts
EXPERIMENT_Z, EXPERIMENT_GAIN = 0.8, 0.45
PLATE_PART, WELL_PART = 0.35, 0.20  # of the experiment's spread
EDGE_Z = 0.8


def generator(seed: int, *names) -> np.random.Generator:
    """A random generator that depends on the seed and the names only, on any machine and in any process."""
    text = "/".join(str(name) for name in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest[:16], "little"))))


@functools.lru_cache(maxsize=4096)
def perturbation_shift(seed: int, name: str, well_type: str, cell_type: str) -> tuple[np.ndarray, np.ndarray]:
    """(z [16], log stain [6]) that a perturbation adds, mostly shared by cell types; zero when untreated."""
    z, stain = np.zeros(len(NAMES)), np.zeros(6)
    if well_type == spellings.NEGATIVE_CONTROL:
        return z, stain
    strength = POSITIVE_CONTROL if well_type == spellings.POSITIVE_CONTROL else 1.0
    rng = generator(seed, "perturbation", name)
    chosen = rng.permutation(len(NAMES))[:SHIFTED]
    size = rng.uniform(0.6, 1.4, SHIFTED) * rng.choice([-1.0, 1.0], SHIFTED)
    z[chosen] = size
    stain += rng.standard_normal(6)
    # the part that only this cell type shows, on the same parameters
    rng = generator(seed, "perturbation", name, cell_type)
    z[chosen] += CELL_TYPE_PART * rng.standard_normal(SHIFTED)
    stain += CELL_TYPE_PART * rng.standard_normal(6)
    return strength * PERTURBATION_Z * z, strength * PERTURBATION_STAIN * stain


@dataclasses.dataclass(frozen=True)
class Nuisance:
    """What an experiment, plate or well adds, on scales where the parts of the three levels are summed.

    z [16] biological shift | gain [6] log gain | background [6] log background | blur [6] log width |
    flat [6, 3] illumination: slope in x, slope in y, vignette | bleed [6, 6] log share between channels |
    noise [2] log level of shot noise and read noise | density: log number of cells
    """

    z: np.ndarray
    gain: np.ndarray
    background: np.ndarray
    blur: np.ndarray
    flat: np.ndarray
    bleed: np.ndarray
    noise: np.ndarray
    density: np.ndarray

    def __add__(self, other: "Nuisance") -> "Nuisance":
        return Nuisance(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))


def _draw(seed: int, strength: float, *names) -> Nuisance:
    rng = generator(seed, "nuisance", *names)
    normal = lambda scale, *shape: strength * scale * rng.standard_normal(shape)  # noqa: E731
    common = normal(1.0, 1)  # lamp and stain lot: some of the gain is common to the channels
    return Nuisance(
        z=normal(EXPERIMENT_Z, len(NAMES)),
        gain=EXPERIMENT_GAIN * (0.4 * common + 0.9 * normal(1.0, 6)),
        background=normal(0.45, 6),
        blur=normal(0.25, 6) + normal(0.25, 1),
        flat=normal(0.12, 1, 3) + normal(0.06, 6, 3),
        bleed=normal(0.6, 6, 6),
        noise=normal(0.25, 2),
        density=normal(0.15, 1),
    )


@functools.lru_cache(maxsize=64)
def _experiment_nuisance(seed: int, strength: float, experiment: str) -> Nuisance:
    return _draw(seed, strength, experiment)


@functools.lru_cache(maxsize=256)
def _plate_nuisance(seed: int, strength: float, experiment: str, plate: int) -> Nuisance:
    plate_part = _draw(seed, strength * PLATE_PART, experiment, plate)
    return _experiment_nuisance(seed, strength, experiment) + plate_part


@functools.lru_cache(maxsize=64)  # the sites of a well follow each other
def nuisance(seed: int, strength: float, experiment: str, plate: int, well: str, edge: bool) -> Nuisance:
    """The nuisance of an experiment, a plate and a well together, and of the edge for an outermost well."""
    total = _plate_nuisance(seed, strength, experiment, plate)
    total += _draw(seed, strength * WELL_PART, experiment, plate, well)
    return total + _edge_nuisance(seed, strength) if edge else total


@functools.lru_cache(maxsize=8)
def _edge_nuisance(seed: int, strength: float) -> Nuisance:
    # Evaporation at the rim: one direction of change for the whole world, fewer cells, more background.
    none = _draw(seed, 0.0, "edge")
    z = strength * EDGE_Z * generator(seed, "edge").standard_normal(len(NAMES))
    background, density = np.full(6, 0.25 * strength), np.full(1, -0.2 * strength)
    return dataclasses.replace(none, z=z, background=background, density=density)
