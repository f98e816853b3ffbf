"""The optimisers, schedules and layer-wise learning rates in PyTorch, to compare rxrx_jax.training.optim with.

Parameters are a flat dict by name: `embed.kernel`, `class_token`, `blocks.0.qkv.kernel`, ..., `head.kernel`.
"""

import math

import torch


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al. 2023, arXiv 2302.06675."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                c = beta1 * m + (1 - beta1) * p.grad
                p -= group["lr"] * (torch.sign(c) + group["weight_decay"] * p)
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


def layer_of(name, depth):
    """0 for the embedding, i + 1 for block i, depth + 1 for what follows."""
    if name in ("embed.kernel", "embed.bias", "class_token", "positions"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1


def parameter_groups(params, lr, weight_decay, layer_decay, depth, every=False):
    """One group for each parameter, with its own peak learning rate; only kernels decay, or `every` one."""
    return [
        {
            "params": [p],
            "lr": lr * layer_decay ** (depth + 1 - layer_of(name, depth)),
            "weight_decay": weight_decay if every or name.endswith("kernel") else 0.0,
        }
        for name, p in params.items()
    ]


def make_optimiser(name, groups, betas, momentum):
    if name == "adamw":
        return torch.optim.AdamW(groups, betas=betas)
    if name == "adam_l2":
        return torch.optim.Adam(groups, betas=betas)
    if name == "lion":
        return Lion(groups, lr=0.0, betas=betas, weight_decay=0.0)
    return torch.optim.SGD(groups, momentum=momentum, nesterov=True)


def make_schedule(name, optimiser, warmup, total_steps):
    if name == "onecycle":
        peaks = [group["lr"] for group in optimiser.param_groups]
        share = warmup / total_steps
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, peaks, total_steps, pct_start=share, anneal_strategy="cos", cycle_momentum=False
        )

    def factor(step):
        if step < warmup:
            return step / warmup
        return (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def train(weights, gradients, depth, optimiser, schedule, layer_decay, settings):
    """The parameters (numpy, float64) after one update for each of `gradients`, and the rates of the last group."""
    params = {name: torch.tensor(w, dtype=torch.float64, requires_grad=True) for name, w in weights.items()}
    every = optimiser == "adam_l2"  # the defaults of torch.optim.Adam(params, weight_decay=...)
    groups = parameter_groups(params, settings["lr"], settings["weight_decay"], layer_decay, depth, every)
    optimiser = make_optimiser(optimiser, groups, settings["betas"], settings["momentum"])
    schedule = make_schedule(schedule, optimiser, settings["warmup_steps"], settings["total_steps"])
    rates = []
    for gradient in gradients:
        for name, p in params.items():
            p.grad = torch.tensor(gradient[name], dtype=torch.float64)
        if settings["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(params.values(), settings["clip_norm"])
        rates.append(optimiser.param_groups[-1]["lr"])
        optimiser.step()
        schedule.step()
    return {name: p.detach().numpy() for name, p in params.items()}, rates
