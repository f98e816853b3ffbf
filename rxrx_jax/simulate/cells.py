"""The cells of one site: random draws first, then light on a grid of pixels.

Lengths are fractions of the field of view, so the same cells can be painted with any number of pixels. Cells
are painted together as arrays [cells, P, P], each on a patch around its own centre. Textures are sums of
plane waves and spots are sums of Gaussians; both separate into x and y, so that a texture costs one small
matrix product. Everything is float64: processors differ in the last bits of a sine or of a sum,
and rounding to grey levels hides that, so a world is the same on every machine with the same numpy.
"""

import numpy as np

from rxrx_jax.simulate import morphology
from rxrx_jax.simulate.morphology import NAMES

CELL_Z, CELL_STAIN = 0.7, 0.15  # variation from cell to cell, in units of z and of log intensity
NUCLEOLI, VESICLES = 6, 10  # at most, in a cell
# (channel, part of the cell): light that can move there, or away, while the total of the cell stays
MOVES = (
    (1, "golgi_side"),
    (4, "golgi_side"),
    (1, "around_nucleus"),
    (2, "rim"),
    (3, "nucleus"),
    (4, "around_nucleus"),
    (5, "rim"),
)
CHUNK = 16_000  # pixels painted together: keeps the arrays in the processor's cache


def _positions(rng: np.random.Generator, number: int, margin: float) -> np.ndarray:
    """Centres [number, 2] on the field and a margin around it; cells push each other apart a little."""
    side = 1 + 2 * margin
    xy = rng.random((number, 2)) * side - margin
    reach = 0.8 * side / np.sqrt(number)
    for _ in range(4):
        apart = xy[:, None] - xy[None]
        distance = np.sqrt((apart**2).sum(-1)) + 1e-6
        push = np.maximum(reach - distance, 0) / distance
        xy = np.clip(xy + 0.25 * (push[..., None] * apart).sum(1), -margin, 1 + margin)
    return xy


def _waves(rng, frequency, waves, spread, angle=None, turn=0.0):
    """Random plane waves of cells: kx, ky, phase [cells, 3, waves]; frequency [cells] in cycles per field.

    Directions are uniform, or within `turn` radians of angle [cells].
    """
    shape = len(frequency), waves
    angle = rng.random(shape) * np.pi if angle is None else angle[:, None] + turn * rng.standard_normal(shape)
    k = 2 * np.pi * frequency[:, None] * np.exp(spread * rng.standard_normal(shape))
    return np.stack([k * np.cos(angle), k * np.sin(angle), rng.random(shape) * 2 * np.pi], axis=1)


def _place(away, turn):
    """Points [cells, M, 2] at distance and angle [cells, M] from the centre."""
    return np.stack([away * np.cos(turn), away * np.sin(turn)], axis=-1)


def _along(k, phase, line):
    """exp(i (k line + phase)) as [cells, P, waves], seen as pairs of real numbers [cells, P, 2 waves].

    Pixels are evenly spaced, so each block of the line is the one before times a constant: few sines are
    needed.
    """
    length = line.shape[1]
    series = np.empty((length, *k.shape), complex)
    series[0] = np.exp(1j * (k * line[:, :1] + phase))
    step, done = np.exp(1j * k * (line[0, 1] - line[0, 0])), 1
    while done < length:
        more = min(done, length - done)
        np.multiply(series[:more], step, out=series[done : done + more])
        step, done = step * step, done + more
    return series.view(float).transpose(1, 0, 2)


def _texture(waves, x, y):
    """Sum of plane waves with mean 0 and variance 1: [cells, P, P] from x [cells, P] and y [cells, P]."""
    kx, ky, phase = waves[:, 0], waves[:, 1], waves[:, 2]
    # summed over pairs, the product of conj(a) and b is the cosine of the added angles
    left = _along(-ky, -phase, y)
    left *= np.sqrt(2 / kx.shape[1])
    return np.matmul(left, _along(kx, 0.0, x).transpose(0, 2, 1))


def _spots(centre, width, weight, x, y):
    """Sum of Gaussian spots [cells, P, P]: centre [cells, M, 2], width [cells, M], weight [cells, M]."""
    half = 0.5 / width[:, None] ** 2
    along_x = np.exp(-half * (x[..., None] - centre[:, None, :, 0]) ** 2)
    along_y = np.exp(-half * (y[..., None] - centre[:, None, :, 1]) ** 2) * weight[:, None]
    return np.matmul(along_y, along_x.transpose(0, 2, 1))


def _inside(distance, softness):
    """1 inside (distance < 1), 0 outside, with a smooth rim of +- softness."""
    t = np.clip((1 + softness - distance) * (0.5 / softness), 0, 1)
    return t * t * (3 - 2 * t)


def _near(distance, width):
    """A bump around distance 0 that falls off like a Lorentzian, cheaper than a Gaussian."""
    return 1 / (1 + (distance / width) ** 2)


def _grid(xy, reach, n):
    """Patches around centres xy [cells, 2]: x, y [cells, P] from a centre, first pixel [cells, 2] (x, y)."""
    first = np.floor(xy * n).astype(int) - reach
    line = (first[..., None] + np.arange(2 * reach + 1) + 0.5) / n - xy[..., None]
    return line[:, 0], line[:, 1], first


def draw(
    rng: np.random.Generator,
    cell_type: str,
    z: np.ndarray,
    stain: np.ndarray,
    density: float,
    share: float = 0.0,
    response: np.ndarray | float = 0.0,
) -> dict:
    """All that is random about the cells of a site: name -> array [cells, ...].

    z [16] is the shift of all cells, stain [6] their mean intensity, density the log of their number; a share of the
    cells, `cells["responds"]`, shows a further shift, response [16].
    """
    unit, base = morphology.UNIT, morphology.BASE[cell_type]
    count, spread = NAMES.index("cell_count"), NAMES.index("cell_spread")
    margin = 0.6 * base[spread]
    mean_z = z + share * response
    expected = base[count] * np.exp(unit[count] * mean_z[count] + density) * (1 + 2 * margin) ** 2
    number = int(np.clip(rng.normal(expected, 0.5 * np.sqrt(expected)), 2, 80))
    xy = _positions(rng, number, margin)
    responds = rng.random(number) < share if share else np.zeros(number, bool)
    cell_z = z + responds[:, None] * response + CELL_Z * np.clip(rng.standard_normal((number, len(NAMES))), -2.5, 2.5)
    cells = dict(zip(NAMES, (base * np.exp(np.clip(unit * cell_z, -1.2, 1.2))).T))
    radius, body = cells["nucleus_size"], np.maximum(cells["cell_spread"], 1.35 * cells["nucleus_size"])
    axes = np.sqrt(np.clip(cells["nucleus_elongation"], 1.0, 2.5))
    angle = rng.random(number) * np.pi
    cells |= {"xy": xy, "body": body, "axes": axes, "angle": angle, "responds": responds}
    cells["offset"] = np.zeros((number, 2))  # of the body's centre from the nucleus's
    cells["level"] = stain * np.exp(CELL_STAIN * rng.standard_normal((number, 6)))

    # spots: nucleoli inside the nucleus, Golgi vesicles on one side of it
    away, turn = 0.6 * np.sqrt(rng.random((number, NUCLEOLI))), rng.random((number, NUCLEOLI)) * 2 * np.pi
    cells["nucleoli"] = _place(radius[:, None] * away, turn)
    width = 0.75 * cells["nucleoli_size"] * radius
    cells["nucleoli_width"] = width[:, None] * rng.uniform(0.8, 1.2, away.shape)
    cells["nucleoli_weight"] = np.clip(cells["nucleoli_number"][:, None] - np.arange(NUCLEOLI), 0, 1)
    dispersion = cells["golgi_dispersion"][:, None]
    turn = rng.random((number, 1)) * 2 * np.pi + dispersion * rng.standard_normal((number, VESICLES))
    away = radius[:, None] * (1.1 + 0.5 * dispersion * np.abs(rng.standard_normal(turn.shape)))
    cells["golgi"] = _place(away, turn)
    cells["golgi_width"] = 0.011 * rng.uniform(0.7, 1.4, turn.shape)
    cells["golgi_weight"] = 0.6 * cells["golgi_amount"][:, None] * rng.uniform(0.5, 1.5, turn.shape)

    # textures; stress fibres run along the cell
    across = angle + 0.5 * np.pi + 0.3 * rng.standard_normal(number)
    cells["shape_waves"] = _waves(rng, 0.45 / body, 6, 0.3)
    cells["chromatin_waves"] = _waves(rng, 1 / (cells["chromatin_scale"] * radius), 12, 0.4)
    cells["er_waves"] = _waves(rng, np.full(number, 9.0), 8, 0.4)
    cells["actin_waves"] = _waves(rng, cells["actin_frequency"], 8, 0.25, across, 0.16)
    cells["mitochondria_waves"] = _waves(rng, cells["mitochondria_granularity"], 14, 0.3)
    return cells


def paint(cells: dict, n: int) -> np.ndarray:
    """Light of all cells on n x n pixels: float64 [6, n, n]."""
    canvas = np.zeros((6, n, n))
    lean = np.sqrt(cells["axes"])  # the body is less elongated than the nucleus
    away = np.hypot(*cells["offset"].T)
    reach = np.ceil((1.25 * cells["body"] * lean + away) * n).astype(int)  # pixels from centre to rim of a patch
    order = np.argsort(-reach, kind="stable")
    while len(order):
        most = max(1, CHUNK // (2 * reach[order[0]] + 1) ** 2)
        chunk, order = order[:most], order[most:]
        x, y, first = _grid(cells["xy"][chunk], reach[chunk[0]], n)
        light = _light({name: values[chunk] for name, values in cells.items()}, x, y)
        _gather(canvas, light, first)
    return canvas


def _light(cells: dict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Light [6, cells, P, P] of cells on patches of pixels at x, y [cells, P] from their centres."""
    value = {name: values[:, None, None] for name, values in cells.items() if values.ndim == 1}
    radius, body, axes = value["nucleus_size"], value["body"], value["axes"]
    lean = np.sqrt(axes)

    # shapes: distances from the centre in units of the nucleus and of the body, both slightly irregular
    cos, sin = np.cos(value["angle"]), np.sin(value["angle"])
    x_, y_ = x[:, None, :], y[:, :, None]
    u, v = (cos * x_ + sin * y_) ** 2, (cos * y_ - sin * x_) ** 2
    uneven = np.clip(_texture(cells["shape_waves"], x, y), -1.4, 1.4)
    from_centre = np.sqrt(u * (radius * axes) ** -2 + v * (axes / radius) ** 2) * (1 + 0.05 * uneven)
    if cells["offset"].any():
        x_, y_ = x_ - cells["offset"][:, None, :1], y_ - cells["offset"][:, 1:, None]
        u, v = (cos * x_ + sin * y_) ** 2, (cos * y_ - sin * x_) ** 2
    out = np.sqrt(u * (body * lean) ** -2 + v * (lean / body) ** 2) * (1 + 0.13 * uneven)
    nucleus, cell = _inside(from_centre, 0.14), _inside(out, 0.10)
    cytoplasm = cell * (1 - 0.75 * nucleus)
    from_nucleus = np.maximum(out - radius / body, 0)
    thickness = np.sqrt(np.maximum(1.05 - out * out, 0.02))
    cortex = cell * _near(out - 0.9, 0.07) * (1 + 0.4 * uneven)
    light = np.empty((6,) + nucleus.shape)

    # nucleus, with holes at the nucleoli
    nucleoli = _spots(cells["nucleoli"], cells["nucleoli_width"], cells["nucleoli_weight"], x, y)
    nucleoli = np.minimum(nucleoli, 1.2) * nucleus
    chromatin = np.minimum(value["chromatin_amplitude"], 0.6) * _texture(cells["chromatin_waves"], x, y)
    light[0] = nucleus * np.maximum(1 + chromatin - 0.3 * nucleoli, 0.15)
    # endoplasmic reticulum: dense around the nucleus, reticular
    veil = cytoplasm * thickness * _near(from_nucleus, value["er_spread"])
    light[1] = veil * np.maximum(1 + value["er_granularity"] * _texture(cells["er_waves"], x, y), 0.1)
    # actin: stress fibres and the cortex
    fibres = np.maximum(_texture(cells["actin_waves"], x, y), 0)
    light[2] = cell * (0.25 + value["actin_fibres"] * fibres * thickness) + 0.55 * cortex
    # RNA: nucleoli, and a veil over nucleus and cytoplasm
    light[3] = nucleoli + 0.28 * nucleus + 0.42 * veil
    # mitochondria: granules around the nucleus
    granules = np.maximum(_texture(cells["mitochondria_waves"], x, y) + 0.3, 0)
    around = cytoplasm * _near(from_nucleus, value["mitochondria_spread"])
    light[4] = around * (0.2 + 0.5 * granules * granules)
    # Golgi: vesicles; WGA also stains the nuclear rim and the cell membrane
    golgi = np.minimum(_spots(cells["golgi"], cells["golgi_width"], cells["golgi_weight"], x, y), 3.0)
    light[5] = cell * (golgi + 0.14 * _near(from_centre - 1, 0.14) + 0.14) + 0.16 * cortex

    if "moves" in cells:
        towards_x, towards_y = _unit(cells["golgi"].mean(1)).T[:, :, None, None]
        side = (x_ * towards_x + y_ * towards_y) / body
        parts = {
            "golgi_side": 0.5 + 0.5 * np.clip(2 * side, -1, 1),
            "around_nucleus": _near(from_nucleus, 0.2),
            "nucleus": nucleus,
            "rim": _near(out - 0.9, 0.15),
        }
        for (channel, part), shift in zip(MOVES, cells["moves"].T):
            _move(light[channel], parts[part], shift)
    light *= cells["level"].T[:, :, None, None]
    return light


def _unit(points):
    """Points [cells, 2] at distance 1 from the centre."""
    return points / (np.hypot(*points.T)[:, None] + 1e-9)


def _move(light, part, shift):
    """Moves light [cells, P, P] towards a part [cells, P, P] of each cell: the logit of its share there rises by shift
    [cells], the total stays."""
    total = light.sum((1, 2)) + 1e-9
    there = np.clip((light * part).sum((1, 2)) / total, 0.02, 0.98)
    share = 1 / (1 + (1 / there - 1) * np.exp(-shift))
    inside, outside = (share / there)[:, None, None], ((1 - share) / (1 - there))[:, None, None]
    light *= outside + (inside - outside) * part


def _gather(canvas: np.ndarray, light: np.ndarray, first: np.ndarray) -> None:
    """Puts patches light [6, cells, P, P] with corners at first [cells, 2] (x, y) on canvas [6, n, n]."""
    patch, n = light.shape[-1], canvas.shape[-1]
    for i, (left, top) in enumerate(first.tolist()):
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + patch, n), min(top + patch, n)
        if x0 < x1 and y0 < y1:
            part = canvas[:, y0:y1, x0:x1]
            # cells of a monolayer meet rather than overlap: the brighter one is seen
            np.maximum(part, light[:, i, y0 - top : y1 - top, x0 - left : x1 - left], out=part)
