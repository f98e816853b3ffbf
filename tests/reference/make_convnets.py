"""Writes resnet.npz and densenet.npz: what the PyTorch networks make of random weights and images, in float64.

pip install torch==2.13.0
cd tests && python -m reference.make_convnets
"""

import pathlib

import numpy as np
import torch
from reference.peers import torch_convnets

FOLDER = pathlib.Path(__file__).parent / "stored"
# Narrow and shallow; sides are odd in one place and even in another on the way, so that padding matters.
MODELS = {
    "resnet": (torch_convnets.ResNet, dict(channels=2, depths=(2, 1), width=3)),
    "densenet": (torch_convnets.DenseNet, dict(channels=2, depths=(2, 3), growth=3, width=5)),
}
IMAGES = (3, 19, 14, 2)


def make(name):
    model, settings = MODELS[name]
    return model(**settings).double()


def random_weights(model, seed):
    """Every tensor random, those of norms around 1 or 0, so that each of them matters."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, w in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = random.normal(size=w.shape)
        if w.ndim == 4:
            noise /= np.sqrt(w[0].numel())
        elif name.endswith("running_var"):
            noise = 1 + 0.5 * np.tanh(noise)
        else:
            noise = 0.3 * noise + name.endswith("weight")
        weights[name] = noise.astype(np.float32)
    return weights


def load(model, weights):
    tensors = {k: torch.tensor(np.array(v), dtype=torch.float64) for k, v in weights.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)


def forward(model, weights, images):
    """Outputs, gradients and new running statistics for images [B, H, W, C], as float32 arrays by name: channels last.

    The running variances are those that moving by the BIASED variance of the minibatch gives (PyTorch moves them by
    the unbiased one, n / (n - 1) times as large).
    """
    x = torch.tensor(np.array(images), dtype=torch.float64).permute(0, 3, 1, 2)
    counts, found = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, args, name=name: counts.update({name: args[0][:, 0].numel()}))
    for mode in ("train", "eval"):
        load(model, weights)
        model.train(mode == "train")
        outputs = model(x)
        for name, value in outputs.items():
            found[f"{mode}/out/{name}"] = value.permute(0, 2, 3, 1) if value.ndim == 4 else value
        model.zero_grad()
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in outputs["embedding"].shape)
        (outputs["embedding"] * torch.sin(rows[:, None] + columns)).sum().backward()
        found |= {f"{mode}/gradient/{name}": p.grad.clone() for name, p in model.named_parameters()}
        if mode == "train":
            for name, n in counts.items():
                module = model.get_submodule(name)
                kept = 0.9 * torch.tensor(weights[f"{name}.running_var"], dtype=torch.float64)
                found[f"train/statistics/{name}.running_mean"] = module.running_mean.clone()
                found[f"train/statistics/{name}.running_var"] = kept + (module.running_var - kept) * (n - 1) / n
    return {k: v.detach().numpy().astype(np.float32) for k, v in found.items()}


def main():
    for name in MODELS:
        model = make(name)
        weights = random_weights(model, seed=1)
        images = np.random.default_rng(0).normal(0.5, 1.5, size=IMAGES).astype(np.float32)
        path = FOLDER / f"{name}.npz"
        stored = {f"weight/{k}": w for k, w in weights.items()} | forward(model, weights, images)
        np.savez_compressed(path, images=images, **stored)
        print(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
