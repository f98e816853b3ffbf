"""Pictures: composites, reconstructions, training curves and embedding maps.

matplotlib, of the extra [report], is imported by the functions that draw curves and maps; the others are for every run.
"""

import colorsys
import io

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from rxrx_jax.base import files

# Colours of the channels w1..w6 in the published composites of RxRx1.
COLOURS = np.array([(19, 0, 249), (42, 255, 31), (255, 0, 25), (45, 255, 252), (250, 0, 253), (254, 255, 40)])

TILE, GAP, LETTERS = 208, 6, 20  # pixels of a picture in a sheet of reconstructions, between two, and of its text


def composite(images: np.ndarray, low: np.ndarray, high: np.ndarray, channels: tuple[int, ...] = ()) -> np.ndarray:
    """[..., H, W, C] to RGB [..., H, W, 3] in 0..1; low and high, numbers or [C], are drawn black and at full colour.
    Channels beyond the sixth have no colour and are not drawn. Args: channels, of the data's, those that the images
    have; () = the first C."""
    share = np.clip((images - low) / np.maximum(high - low, 1e-6), 0, 1)
    drawn = [(i, c) for i, c in enumerate(channels or range(images.shape[-1])) if c < len(COLOURS)]
    places, colours = [i for i, _ in drawn], COLOURS[[c for _, c in drawn]]
    return np.clip(share[..., places] @ colours / 255, 0, 1)


def save_reconstructions(
    path: epath.PathLike, images, mask, prediction, titles: list[str], channels: tuple[int, ...] = ()
) -> None:
    """Writes a PNG with one column per site: the image, what the encoder saw, the reconstruction (visible
    patches kept as they are). Arrays [n, H, W, C]; mask 1 = hidden; channels, as `composite` takes them."""
    low, high = np.quantile(images, [0.02, 0.998], axis=(0, 1, 2))
    size = (TILE, round(TILE * images.shape[1] / images.shape[2]))
    step, left, top = (size[0] + GAP, size[1] + GAP), 150, 30
    sheet = Image.new("RGB", (left + len(images) * step[0], top + 3 * step[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(("image", "visible", "reconstructed")):
        _write(draw, (left - GAP, top + row * step[1] + size[1] // 2), label, "rm", left - 2 * GAP)
    for column, title in enumerate(titles):
        x, m, p = images[column], mask[column], prediction[column]
        hidden = m.astype(bool)  # in a channel-agnostic model one channel by itself may be, which is then black
        seen = composite(np.where(hidden, low, x), low, high, channels)
        rows = (
            composite(x, low, high, channels),
            np.where(hidden.all(-1, keepdims=True), 0.15, seen),
            composite(np.where(hidden, p, x), low, high, channels),
        )
        for row, picture in enumerate(rows):
            tile = Image.fromarray(np.rint(255 * picture).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
            sheet.paste(tile, (left + column * step[0], top + row * step[1]))
        _write(draw, (left + column * step[0] + size[0] // 2, top - 4), title, "md", size[0])
    with files.writing(path) as file:
        sheet.save(file, format="PNG", optimize=True)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, anchor: str, width: int) -> None:
    """Draws text, smaller where it is wider than `width` pixels."""
    wide = draw.textlength(text, ImageFont.load_default(LETTERS))
    font = ImageFont.load_default(LETTERS * min(1.0, width / max(wide, 1)))
    draw.text(place, text, "black", font, anchor=anchor)


# Okabe and Ito's colours, which the colour-blind can tell apart, less those too light for dots on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#6A3D9A", "#7F7F00")
GREY = "#bbbbbb"


def colours(names) -> dict[str, str]:
    """A colour for each name; with more than eight, of twenty hues, light and dark in turn, that then repeat."""
    names = list(names)
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE))
    hues = [colorsys.hls_to_rgb(i / 20, (0.4, 0.65)[i % 2], 0.7) for i in range(20)]
    palette = ["#" + bytes(round(255 * x) for x in hue).hex() for hue in hues]
    return {name: palette[i % 20] for i, name in enumerate(names)}


def curves(seeds: list[list[dict]], loss_limits: tuple[float, float]) -> bytes:
    """An SVG of the training loss and, below it, accuracies over steps, from each seed's training lines."""
    import matplotlib
    from matplotlib.figure import Figure

    keys = ("accuracy", "domain_accuracy")
    with_accuracy = any(key in line for lines in seeds for line in lines for key in keys)
    style = {"svg.fonttype": "none", "svg.hashsalt": "rxrx_jax", "font.size": 8}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3, 2.7 if with_accuracy else 1.6), layout="constrained")
        axes = figure.subplots(1 + with_accuracy, 1, sharex=True, squeeze=False)[:, 0]
        for lines in seeds:
            _curve(axes[0], lines, loss_key(lines), color=PALETTE[0])
            if with_accuracy:
                _curve(axes[1], lines, "domain_accuracy", color=PALETTE[3], linestyle="--")
                _curve(axes[1], lines, "accuracy", color=PALETTE[2])
        axes[0].set_ylim(*loss_limits)
        axes[0].set_ylabel("loss")
        if with_accuracy:
            axes[1].set_ylim(0, 1)
            axes[1].set_ylabel("accuracy")
        axes[-1].set_xlabel("step")
        axes[-1].set_xlim(left=0)
        for a in axes:
            a.spines[["top", "right"]].set_visible(False)
            a.grid(color="#eeeeee")
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return out.getvalue()


def _curve(axes, lines, key, **style):
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if found:
        axes.plot(*zip(*found), linewidth=1, alpha=0.85, **style)


def loss_key(lines: list[dict]) -> str:
    """The loss to draw: of the task alone where an adversary's is added to it, so that methods compare."""
    return "class_loss" if any(line.get("class_loss") is not None for line in lines) else "loss"


def loss_limits(seeds: list[list[dict]]) -> tuple[float, float]:
    """The lowest loss to the 99th percentile (without a first outburst), with a margin."""
    found = [line.get(loss_key(lines)) for lines in seeds for line in lines]
    found = [value for value in found if value is not None]
    low, high = (min(found), float(np.quantile(found, 0.99))) if found else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def principal_components(embeddings: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Scores [n, 2] on the first two principal components of [n, D] and their shares of the variance; None
    and None where nothing varies. The sign is fixed: the largest loading of each component is positive."""
    from sklearn.decomposition import PCA

    embeddings = embeddings.astype(np.float64)
    if np.ptp(embeddings, axis=0).max(initial=0) <= 1e-6:
        return None, None
    fitted = PCA(2, svd_solver="covariance_eigh").fit(embeddings)
    sign = np.sign(fitted.components_[[0, 1], np.abs(fitted.components_).argmax(1)])
    return fitted.transform(embeddings) * sign, fitted.explained_variance_ratio_


def embedding_map(points: np.ndarray, names: list[str], palette: dict[str, str], limits, shares) -> bytes:
    """A PNG of points [n, 2] in the colours of their names; names outside `palette` are grey and lie below.

    limits: ((x low, x high), (y low, y high)), the same for every panel of a run.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6, 2.6), layout="constrained")
    axes = figure.subplots()
    order = np.random.default_rng(0).permutation(len(points))  # else the last group covers the others
    grey = np.array([name not in palette for name in names], bool)[order]
    for rows, size in ((order[grey], 3), (order[~grey], 6)):
        colour = [palette.get(names[i], GREY) for i in rows]
        axes.scatter(*points[rows].T, s=size, c=colour, linewidths=0, alpha=0.8)
    axes.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[])
    axes.set_xlabel(f"PC 1 ({100 * shares[0]:.0f} % of variance)", fontsize=9)
    axes.set_ylabel(f"PC 2 ({100 * shares[1]:.0f} %)", fontsize=9)
    axes.spines[:].set_color("#cccccc")
    raw, out = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=170)
    Image.open(raw).convert("RGB").quantize(128).save(out, format="PNG", optimize=True)  # a third of the size
    return out.getvalue()
