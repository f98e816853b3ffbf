"""The microscope: from the light of the cells to the grey levels of the camera.

Version 2: bleed-through, blur, illumination, gain, background and noise, of which most is affine in the pixels. Version
3 adds what is not: light out of focus, which the channels share, and a response of the camera that is a power of the
light; and its experiments differ more in gain, as those of real control wells do.
"""

import functools

import numpy as np
from scipy import ndimage

BACKGROUND = np.array([6.0, 10.0, 9.0, 9.0, 7.0, 8.0])  # grey levels
BLUR = np.array([0.0065, 0.0075, 0.0065, 0.0070, 0.0075, 0.0075])  # width of the point spread, in fields of view
BLEED = np.zeros((6, 6))  # share of channel j seen in channel i: neighbours in the spectrum leak most
BLEED[[1, 3, 2, 5], [3, 1, 5, 2]] = [0.10, 0.10, 0.08, 0.08]
BLEED[[1, 3, 2, 4, 5], [0, 2, 3, 2, 1]] = 0.03
BLEED[[0, 4, 5], [1, 5, 4]] = 0.02
SHOT, READ = 0.55, 1.2  # noise: SHOT * sqrt(grey level) and READ grey levels
# Version 3. Real control wells have correlations of .5 to .77 between channels over pixels, and skewness of .8 to 1.6.
HAZE = np.array([0.5, -0.3, -0.3, -0.3, 0.5, 0.0])  # logit of the share of light that is out of focus
HAZE_WIDTH, HAZE_SHARED = 0.05, 0.7  # its width in fields of view; the part of it that is the mean of all channels
DEBRIS, LUMP = 4.0, (0.015, 0.05)  # lumps in a field, and their width in fields
PIVOT = 40.0  # the grey level that the camera's power leaves as it is


@functools.lru_cache(maxsize=4)
def _illumination_basis(n):
    """Slope in x, slope in y and vignette on the field: [3, n, n]."""
    line = (np.arange(n) + 0.5) / n * 2 - 1
    x, y = np.broadcast_to(line, (n, n)), np.broadcast_to(line[:, None], (n, n))
    return np.stack([x, y, 2 / 3 - (x**2 + y**2)])


def expose(rng: np.random.Generator, light: np.ndarray, nuisance, optics=None) -> np.ndarray:
    """Grey levels uint8 [n, n, 6] of light [6, n, n].

    Args: nuisance, `morphology.Nuisance`; optics, `effects.Optics` of version 3, None in version 2.
    """
    n, gain = light.shape[-1], nuisance.gain
    if optics is not None:
        light, gain = _hazy(light, optics.haze), gain + optics.gain
    bleed = np.eye(6) + BLEED * np.exp(nuisance.bleed)
    seen = np.tensordot(bleed, light, 1)
    width = BLUR * np.exp(nuisance.blur) * n
    for channel in range(6):
        seen[channel] = ndimage.gaussian_filter(seen[channel], width[channel], mode="nearest", truncate=3.0)
    flat = nuisance.flat + np.array([0.0, 0.0, 0.08])
    if optics is not None:
        flat = flat + optics.flat
    field = np.maximum(1 + np.tensordot(flat, _illumination_basis(n), 1), 0.2)
    background = BACKGROUND * np.exp(nuisance.background)
    gain = np.exp(gain)
    seen += background[:, None, None]
    if optics is not None:
        seen = PIVOT * (seen / PIVOT) ** np.exp(optics.gamma)[:, None, None]
    seen *= gain[:, None, None] * field
    shot, read = SHOT * np.exp(nuisance.noise[0]), READ * np.exp(nuisance.noise[1])
    noise = np.sqrt(shot**2 * seen + read**2)
    noise *= rng.standard_normal(seen.shape, np.float32)
    seen += noise
    return np.ascontiguousarray(np.clip(np.rint(seen, out=seen), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def debris(rng: np.random.Generator, n: int, strength: float, stain: np.ndarray) -> np.ndarray:
    """Light [6, n, n] of what floats in the well: blurred lumps, as bright as a stained cell."""
    number = rng.poisson(DEBRIS * strength)
    line = (np.arange(n) + 0.5) / n
    x, y = rng.random((2, number, 1))
    width = rng.uniform(*LUMP, (number, 1))
    level = np.exp(rng.standard_normal((number, 6))) * (rng.random((number, 6)) < 0.7) * stain
    column, row = (np.exp(-0.5 * ((line - at) / width) ** 2) for at in (y, x))
    return np.einsum("bc,by,bx->cyx", level, column, row)


def _hazy(light, haze):
    """Light [6, n, n] of which a share lies out of focus and carries a part of the other channels; totals stay."""
    share = 1 / (1 + np.exp(-(HAZE + haze)))[:, None, None]
    mean = light.mean((1, 2), keepdims=True)
    relative = light / np.maximum(mean, 1e-3)
    spread = HAZE_SHARED * relative.mean(0) + (1 - HAZE_SHARED) * relative
    for channel in range(6):
        spread[channel] = ndimage.gaussian_filter(spread[channel], HAZE_WIDTH * light.shape[-1], mode="reflect")
    return (1 - share) * light + share * mean * spread
