"""Renders one site of the simulated screen: its cells, then the microscope.

Channels: 0 nucleus (Hoechst), 1 endoplasmic reticulum (concanavalin A), 2 actin (phalloidin), 3 nucleoli and
RNA (Syto14), 4 mitochondria (MitoTracker), 5 Golgi and membranes (WGA).

The field of view is fixed: a larger image shows the same cells with more pixels, but its own camera noise.
Grey levels are brighter than RxRx1's (means of about 15 to 60 of 255 instead of 5 to 15; 5 to 30 in version 3), so that
rounding does not destroy the signal at 64 pixels.
"""

import numpy as np

from rxrx_jax.simulate import arrangement, cells, effects, microscope, morphology
from rxrx_jax.simulate.design import EDGE_WELLS, Screen


def render_site(screen: Screen, row: dict) -> np.ndarray:
    """The pixels of one site row: uint8 [image_size, image_size, 6]; a pure function of (screen, row)."""
    well = row["experiment"], row["plate"], row["well"]
    edge = row["well"] in EDGE_WELLS
    nuisance = morphology.nuisance(screen.seed, screen.nuisance_strength, *well, edge=edge)
    rng = morphology.generator(screen.seed, "site", row["site_id"])
    if screen.version == "v2":
        return microscope.expose(rng, cells.paint(_cells_v2(rng, screen, row, nuisance), screen.image_size), nuisance)
    optics = effects.optics(screen.seed, screen.nuisance_strength, *well)
    light = cells.paint(_cells_v3(rng, screen, row, nuisance, optics), screen.image_size)
    light += microscope.debris(rng, screen.image_size, screen.nuisance_strength, morphology.STAIN[row["cell_type"]])
    return microscope.expose(rng, light, nuisance, optics)


def _cells_v2(rng, screen, row, nuisance):
    what = row["perturbation"], row["well_type"], row["cell_type"]
    shift, stain = morphology.perturbation_shift(screen.seed, *what)
    z = screen.perturbation_strength * shift + nuisance.z
    stain = morphology.STAIN[row["cell_type"]] * np.exp(screen.perturbation_strength * stain)
    return cells.draw(rng, row["cell_type"], z, stain, float(nuisance.density[0]))


def _cells_v3(rng, screen, row, nuisance, optics):
    what = row["perturbation_id"], row["well_type"], row["cell_type"], row["experiment"]
    effect, strength = effects.effect(screen.seed, *what), screen.perturbation_strength
    stain, density = morphology.STAIN[row["cell_type"]], float(nuisance.density[0] + optics.density)
    drawn = cells.draw(rng, row["cell_type"], nuisance.z, stain, density, effect.share, strength * effect.morphology)
    responds = strength * drawn["responds"][:, None]
    drawn["level"] *= np.exp(responds * effect.stain)
    arrangement.arrange(
        rng,
        drawn,
        optics.arrangement + responds * effect.arrangement,
        optics.colocalisation + responds * effect.colocalisation,
    )
    return drawn
