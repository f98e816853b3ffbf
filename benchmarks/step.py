"""A train step here against the same step in PyTorch: `python benchmarks/step.py` prints one JSON object on its last
line. Needs `pip install torch==2.13.0`; without it only our own steps are timed.

Steps, each with AdamW, images already in memory, of a ViT on 256x256x6 images:
  supervised   cross entropy over 1,139 classes, all patches
  mae          masked autoencoder, 75 % of the patches masked, decoder 192 wide and 4 deep
  encoder      the encoder of mae alone, on its visible patches
Each is timed here, through the trainer's own step without augmentation, and for the first two in PyTorch, eager and
compiled, by one process after the other; ratios are of minima over the rounds. On a CPU seconds are processor time, in
which other programs do not count (`taskset -c 0` gives one core), and all of them run with transparent huge pages, as
`python -m rxrx_jax.main` does, unless --no-huge-pages.

On a GPU use --variant=L/16 --dtype=bfloat16 --minibatch=128: MFU is then printed too.
"""

import argparse
import json
import os
import subprocess
import sys
import time

KINDS = ("supervised", "mae", "encoder")
CLASSES, SIDE, CHANNELS, MASKED, DECODER = 1139, 256, 6, 0.75, (192, 4, 3)


def config_of(kind: str, model: str, minibatch: int, dtype: str, side: int) -> dict:
    """The nested dict of a step's config. Args: model, a ViT's variant ("S/16") or another model's name; side, pixels
    of an image."""
    from rxrx_jax.base.config import load

    values = load("mae_vit.py" if kind != "supervised" else "dann_vit.py")
    values["data"] |= {"name": "rxrx1", "builder": {}, "minibatch": minibatch, "unlabelled_minibatch": 0}
    values["model"] = {"name": "vit", "variant": model} if "/" in model else {"name": model}
    values["model"]["dtype"] = dtype
    values["augment"] = {"crop": side, "flips": False, "rot90": False, "intensity_jitter": 0.0}
    values["normalisation"] = "dataset"
    values["optim"] |= {"name": "adamw", "betas": (0.9, 0.95), "weight_decay": 0.05, "clip_norm": 0.0}
    if kind == "supervised":
        values["adapt"] = {"name": "erm"}
    else:
        values["task"] |= {"mask_ratio": MASKED, "decoder": DECODER}
    return values


def here():
    """A mesh of this machine's devices."""
    from rxrx_jax.base import sharding

    return sharding.make_mesh()


def build(kind: str, model: str, minibatch: int, dtype: str, side: int = SIDE):
    """(rxrx_jax.training.step.Step, its source of noise) on the mesh in force; nothing is compiled or allocated."""
    from rxrx_jax.base.config import Config
    from rxrx_jax.data import noise
    from rxrx_jax.training.step import make_step

    config = Config(config_of(kind, model, minibatch, dtype, side))
    source = noise.make(config)
    return make_step(config, source, here(), 1000), source


def running(made, source):
    """step(compiled, state) -> (state, metrics), again and again on one minibatch of noise that is on the device."""
    import numpy as np

    from rxrx_jax.base import sharding

    host = next(source.minibatches(0, 1))
    host["train"]["stop"] = np.zeros(len(host["train"]["label"]), bool)
    minibatch = sharding.to_device(host, here())
    constants = sharding.to_every_device((source.constants, made.keys), here())
    return lambda compiled, state: compiled(state, minibatch, *constants)


def ours(kind: str, variant: str, minibatch: int, dtype: str):
    """(one step as a function that waits for its end, model FLOPs per image, peak FLOPs of the chip or None)."""
    import jax
    import numpy as np

    from rxrx_jax.training.speed import flops

    with jax.set_mesh(here()):
        made, source = build(kind, variant, minibatch, dtype)
        one = running(made, source)
        state = made.initialise(made.keys["init"])
        if kind == "encoder":
            images = np.random.default_rng(0).integers(0, 256, (minibatch, SIDE, SIDE, CHANNELS), dtype=np.uint8)
            return encoder_alone(made, jax.numpy.asarray(images)), 0.0, None
        compiled = made.compile()

    def step():
        nonlocal state
        state, found = one(compiled, state)
        return float(np.asarray(found["loss"]))

    return step, made.flops_per_image, flops.peak()


def encoder_alone(made, images):
    """Forward and backward of the encoder on the patches that the masked autoencoder sees."""
    import jax
    import jax.numpy as jnp

    task = made.task
    images = images.astype(jnp.float32) / 64
    tokens = jax.eval_shape(task.module.patches, images).shape[1]
    noise = jax.random.uniform(jax.random.key(0), (len(images), tokens))
    keep = jnp.argsort(noise, axis=1)[:, : int(tokens * (1 - MASKED))]
    params = made.initialise(made.keys["init"]).params["encoder"]

    @jax.jit
    def gradient(params, images, keep):
        loss = lambda p: jnp.square(task.encoder.apply({"params": p}, images, keep=keep)[0]).mean()  # noqa: E731
        return jax.grad(loss)(params)

    def step():
        jax.block_until_ready(gradient(params, images, keep))
        return 0.0  # no loss to wait for

    return step


def pytorch(kind: str, model: str, minibatch: int, dtype: str, backend: str | None, side: int = SIDE):
    """One step in PyTorch, its fused attention and fused AdamW, as a function that waits for its end with float().

    Args: model and side, as `config_of`; backend, of torch.compile, None does not compile.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # where autocast leaves float32
    torch.backends.cudnn.benchmark = True
    module = torch_module(kind, model, side).to(device)
    layout = torch.contiguous_format if "/" in model else torch.channels_last
    module = module.to(memory_format=layout)
    optimiser = torch.optim.AdamW(module.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.05, fused=True)
    loss_of = torch.compile(module, backend=backend) if backend else module
    images = torch.randint(0, 256, (minibatch, CHANNELS, side, side), dtype=torch.uint8, device=device)
    images = images.to(memory_format=layout)
    labels = torch.randint(0, CLASSES, (minibatch,), device=device)
    half = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def step():
        optimiser.zero_grad()
        x = (images.float() - 127.5) / 74
        with half:
            loss = loss_of(x, labels)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def torch_module(kind: str, model: str, side: int):
    from common.torch_vit import MaskedAutoencoder, Supervised

    from rxrx_jax.models.vit import parse_variant

    if "/" not in model:
        from common.torch_convnet import Convolutional

        return Convolutional(model, CHANNELS, CLASSES)
    size, patch = parse_variant(model)
    if kind == "supervised":
        return Supervised(size, patch, side, CHANNELS, CLASSES)
    return MaskedAutoencoder(size, patch, side, CHANNELS, MASKED, DECODER)


def work(name: str, variant: str, minibatch: int, dtype: str, rounds: int) -> None:
    """A process of its own: prints the seconds of `rounds` steps, after two."""
    who, kind = name.split(":")
    about = [0.0, None]
    if who == "ours":
        step, *about = ours(kind, variant, minibatch, dtype)
    else:
        step = pytorch(kind, variant, minibatch, dtype, "inductor" if who == "compiled" else None)
    seconds, clock = [], time.perf_counter if on_gpu(who) else time.process_time
    for _ in range(2 + rounds):
        begin = clock()
        float(step())
        seconds.append(clock() - begin)
    print(json.dumps({"seconds": seconds[2:], "about": about}))


def on_gpu(who: str) -> bool:
    if who == "ours":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available()


def has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        print("no PyTorch here (pip install torch==2.13.0): only our own steps are timed", file=sys.stderr)
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--minibatch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--no-huge-pages", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    settings = flags.variant, flags.minibatch, flags.dtype
    if flags.worker:
        return work(flags.worker, *settings, flags.rounds)
    environment = dict(os.environ)
    if not flags.no_huge_pages:
        environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    theirs = [f"{who}:{kind}" for who in ("eager", "compiled") for kind in ("supervised", "mae")] if has_torch() else []
    command = [sys.executable, __file__, *(f"--{k}={v}" for k, v in zip(("variant", "minibatch", "dtype"), settings))]
    command.append(f"--rounds={flags.rounds}")
    seconds, about = {}, {}
    names = [name for kind in KINDS for name in (f"ours:{kind}", *(n for n in theirs if n.endswith(f":{kind}")))]
    for name in names:  # one at a time: another's memory would take the huge pages
        process = subprocess.run([*command, f"--worker={name}"], env=environment, stdout=subprocess.PIPE, text=True)
        if process.returncode:
            sys.exit(f"error: the process for {name} stopped; its message is above")
        found = json.loads(process.stdout.splitlines()[-1])
        seconds[name], about[name] = found["seconds"], found["about"]
        print(f"{name}: {min(seconds[name]):.3f} to {max(seconds[name]):.3f} s", file=sys.stderr)
    print(json.dumps(report(settings, seconds, about, environment)))


def report(settings, seconds: dict, about: dict, environment: dict) -> dict:
    """The figures by name. Ratios are of minima: above 1, ours is slower."""
    best = {name: min(values) for name, values in seconds.items()}
    found = {"variant": settings[0], "minibatch": settings[1], "dtype": settings[2]}
    found |= {"cores": len(os.sched_getaffinity(0)), "glibc_tunables": environment.get("GLIBC_TUNABLES", "")}
    found["seconds"] = {name: [round(best[name], 4), round(max(values), 4)] for name, values in seconds.items()}
    for kind in ("supervised", "mae"):
        for who in ("eager", "compiled"):
            if f"{who}:{kind}" in best:
                found[f"{kind}_over_pytorch_{who}"] = round(best[f"ours:{kind}"] / best[f"{who}:{kind}"], 3)
        flops, peak = about[f"ours:{kind}"]
        found[f"{kind}_teraflops"] = round(flops * settings[1] / best[f"ours:{kind}"] / 1e12, 3)
        if peak:
            found[f"{kind}_mfu"] = round(flops * settings[1] / best[f"ours:{kind}"] / peak, 3)
    found["mae_over_supervised"] = round(best["ours:mae"] / best["ours:supervised"], 3)
    found["encoder_over_supervised"] = round(best["ours:encoder"] / best["ours:supervised"], 3)
    return found


if __name__ == "__main__":
    main()
