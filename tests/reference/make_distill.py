"""Writes distill.npz: three steps of self-distillation in PyTorch from random weights and images, in float64.

pip install torch==2.13.0
cd tests && python -m reference.make_distill
"""

import pathlib

import numpy as np
import torch
from reference.peers.torch_distill import Distillation, Network

PATH = pathlib.Path(__file__).parent / "stored" / "distill.npz"
SIZES = dict(pixels=12, width=5, hidden=7, bottleneck=4, prototypes=6)
SHARES = (0.5, 0.3, 0.0, 0.2)  # of four domains, one of them without training data
SETTINGS = dict(
    momentum=0.8,
    temperatures=(0.3, 0.5),
    warmup=0.4,
    student_temperature=0.2,
    centre_momentum=0.7,
)
TOTAL, STEPS, PAIRS, RATE = 5, 3, 4, 0.1


def draw(seed):
    """Weights by name, images [STEPS, 2*PAIRS, pixels] in pairs of rows, domains [STEPS, 2*PAIRS], first centres."""
    random = np.random.default_rng(seed)
    weights = {k: random.normal(size=w.shape).astype(np.float32) for k, w in Network(**SIZES).state_dict().items()}
    images = random.normal(size=(STEPS, 2 * PAIRS, SIZES["pixels"])).astype(np.float32)
    domains = random.choice([0, 1, 3], size=(STEPS, 2 * PAIRS), p=[0.5, 0.25, 0.25])
    return weights, images, domains, random.normal(size=(len(SHARES), SIZES["prototypes"])).astype(np.float32) * 0.1


def run(weights, images, domains, centre, shares, dtype=torch.float64):
    """Measures of every step and, after it, student, teacher and centre: float32 arrays by name."""
    student = Network(**SIZES).to(dtype)
    student.load_state_dict({k: torch.tensor(np.array(v)).to(dtype) for k, v in weights.items()})
    centre = torch.tensor(np.array(centre if shares else centre[:1])).to(dtype)
    model = Distillation(student, centre, shares, **SETTINGS, total=TOTAL, rate=RATE)
    found = {}
    for step in range(STEPS):
        x, d = torch.tensor(np.array(images[step])).to(dtype), torch.tensor(np.array(domains[step]))
        measures = model.step(step, (x[0::2], x[1::2]), (d[0::2], d[1::2]))
        found |= {f"{step}/{k}": v for k, v in measures.items()} | {f"{step}/centre": model.centre.clone()}
        found |= {f"{step}/student/{k}": v.clone() for k, v in student.state_dict().items()}
        found |= {f"{step}/teacher/{k}": v.clone() for k, v in model.teacher.state_dict().items()}
    return {k: v.numpy().astype(np.float32) for k, v in found.items()}


def main():
    weights, images, domains, centre = draw(seed=0)
    found = {f"experiment/{k}": v for k, v in run(weights, images, domains, centre, SHARES).items()}
    found |= {f"all/{k}": v for k, v in run(weights, images, domains, centre, ()).items()}
    weights = {f"weight/{k}": v for k, v in weights.items()}
    np.savez_compressed(PATH, images=images, domains=domains, centre=centre, **weights, **found)
    print(f"{PATH} {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
