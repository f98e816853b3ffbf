"""Writes mae_CASE.npz: what PyTorch's masked autoencoders make of random weights and images, in float64.

pip install torch==2.13.0
cd tests && python -m reference.make_mae
"""

import json
import pathlib

import numpy as np
import torch
from reference.mae_cases import CASES
from reference.peers.torch_mae import MaskedAutoencoder

IMAGES = 2


def inputs(case, seed):
    """Weights, images [B, H, W, C] and noise [B, N] by name. Every weight is random, biases and norms too, so that each
    of them matters, and fits in float16."""
    random, s = np.random.default_rng(seed), CASES[case]
    weights = {}
    for name, w in MaskedAutoencoder(**s).state_dict().items():
        around = 1.0 if name.endswith("gamma") or ("norm" in name and name.endswith("weight")) else 0.0
        weights[f"weight/{name}"] = (random.normal(size=w.shape) * 0.3 + around).astype(np.float16)
    (rows, columns), patch, channels = s["grid"], s["patch"], s["channels"]
    images = random.normal(size=(IMAGES, rows * patch, columns * patch, channels)).astype(np.float32) * 1.5 + 0.5
    patches = rows * columns * (channels if s["style"]["by_channel"] else 1)
    return weights | {"images": images, "noise": random.random((IMAGES, patches)).astype(np.float32)}


def forward(case, arrays):
    """Values, and gradients of the sum of the losses, as float32 arrays by name."""
    model = MaskedAutoencoder(**CASES[case]).double()
    model.load_state_dict({k: torch.tensor(arrays[f"weight/{k}"]).double() for k in model.state_dict()})
    x = torch.tensor(arrays["images"]).double().permute(0, 3, 1, 2)
    prediction, mask, visible = model(x, torch.tensor(arrays["noise"]))
    tokens, blocks = model.vit.run(model.vit.tokens(x))
    found = dict(prediction=prediction, mask=mask, visible_embedding=visible, tokens=tokens, blocks=blocks)
    found |= dict(embedding=model.vit.pool(tokens), block_embeddings=model.vit.pool(blocks))
    losses = model.losses(x, prediction, mask)
    sum(losses.values()).mean().backward()
    found |= {f"loss/{name}": loss for name, loss in losses.items()}
    found |= {f"gradient/{k}": p.grad for k, p in model.named_parameters()}
    return {k: v.detach().numpy().astype(np.float32) for k, v in found.items()}


def packed(arrays):
    """All weights as one array and all gradients as another, which take half the room; `compare_mae.stored` unpacks."""
    found = {k: v for k, v in arrays.items() if not k.startswith(("weight/", "gradient/"))}
    names = [k.removeprefix("weight/") for k in arrays if k.startswith("weight/")]
    shapes = {name: arrays[f"weight/{name}"].shape for name in names}
    for kind in ("weight", "gradient"):
        found[kind] = np.concatenate([arrays[f"{kind}/{name}"].ravel() for name in names])
    return found | {"shapes": np.array(json.dumps(shapes))}


def main():
    for case in CASES:
        arrays = inputs(case, seed=0)
        path = pathlib.Path(__file__).parent / "stored" / f"mae_{case}.npz"
        np.savez_compressed(path, **packed(arrays | forward(case, arrays)))
        print(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
