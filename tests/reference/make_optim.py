"""Writes optim.npz: what PyTorch's optimisers make of random parameters and gradients in ten steps, in float64.

pip install torch==2.13.0
cd tests && python -m reference.make_optim
"""

import itertools
import pathlib

import numpy as np
import torch
from reference.peers import torch_optim

PATH = pathlib.Path(__file__).parent / "stored" / "optim.npz"
SETTINGS = dict(lr=0.05, betas=(0.9, 0.95), momentum=0.9, weight_decay=0.1, warmup_steps=3, total_steps=11)
DEPTH, STEPS = 3, 10
SHAPES = {"embed.kernel": (4, 3), "embed.bias": (3,), "class_token": (1, 1, 3), "positions": (1, 5, 3)}
for i in range(DEPTH):
    SHAPES |= {f"blocks.{i}.qkv.kernel": (3, 6), f"blocks.{i}.qkv.bias": (6,), f"blocks.{i}.norm1.scale": (3,)}
SHAPES |= {"norm.scale": (3,), "head.kernel": (3, 2)}
# optimiser, schedule, layer decay, norm to clip to: gradients have norms of 4 to 20, so that some steps are clipped.
CASES = [
    (name, schedule, layer_decay, clip)
    for name in ("adamw", "adam_l2", "lion", "sgd")
    for schedule, layer_decay, clip in (("cosine", 1.0, 0.0), ("onecycle", 1.0, 8.0), ("cosine", 0.7, 8.0))
]


def draw(seed, scale=1.0):
    random = np.random.default_rng(seed)
    return {name: (scale * random.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


def gradients_of(seed):
    return [draw(seed + step, scale=0.4 * (1 + step % 5)) for step in range(STEPS)]


def one_cycle_rates(peak, share, total_steps):
    """[total_steps] learning rates of torch.optim.lr_scheduler.OneCycleLR with its own default factors."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peak, total_steps, pct_start=share, anneal_strategy="cos", cycle_momentum=False
    )
    rates = []
    for _ in range(total_steps):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    return np.array(rates)


def main():
    weights, gradients = draw(0), gradients_of(1)
    found = {f"weight/{name}": w for name, w in weights.items()}
    found |= {f"gradient/{name}": np.stack([g[name] for g in gradients]) for name in weights}
    for case in CASES:
        name, schedule, layer_decay, clip = case
        settings = SETTINGS | {"clip_norm": clip}
        after, rates = torch_optim.train(weights, gradients, DEPTH, name, schedule, layer_decay, settings)
        found |= {f"{case}/{key}": value for key, value in after.items()} | {f"{case}/rates": np.array(rates)}
    for total, percent in itertools.product((40, 200), (10.0, 25.0)):
        found[f"one_cycle/{total}/{percent}"] = one_cycle_rates(0.2, percent / 100, total)
    np.savez_compressed(PATH, **found)
    print(f"{PATH} {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
