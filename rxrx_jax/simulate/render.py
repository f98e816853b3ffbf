"""Renders one site of the simulated screen: its cells, then the microscope.

Channels: 0 nucleus (Hoechst), 1 endoplasmic reticulum (concanavalin A), 2 actin (phalloidin), 3 nucleoli and
RNA (Syto14), 4 mitochondria (MitoTracker), 5 Golgi and membranes (WGA).

The field of view is fixed: a larger image shows the same cells with more pixels, but its own camera noise.
Grey levels are brighter than RxRx1's (means of about 15 to 60 of 255 instead of 5 to 15), so that rounding
does not destroy the signal at 64 pixels.
"""

import functools

import numpy as np
from scipy import ndimage

from rxrx_jax.simulate import cells, morphology
from rxrx_jax.simulate.design import EDGE_WELLS, Screen

BACKGROUND = np.array([6.0, 10.0, 9.0, 9.0, 7.0, 8.0])  # grey levels
BLUR = np.array([0.0065, 0.0075, 0.0065, 0.0070, 0.0075, 0.0075])  # width of the point spread
BLEED = np.zeros((6, 6))  # share of channel j seen in channel i: neighbours in the spectrum leak most
BLEED[[1, 3, 2, 5], [3, 1, 5, 2]] = [0.10, 0.10, 0.08, 0.08]
BLEED[[1, 3, 2, 4, 5], [0, 2, 3, 2, 1]] = 0.03
BLEED[[0, 4, 5], [1, 5, 4]] = 0.02
SHOT, READ = 0.55, 1.2  # noise: SHOT * sqrt(grey level) and READ grey levels


def render_site(screen: Screen, row: dict) -> np.ndarray:
    """The pixels of one site row: uint8 [image_size, image_size, 6]; a pure function of (screen, row)."""
    seed, n = screen.seed, screen.image_size
    well = row["experiment"], row["plate"], row["well"]
    nuisance = morphology.nuisance(seed, screen.nuisance_strength, *well, edge=row["well"] in EDGE_WELLS)
    what = row["perturbation"], row["well_type"], row["cell_type"]
    shift, stain = morphology.perturbation_shift(seed, *what)
    z = screen.perturbation_strength * shift + nuisance.z
    stain = morphology.STAIN[row["cell_type"]] * np.exp(screen.perturbation_strength * stain)
    rng = morphology.generator(seed, "site", row["site_id"])
    light = cells.paint(cells.draw(rng, row["cell_type"], z, stain, float(nuisance.density[0])), n)
    return _microscope(rng, light, nuisance, n)


@functools.lru_cache(maxsize=4)
def _illumination_basis(n):
    """Slope in x, slope in y and vignette on the field: [3, n, n]."""
    line = (np.arange(n) + 0.5) / n * 2 - 1
    x, y = np.broadcast_to(line, (n, n)), np.broadcast_to(line[:, None], (n, n))
    return np.stack([x, y, 2 / 3 - (x**2 + y**2)])


def _microscope(rng, light, nuisance, n):
    """Bleed-through, blur, illumination, gain, background, noise and the camera: uint8 [n, n, 6]."""
    bleed = np.eye(6) + BLEED * np.exp(nuisance.bleed)
    seen = np.tensordot(bleed, light, 1)
    width = BLUR * np.exp(nuisance.blur) * n
    for channel in range(6):
        seen[channel] = ndimage.gaussian_filter(seen[channel], width[channel], mode="nearest", truncate=3.0)
    flat = nuisance.flat + np.array([0.0, 0.0, 0.08])
    field = np.maximum(1 + np.tensordot(flat, _illumination_basis(n), 1), 0.2)
    background = BACKGROUND * np.exp(nuisance.background)
    gain = np.exp(nuisance.gain)
    seen += background[:, None, None]
    seen *= gain[:, None, None] * field
    shot, read = SHOT * np.exp(nuisance.noise[0]), READ * np.exp(nuisance.noise[1])
    noise = np.sqrt(shot**2 * seen + read**2)
    noise *= rng.standard_normal(seen.shape, np.float32)
    seen += noise
    return np.ascontiguousarray(np.clip(np.rint(seen, out=seen), 0, 255).astype(np.uint8).transpose(1, 2, 0))
