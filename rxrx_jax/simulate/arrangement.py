"""How the parts of cells lie to each other: what a perturbation of version 3 changes at constant amounts.

Arrangement turns and moves what `cells.draw` drew, and lets endoplasmic reticulum and mitochondria lie on the Golgi's
side or on the other. Co-localisation moves the light of a channel from one part of the cell to the others. Nothing gets
larger, more frequent or, in all, brighter, so that means, deviations and histograms of channels change little.
"""

import numpy as np

from rxrx_jax.simulate.cells import MOVES

SIDES = tuple(move for move in MOVES if move[1] == "golgi_side")
COLOCALISATION = tuple(move for move in MOVES if move[1] != "golgi_side")
ARRANGEMENT = ("golgi_pole", "golgi_distance", "nucleus_offset", "nucleoli_place", *SIDES)
CELL_SPREAD = 0.3  # variation from cell to cell, in units of z
MOST = 2.5  # logit of a share of light at most moved


def arrange(rng: np.random.Generator, cells: dict, arrangement: np.ndarray, colocalisation: np.ndarray) -> None:
    """Turns and moves the parts of cells as drawn, in place.

    arrangement [cells, 6] and colocalisation [cells, 5]: positions on the scales of ARRANGEMENT and COLOCALISATION, in
    units of z; 0 is an untreated cell in an average experiment.
    """
    number = len(cells["angle"])
    arrangement = arrangement + CELL_SPREAD * rng.standard_normal(arrangement.shape)
    colocalisation = colocalisation + CELL_SPREAD * rng.standard_normal(colocalisation.shape)
    pole, distance, offset, nucleoli = np.tanh(arrangement[:, : -len(SIDES)]).T
    cells["moves"] = MOST * np.tanh(np.hstack([arrangement[:, -len(SIDES) :], colocalisation]) / MOST)

    # the Golgi: at a pole of the cell's long axis or beside it, near the nucleus or away from it
    cells["axes"] = 1.3 * cells["axes"]
    side = np.arctan2(*cells["golgi"].mean(1).T[::-1])
    beside = rng.choice([-1.0, 1.0], number) * np.pi / 4 * (1 - pole)
    target = cells["angle"] + np.pi * rng.integers(2, size=number) + beside
    towards = np.stack([np.cos(target), np.sin(target)], 1)
    cells["golgi"] = _rotated(cells["golgi"], target - side)
    room = np.maximum(cells["body"] - 1.35 * cells["nucleus_size"], 0)
    cells["golgi"] += (0.4 * room * (distance + 0.5))[:, None, None] * towards[:, None]

    # nucleoli: in the middle of the nucleus or at its rim
    cells["nucleoli"] = cells["nucleoli"] * np.exp(0.5 * nucleoli)[:, None, None]

    # the nucleus: towards the Golgi or away from it
    cells["offset"] = (0.7 * (cells["body"] - cells["nucleus_size"]) * offset)[:, None] * towards


def _rotated(points, turn):
    """Points [cells, M, 2] turned around 0 by turn [cells]."""
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
