"""Pictures: composites, reconstructions, colours, and the places of points on a map."""

import colorsys
import importlib.util
import warnings

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


# Okabe and Ito's colours, which the colour-blind can tell apart, less those too light or dark for dots on either theme.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8E6BBF", "#8F8F00")


def colours(names) -> dict[str, str]:
    """A colour for each name; with more than eight, of twenty hues, light and dark in turn, that then repeat."""
    names = list(names)
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE))
    hues = [colorsys.hls_to_rgb(i / 20, (0.4, 0.65)[i % 2], 0.7) for i in range(20)]
    palette = ["#" + bytes(round(255 * x) for x in hue).hex() for hue in hues]
    return {name: palette[i % 20] for i, name in enumerate(names)}


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


def tsne(embeddings: np.ndarray) -> np.ndarray | None:
    """Places [n, 2] by t-SNE (van der Maaten and Hinton 2008) of [n, D], begun from the principal components; None for
    fewer than ten. In one thread and from a fixed seed, so that it is the same each time."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(embeddings) < 10:
        return None
    with threadpool_limits(1):
        perplexity = min(30, (len(embeddings) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(embeddings)


def has_umap() -> bool:
    """Whether umap-learn, of the extra [umap], is installed."""
    return importlib.util.find_spec("umap") is not None


def umap(embeddings: np.ndarray) -> np.ndarray | None:
    """Places [n, 2] by UMAP (McInnes et al. 2018, arXiv 1802.03426) of [n, D], from a fixed seed and so in one thread;
    None for fewer than ten."""
    if len(embeddings) < 10:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that it could use, and of groups that no neighbour joins
        from umap import UMAP

        made = UMAP(n_neighbors=min(15, len(embeddings) - 1), random_state=0, n_jobs=1)
        return np.asarray(made.fit_transform(embeddings.astype(np.float32)))


def neighbour_map(embeddings: np.ndarray) -> tuple[str, np.ndarray | None]:
    """What a map by neighbours is called, UMAP where that is installed and else t-SNE, and its places, as they give
    them."""
    return ("UMAP", umap(embeddings)) if has_umap() else ("t-SNE", tsne(embeddings))
