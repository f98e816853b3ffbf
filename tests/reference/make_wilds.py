"""Writes wilds.npz: how WILDS standardises an image (examples/transforms.py), and a stem of three channels repeated for
others as timm's `adapt_input_conv` does it, in PyTorch.

pip install torch==2.13.0
cd tests && python -m reference.make_wilds
"""

import pathlib

import numpy as np
import torch

PATH = pathlib.Path(__file__).parent / "stored" / "wilds.npz"


def standardise(image):
    """[H, W, C] uint8 -> float32, each channel by its mean and `torch.std`, 1 where that is 0."""
    x = torch.tensor(image).permute(2, 0, 1).float() / 255
    std = x.std(dim=(1, 2))
    std[std == 0] = 1
    return ((x - x.mean(dim=(1, 2))[:, None, None]) / std[:, None, None]).permute(1, 2, 0).numpy()


def repeated(weight, channels):
    """[D, C, k, k] -> [D, channels, k, k]."""
    weight = torch.tensor(weight)
    if channels == 1:
        return weight.sum(1, keepdim=True).numpy()
    stored = weight.shape[1]
    times = -(-channels // stored)
    return (weight.repeat(1, times, 1, 1)[:, :channels] * (stored / channels)).numpy()


def main():
    random = np.random.default_rng(0)
    images = np.clip(random.normal([9, 40, 3], [4, 30, 2], size=(4, 10, 10, 3)), 0, 255).astype(np.uint8)
    images[1, ..., 2] = 0
    images[2, ..., 0] = 77
    stem = random.normal(size=(4, 3, 7, 7)).astype(np.float32)
    found = {"images": images, "standardised": np.stack([standardise(image) for image in images]), "stem": stem}
    found |= {f"stem/{channels}": repeated(stem, channels) for channels in (1, 2, 5, 6)}
    np.savez_compressed(PATH, **found)
    print(f"{PATH} {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
