"""Speed of a step of a generative flow network: `python benchmarks/evaluation/generate.py [--rounds=3]`, a JSON line.
Needs `pip install torch==2.13.0`.

A step samples a minibatch of trajectories, computes trajectory balance and updates the parameters. Here it is the
trainer's own compiled program; beside it the same policy as a plain PyTorch eager loop, which keeps the log
probabilities of its moves for the loss, as released codes do, and stops when all trajectories are done. Both draw
preferences, encode them and the states in the same way, with Adam. Times are processor time, which other work on the
machine disturbs less, the best of the rounds, which alternate. The first policies of the grid rarely stop, so that
trajectories are about as long as those of a trained one.

--gfnx=PYTHON: also gfnx (pip install gfnx==0.0.1) on the grid, by the interpreter of an environment of its own, as it
pins numpy: `gfnx_grid.py`.
"""

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError

STOP_BIAS = -4.0
CASES = {"grid": "mogfn.py:side=32", "strings": "mogfn.py:strings"}


def ours(argument: str, minibatch: int, width: int):
    """(a function that takes so many steps, moves of the longest trajectory)."""
    import jax

    from rxrx_jax.base import sharding
    from rxrx_jax.base.config import Config, load
    from rxrx_jax.data.batch import TRAIN
    from rxrx_jax.data.source import make_source
    from rxrx_jax.training.step import make_step

    values = load(argument)
    values["data"]["minibatch"] = minibatch
    values["model"]["width"] = width
    values["model"]["stop_bias"] = STOP_BIAS * (values["task"]["environment"] == "grid")
    source, mesh = make_source(Config(values), None), sharding.make_mesh()
    with jax.set_mesh(mesh):
        step = make_step(Config(values), source, mesh, 1000)
        compiled, state = step.compile(), [step.initialise(step.keys["init"])]

    def run(steps: int) -> None:
        for minibatch in source.minibatches(0, steps):
            given = minibatch | {TRAIN: minibatch[TRAIN] | {"stop": np.zeros(source.size, bool)}}
            state[0], found = compiled(state[0], sharding.to_device(given, mesh), source.constants, step.keys)
        jax.block_until_ready(state[0])
        assert np.isfinite(found["loss"])

    return run, step.task.environment.longest


def eager(argument: str, minibatch: int, width: int):
    """A function that takes so many steps of the same in PyTorch."""
    import torch

    from rxrx_jax.base.config import load

    values = load(argument)
    task, model, strings = values["task"], values["model"], "strings" in argument
    bins = task["preference_bins"]
    if strings:
        letters, length = task["letters"], task["length"]
        actions, longest, inputs = len(letters), length, length * (len(letters) + 1)
        codes = [letters.index(motif) for motif in task["objectives"]]
    else:
        side = task["side"]
        actions, longest, inputs = 3, 2 * side - 1, 2 * side
    layers = torch.nn
    of_state, of_condition = layers.Linear(inputs, width), layers.Linear(2 * bins, width, bias=False)
    hidden = [layers.Linear(width, width) for _ in range(model["depth"] - 1)]
    out, small = layers.Linear(width, actions), model["log_z_width"]
    log_z = layers.Sequential(layers.Linear(2 * bins, small), layers.LeakyReLU(0.01), layers.Linear(small, small),
                              layers.LeakyReLU(0.01), layers.Linear(small, 1))  # fmt: skip
    policy = layers.ModuleList([of_state, of_condition, *hidden, out])
    optimiser = torch.optim.Adam([{"params": policy.parameters()}, {"params": log_z.parameters(), "lr": 2e-2}], lr=2e-3)
    stop_bias = torch.tensor([0.0, 0.0, STOP_BIAS])
    edges, beta = torch.linspace(0, 1, bins), task["exponents"][0]
    activation, one_hot = (
        functools.partial(layers.functional.leaky_relu, negative_slope=0.01),
        layers.functional.one_hot,
    )

    def objectives(state):
        if strings:
            return torch.stack([(state == code + 1).sum(1) / length for code in codes], 1)
        x, y = (state / (side - 1)).unbind(1)
        a, b = 15 * x - 5, 15 * y
        square = (b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6) ** 2
        branin = 1 - (square + 10 * (1 - 1 / (8 * np.pi)) * torch.cos(a) + 10) / 308.1291
        ratio = (2300 * x**3 + 1900 * x**2 + 2092 * x + 60) / (100 * x**3 + 500 * x**2 + 4 * x + 20)
        currin = (1 - torch.exp(-1 / (2 * y).clamp_min(1e-6))) * ratio / 13.798722
        return torch.stack([branin, currin], 1).clamp(0, 1)

    def step() -> None:
        w = torch.distributions.Dirichlet(torch.ones(2)).sample((minibatch,))
        condition = ((w[..., None] - edges).clamp(0, 1 / (bins - 1)) * (bins - 1)).flatten(1)
        given = of_condition(condition)
        state = torch.zeros(minibatch, length if strings else 2, dtype=torch.long)
        done, balance = torch.zeros(minibatch, dtype=torch.bool), log_z(condition)[:, 0]
        for move in range(longest):
            values = one_hot(state, len(letters) + 1 if strings else side).flatten(1).float()
            x = of_state(values) + given
            for layer in hidden:
                x = layer(activation(x))
            logits = out(activation(x))
            if not strings:
                legal = torch.cat([state < side - 1, torch.ones(minibatch, 1, dtype=torch.bool)], 1)
                logits = (logits + stop_bias).masked_fill(~legal, -1e9)
            logs = logits.log_softmax(1)
            random = torch.rand(minibatch, 1) < task["random"]
            explored = torch.where(random, torch.where(logits > -1e8, 0.0, -1e9), logits.detach())
            action = torch.distributions.Categorical(logits=explored).sample()
            balance = balance + torch.where(done, 0.0, logs.gather(1, action[:, None])[:, 0])
            if strings:
                state[:, move] = action + 1
                continue
            stops = action == 2
            moved = state + one_hot(action, 3)[:, :2] * (~done & ~stops)[:, None]
            parents = torch.where(stops, 1, (moved > 0).sum(1))
            balance = balance + torch.where(done, 0.0, parents.clamp_min(1).float().log())  # - log P_B
            state, done = moved, done | stops
            if done.all():
                break
        reward = (w * objectives(state)).sum(1).clamp_min(1e-10).log()
        loss = (balance - (beta * reward).clamp_min(task["log_reward_floor"])).square().mean()
        optimiser.zero_grad()
        loss.backward()
        layers.utils.clip_grad_norm_([*policy.parameters(), *log_z.parameters()], 10.0)
        optimiser.step()
        assert torch.isfinite(loss)

    return lambda steps: [step() for _ in range(steps)]


def measure(argument: str, minibatch: int, width: int, rounds: int, steps: int) -> dict:
    """Milliseconds of processor time per step, and their ratio."""
    (jitted, longest), plain = ours(argument, minibatch, width), eager(argument, minibatch, width)
    ways, best = {"rxrx_jax": (jitted, steps), "torch": (plain, max(steps // 5, 1))}, {}
    for run, _ in ways.values():
        run(1)
    for _ in range(rounds):
        for name, (run, count) in ways.items():
            start = time.process_time()
            run(count)
            best[name] = min(best.get(name, np.inf), (time.process_time() - start) / count)
    return {
        **{f"{name}_ms": round(1e3 * best[name], 2) for name in best},
        "times_faster": round(best["torch"] / best["rxrx_jax"], 1),
        "trajectories_per_second": round(minibatch / best["rxrx_jax"]),
        "moves": longest,
    }


def gfnx(python: str, case: dict, minibatch: int, width: int, rounds: int, steps: int) -> dict:
    """Milliseconds of a step of gfnx on the grid of `case`, and how many times faster ours is."""
    from rxrx_jax.base.config import load

    side, script = load(CASES["grid"])["task"]["side"], pathlib.Path(__file__).with_name("gfnx_grid.py")
    given = map(str, (side, minibatch, width, STOP_BIAS, rounds, steps))
    done = subprocess.run([python, script.resolve(), *given], capture_output=True, text=True, cwd=script.parent)
    if done.returncode:
        raise UserError(f"--gfnx={python}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {"gfnx_ms": found["ms"], "gfnx_times_faster": round(found["ms"] / case["rxrx_jax_ms"], 1)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minibatch", type=int, default=128, help="trajectories per step (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="of the policy's two layers (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="per round, of ours (default: %(default)s)")
    parser.add_argument("--gfnx", metavar="PYTHON", help="of an environment with gfnx")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    found = {
        name: measure(argument, args.minibatch, args.width, args.rounds, args.steps) for name, argument in CASES.items()
    }
    if args.gfnx:
        sizes = args.minibatch, args.width, args.rounds, args.steps
        found["grid"] |= gfnx(args.gfnx, found["grid"], *sizes)
    print(json.dumps({"minibatch": args.minibatch, "width": args.width} | found))


if __name__ == "__main__":
    sys.exit(command.run(main))
