"""Pictures of images and reconstructions."""

import pathlib

import matplotlib.figure
import numpy as np

# Colours of the channels w1..w6 in the published composites of RxRx1.
COLOURS = np.array([(19, 0, 249), (42, 255, 31), (255, 0, 25), (45, 255, 252), (250, 0, 253), (254, 255, 40)]) / 255


def composite(images: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[..., H, W, C] with C <= 6 to RGB [..., H, W, 3] in 0..1; low and high [C] are drawn black and at full colour."""
    share = np.clip((images - low) / np.maximum(high - low, 1e-6), 0, 1)
    return np.clip(share @ COLOURS[: images.shape[-1]], 0, 1)


def save_reconstructions(path: pathlib.Path, images, mask, prediction, titles: list[str]) -> None:
    """Writes a PNG with one column per site: the image, what the encoder saw, the reconstruction (visible patches kept
    as they are). Arrays [n, H, W, C]; mask 1 = hidden."""
    figure = matplotlib.figure.Figure(figsize=(1.9 * len(images), 6), layout="constrained")
    axes = figure.subplots(3, len(images), squeeze=False)
    low, high = np.quantile(images, [0.02, 0.998], axis=(0, 1, 2))
    for column, title in enumerate(titles):
        x, m, p = images[column], mask[column], prediction[column]
        hidden = m[..., :1].astype(bool)
        rows = (
            composite(x, low, high),
            np.where(hidden, 0.15, composite(x, low, high)),
            composite(np.where(hidden, p, x), low, high),
        )
        for row, picture in enumerate(rows):
            axis = axes[row][column]
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0][column].set_title(title, fontsize=6)
    for row, label in enumerate(("image", "visible", "reconstructed")):
        axes[row][0].set_ylabel(label)
    figure.savefig(path, dpi=110)
