"""Writes mae.npz: what the PyTorch masked autoencoder makes of random weights and images, in float64.

pip install torch==2.13.0
cd tests && python -m reference.make_mae
"""

import pathlib

import numpy as np
import torch
from reference.torch_mae import MaskedAutoencoder

PATH = pathlib.Path(__file__).with_name("mae.npz")
# Depths, widths, heads and sides all differ, so that no two can be swapped unseen.
SETTINGS = dict(encoder=(16, 2, 24, 2), decoder=(12, 1, 20, 3), patch=4, channels=2, ratio=0.7)
HEIGHT, WIDTH, IMAGES = 12, 16, 3


def random_weights(model, seed):
    """Every weight random, biases and norms too, so that each of them matters."""
    random = np.random.default_rng(seed)
    return {
        name: (random.normal(size=w.shape) * 0.3 + ("norm" in name and name.endswith("weight"))).astype(np.float32)
        for name, w in model.state_dict().items()
    }


def load(model, weights):
    dtype = next(model.parameters()).dtype
    model.load_state_dict({k: torch.tensor(np.array(v)).to(dtype) for k, v in weights.items()})


def forward(model, images, noise):
    """Values and gradients for images [B, H, W, C] and noise [B, N], as float32 arrays by name."""
    dtype = next(model.parameters()).dtype
    x = torch.tensor(np.array(images)).to(dtype).permute(0, 3, 1, 2)
    prediction, mask, visible = model(x, torch.tensor(np.array(noise)))
    tokens, embedding = model.encode(x)
    found = dict(prediction=prediction, mask=mask, visible_embedding=visible, tokens=tokens, embedding=embedding)
    found = {name: value.detach() for name, value in found.items()}
    for normalise in (False, True):
        loss = model.loss(x, prediction, mask, normalise)
        found[f"loss_{normalise}"] = loss.detach()
        model.zero_grad()
        loss.mean().backward(retain_graph=True)
        found |= {f"gradient_{normalise}/{k}": p.grad.clone() for k, p in model.named_parameters()}
    return {k: v.numpy().astype(np.float32) for k, v in found.items()}


def main():
    model = MaskedAutoencoder(**SETTINGS).double()
    random = np.random.default_rng(0)
    weights = random_weights(model, seed=1)
    images = random.normal(size=(IMAGES, HEIGHT, WIDTH, SETTINGS["channels"])).astype(np.float32) * 1.5 + 0.5
    noise = random.random((IMAGES, HEIGHT * WIDTH // SETTINGS["patch"] ** 2)).astype(np.float32)
    load(model, weights)
    found = forward(model, images, noise)
    np.savez_compressed(PATH, images=images, noise=noise, **{f"weight/{k}": w for k, w in weights.items()}, **found)
    print(f"{PATH} {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
