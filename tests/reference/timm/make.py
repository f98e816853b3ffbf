"""Writes timm.npz: the names and shapes of timm's own models, and their embeddings with the parameters of cases.py.

pip install torch==2.13.0 torchvision timm==1.0.31
cd tests && PYTHONPATH=tools:.. python -m reference.timm.make
"""

import json
import pathlib

import numpy as np
from reference.timm import cases

from rxrx_jax.weights import to_timm

FOLDER = pathlib.Path(__file__).parents[1] / "stored"


def model(name: str):
    """timm's model of a case, with its parameters."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    encoder, params = cases.encoder(name), cases.parameters(name)
    made = VisionTransformer(num_classes=0, **to_timm.config(encoder, cases.ABOUT)["model_args"])
    state = {key: torch.tensor(value) for key, value in to_timm.tensors(encoder, params, cases.CROP).items()}
    made.load_state_dict(state, strict=True)
    return made.eval().double()


def embed(name: str) -> np.ndarray:
    """[2, D], by timm."""
    import torch

    with torch.no_grad():
        return model(name)(torch.tensor(cases.images()).double().permute(0, 3, 1, 2)).numpy()


def main():
    shapes = {n: {key: list(value.shape) for key, value in model(n).state_dict().items()} for n in cases.STYLES}
    digests = {name: cases.digest(name) for name in cases.STYLES}
    found = {name: embed(name) for name in cases.STYLES}
    np.savez_compressed(FOLDER / "timm.npz", shapes=json.dumps(shapes), digests=json.dumps(digests), **found)


if __name__ == "__main__":
    main()
