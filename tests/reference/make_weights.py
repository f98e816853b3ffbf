"""Writes weights_openphenom.bin (an archive of torch.save, as published), weights_timm.safetensors and weights.npz:
random weights under published names, and what PyTorch makes of them in float64.

pip install torch==2.13.0 safetensors
cd tests && python -m reference.make_weights
"""

import pathlib

import numpy as np
import safetensors.torch
import torch
from reference.peers.torch_weights import ChannelAgnostic, Vit

FOLDER = pathlib.Path(__file__).parent / "stored" / "weights"
# width, depth, hidden, heads, patch, side, channels, channels that positions are stored for, final norm
ENCODER = (16, 2, 24, 2, 4, 3, 1, 5, False)
DECODER = (16, 1, 20, 3, 3)  # width, depth, hidden, side, channels
TIMM = dict(width=12, depth=2, hidden=20, heads=3, patch=4, side=3, channels=2, qk_norm=True, scaled=True)
PIXELS, CHANNELS, IMAGES, KEPT = 12, 3, 2, 7


def randomise(model, seed):
    """Every trained weight random, biases and norms too, so that each of them matters; tables of sines stay."""
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                around = float("norm" in name and name.endswith("weight"))
                weight.copy_(torch.tensor(random.normal(size=weight.shape) * 0.3 + around))
    return model


def models():
    return randomise(ChannelAgnostic(ENCODER, DECODER), 1), randomise(Vit(**TIMM), 2)


def inputs():
    """images [B, H, W, C] and noise [B, C*N]."""
    random = np.random.default_rng(0)
    images = random.normal(size=(IMAGES, PIXELS, PIXELS, CHANNELS)).astype(np.float32)
    return images, random.random((IMAGES, CHANNELS * 9)).astype(np.float32)


@torch.no_grad()
def outputs(phenom, vit, images, noise):
    """What both make of the same images, in float64; the timm one sees the first two channels."""
    phenom, vit = phenom.double().eval(), vit.double().eval()
    x = torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2)
    found = dict(
        tokens=phenom.encoder.vit_backbone(x),
        prediction=phenom(x, torch.tensor(noise), KEPT),
        timm_tokens=vit(x[:, : TIMM["channels"]]),
    )
    return {name: value.numpy().astype(np.float32) for name, value in found.items()}


def main():
    phenom, vit = models()
    torch.save({"state_dict": phenom.state_dict()}, FOLDER / "weights_openphenom.bin")
    safetensors.torch.save_file(vit.state_dict(), FOLDER / "weights_timm.safetensors")
    images, noise = inputs()
    np.savez_compressed(FOLDER / "weights.npz", images=images, noise=noise, **outputs(phenom, vit, images, noise))
    for path in sorted(FOLDER.glob("weights*")):
        print(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
