"""What shifts a cell in version 3: perturbations of three kinds, and nuisance that is not affine in the features.

A treatment draws two of three kinds: morphology (as in version 2, at half its strength), arrangement and
co-localisation (`arrangement.py`), which channel statistics read badly. One treatment in five is inert. Three
treatments form a pathway, whose directions have a cosine of 0.7. A share of the cells responds. In each experiment the
effect has another size and leans towards another direction: perturbation and experiment interact.

Every draw depends on the seed and on names alone.
"""

import dataclasses
import functools

import numpy as np

from rxrx_jax.base.spellings import NEGATIVE_CONTROL, TREATMENT
from rxrx_jax.simulate.arrangement import ARRANGEMENT, COLOCALISATION
from rxrx_jax.simulate.morphology import NAMES, PLATE_PART, SHIFTED, WELL_PART, generator

KINDS = {"morphology": len(NAMES), "arrangement": len(ARRANGEMENT), "colocalisation": len(COLOCALISATION)}
SIZE = {"morphology": 1.0, "arrangement": 4.5, "colocalisation": 3.0}  # in units of z
STAIN = 0.09  # log intensity, with morphology
PATHWAY, INERT = 3, 5  # treatments of a pathway; one inert of so many
COSINE = 0.7  # of the directions within a pathway
CELL_TYPE_PART, INTERACTION = 0.3, 0.3  # of a direction, by cell type and by experiment
INTERACTION_SIZE = 0.25  # log of an effect's size, by experiment
RESPONDING = 0.5, 1.0  # share of the cells that respond, drawn between these
POSITIVE_CONTROL = 1.5  # times a treatment's effect
WELL_HAZE, WELL_FLAT, WELL_DENSITY = 0.9, 0.15, 0.15  # of a well: logit of a share, relative light, log number
EXPERIMENT_Z = 0.65  # units of z that an experiment shifts arrangement and co-localisation of all cells


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a perturbation does to the cells that respond: shifts in units of z, a log intensity, their share."""

    morphology: np.ndarray  # [16]
    arrangement: np.ndarray  # [6]
    colocalisation: np.ndarray  # [5]
    stain: np.ndarray  # [6]
    share: float


@functools.lru_cache(maxsize=4096)
def effect(seed: int, index: int, well_type: str, cell_type: str, experiment: str) -> Effect:
    """The effect of the perturbation with this index (its id; treatments come first) in an experiment."""
    inert = index % INERT == generator(seed, "inert", index // INERT).integers(INERT)
    parts = {kind: np.zeros(size) for kind, size in KINDS.items()}
    stain = np.zeros(6)
    if well_type == NEGATIVE_CONTROL or (well_type == TREATMENT and inert):
        return Effect(**parts, stain=stain, share=0.0)
    treatment = well_type == TREATMENT
    pathway = ("pathway", index // PATHWAY) if treatment else ("control", index)
    own, common = generator(seed, "effect", index), generator(seed, "effect", *pathway)
    here = generator(seed, "effect", index, "experiment", experiment)
    there = generator(seed, "effect", index, "cell_type", cell_type)
    factor = np.exp(INTERACTION_SIZE * here.standard_normal()) * (1.0 if treatment else POSITIVE_CONTROL)
    for kind in common.permutation(list(KINDS))[:2]:
        shifted = common.permutation(KINDS[kind])[:SHIFTED]
        pathway_direction = _direction(common, len(shifted))
        beside = _direction(own, len(shifted), pathway_direction)
        direction = np.sqrt(COSINE) * pathway_direction + np.sqrt(1 - COSINE) * beside
        direction += CELL_TYPE_PART * _direction(there, len(shifted)) + INTERACTION * _direction(here, len(shifted))
        # shifts of size 1 in the quadratic mean
        parts[kind][shifted] = factor * SIZE[kind] * np.sqrt(len(shifted)) * direction
        if kind == "morphology":
            stain = factor * STAIN * common.standard_normal(6)
    return Effect(**parts, stain=stain, share=own.uniform(*RESPONDING))


def _direction(rng, size, beside=None):
    """A random unit vector [size], orthogonal to the unit vector `beside` if there is one."""
    direction = rng.standard_normal(size)
    if beside is not None:
        direction -= direction @ beside * beside
    return direction / np.linalg.norm(direction)


@dataclasses.dataclass(frozen=True)
class Optics:
    """What version 3 adds to `morphology.Nuisance`, of which little is affine in the pixels.

    gamma [6] log exponent of the camera's response | haze [6] logit of the share of light out of focus | arrangement
    [6], colocalisation [5] shifts of all cells, in units of z | gain [6] log gain, of experiments alone | flat [3]
    illumination and density, log number of cells, of wells alone
    """

    gamma: np.ndarray
    haze: np.ndarray
    arrangement: np.ndarray
    colocalisation: np.ndarray
    gain: np.ndarray
    flat: np.ndarray | float = 0.0
    density: float = 0.0

    def __add__(self, other: "Optics") -> "Optics":
        return Optics(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))


@functools.lru_cache(maxsize=256)
def _optics(seed: int, strength: float, *names) -> Optics:
    rng = generator(seed, "optics", *names)
    normal = lambda scale, *shape: strength * scale * rng.standard_normal(shape)  # noqa: E731
    return Optics(
        gamma=normal(0.15, 1) + normal(0.12, 6),
        haze=normal(0.5, 1) + normal(0.3, 6),
        arrangement=normal(EXPERIMENT_Z, len(ARRANGEMENT)),
        colocalisation=normal(EXPERIMENT_Z, len(COLOCALISATION)),
        gain=normal(0.22, 1) + normal(0.45, 6) if len(names) == 1 else np.zeros(6),
    )


def optics(seed: int, strength: float, experiment: str, plate: int, well: str) -> Optics:
    """The sum over experiment, plate and well, the latter two in the parts of `morphology`."""
    total = _optics(seed, strength, experiment) + _optics(seed, strength * PLATE_PART, experiment, plate)
    total += _optics(seed, strength * WELL_PART, experiment, plate, well)
    rng = generator(seed, "focus", experiment, plate, well)
    return dataclasses.replace(
        total,
        haze=total.haze + strength * WELL_HAZE * (rng.standard_normal() + 0.5 * rng.standard_normal(6)),
        flat=strength * WELL_FLAT * rng.standard_normal(3),
        density=strength * WELL_DENSITY * rng.standard_normal(),
    )
