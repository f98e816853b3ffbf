"""One search for objects of several objectives, for as many reward calls as every other: a run of the tables mogfn.

    python -m rxrx_jax.searches --config=rxrx_jax/searches.py:method=nsga2,on=strings --workdir=DIR

on: grid, strings, fragments or map. method: mogfn, one policy for all preferences; reinforce, MOReinforce; mean, a
policy for the mean preference alone; each, a policy for each preference, which share the calls; random, the untrained
policy; search, the best of all that it makes in as many calls; nsga2, a genetic algorithm; library, the best of the
molecules that the towers of a map were trained on.

The config has the stage that policies are trained by, with its steps and minibatch. All are judged for the same
preferences by the weighted sum, whatever a policy was trained for. A policy is asked for so many samples of each
preference; of a search, which has none, the best of all that it scored are taken, and it may score as many more. Of a
map, init.path is a run of `rxrx_jax.tower_ensembles`. The workdir gets config.json, metrics.jsonl, front.json and
samples.json.
"""

import pathlib
import sys

import jax
import ml_collections
import numpy as np

from rxrx_jax.base import command, config, config_flag
from rxrx_jax.base.config import Config, parse_arguments
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.source import make_source
from rxrx_jax.evaluate import pareto as evaluator
from rxrx_jax.generate import genetic, nsga2, pareto, scalarise
from rxrx_jax.generate.environments.fragments import Fragments
from rxrx_jax.generate.environments.grid import Grid
from rxrx_jax.generate.rewards import towers
from rxrx_jax.generate.show import judge
from rxrx_jax.tasks import make_task
from rxrx_jax.tower_ensembles import TOWER

NAME = "searches"
METHODS = ("mogfn", "reinforce", "mean", "each", "random", "search", "nsga2", "library")
STAGES = {
    "grid": "mogfn.py:side=16",
    "strings": "mogfn.py:strings",
    "fragments": "mogfn.py:fragments",
    "map": "mogfn.py:map,gene=SIM00",
}
# Steps, minibatch; the steps of the lattice of preferences, and samples of each. Of molecules fewer: RDKit takes long.
PLAIN, MOLECULES = (300, 64, 4, 128), (150, 32, 2, 64)
POPULATION, TOP = 64, 10
CHUNK = 512  # terminal states of a policy that are sampled at a time


def get_config(argument=None):
    arg = parse_arguments(argument, method="mogfn", on="grid", seed=0)
    for key, known in (("method", METHODS), ("on", tuple(STAGES))):
        if arg[key] not in known:
            raise UserError(f"config argument {key}={arg[key]}: expected {', '.join(known)}")
    if arg.method == "library" and arg.on != "map":
        raise UserError(f"config argument method=library: {arg.on} has no library; use on=map")
    stage = config.make(f"{STAGES[arg.on]}{',' if ':' in STAGES[arg.on] else ':'}seed={arg.seed}")
    steps, minibatch, lattice, samples = MOLECULES if arg.on in ("fragments", "map") else PLAIN
    stage.total_steps, stage.data.minibatch, stage.evaluators = steps, minibatch, {}
    if "workers" in stage.task:
        stage.task.workers = 0  # runs of a table are processes already
    if arg.method == "reinforce":
        stage.task.loss, stage.task.exponents = "reinforce", (1.0, 1.0)  # of the reward itself, not of a power of it
    if arg.method == "mean":
        d = len(stage.task.objectives)
        stage.task.preference = (1 / d,) * d
    made = {"method": arg.method, "stage": stage, "lattice": lattice, "samples": samples, "seed": arg.seed}
    made |= {"init": {"path": ""}} if arg.on == "map" else {}
    return ml_collections.ConfigDict(made)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run(*config_flag.run_arguments(NAME, __doc__, "method=nsga2,on=strings", argv))


def run(values: dict, workdir: pathlib.Path) -> None:
    """Searches and judges. Raises UserError as the stage does."""
    from rxrx_jax.training.provenance.recorded import recorded

    stage, method, samples, seed = (values[key] for key in ("stage", "method", "samples", "seed"))
    if "init" in values:
        if not values["init"]["path"]:
            raise UserError("init.path is empty: give the workdir of a run of rxrx_jax.tower_ensembles")
        stage = stage | {"task": stage["task"] | {"tower": str(pathlib.Path(values["init"]["path"]) / TOWER)}}
    with recorded(workdir, values) as write:
        task = make(stage)
        w = pareto.simplex(len(task.problem.names), values["lattice"]).astype(np.float32)
        calls = stage["total_steps"] * stage["data"]["minibatch"] + samples * len(w)
        problem, scalar = task.problem, scalarise.weighted_sum
        if method in ("search", "nsga2", "library"):
            if method == "library":
                problem, states, points = library(task, stage["task"]["tower"], calls)
                calls = len(points)
            else:
                problem, states, points = (many if method == "search" else evolved)(task, calls, seed)
            states, points = judge.best_of_all(problem, scalar, w, states, points, samples)
        else:
            states = policies(method, stage, task, w, samples, workdir)
            points = problem.checked(states, objectives(problem, states))
            calls = samples * len(w) if method == "random" else calls
        found = judge.judge(problem, scalar, w, states, points, TOP)
        evaluator.write(workdir, problem.names, found)
        print(", ".join(f"{name} {value:.3f}" for name, value in found.numbers.items()), flush=True)
        write(found.numbers | {"reward_calls": calls})


def make(stage: dict):
    """The task of a stage."""
    found = Config(stage)
    return make_task(found, make_source(found, None))


def objectives(problem, states) -> np.ndarray:
    """[n, d] of terminal states [n, ...]."""
    return np.asarray(problem.objectives(states) if problem.on_host else jax.jit(jax.vmap(problem.objectives))(states))


def policies(method: str, stage: dict, task, w: np.ndarray, samples: int, workdir: pathlib.Path):
    """Terminal states [len(w) * samples, ...] of what policies make for each preference w [m, d]."""
    from rxrx_jax.training import checkpoint, train

    def trained(folder: pathlib.Path, stage: dict) -> dict:
        train.run(stage, folder)
        return checkpoint.stored_parameters(str(folder), checkpoint.published_part(str(folder)))

    if method == "random":
        params = task.init(jax.random.key(stage["seed"]), None)["params"]
        return sampled(task, params, np.repeat(w, samples, 0), stage["seed"])
    if method != "each":
        return sampled(task, trained(workdir / "policy", stage), np.repeat(w, samples, 0), stage["seed"])
    found = []
    for i, each in enumerate(w):
        preference = tuple(float(x) for x in each)
        alone = stage | {"task": stage["task"] | {"preference": preference}}
        alone["total_steps"] = stage["total_steps"] // len(w)
        params = trained(workdir / f"policy{i}", alone)
        found.append(sampled(make(alone), params, np.repeat(each[None], samples, 0), stage["seed"]))
    return jax.tree.map(lambda *x: np.concatenate(x), *found)


def sampled(task, params, w: np.ndarray, seed: int):
    """Terminal states [n, ...] for preferences w [n, d] at the largest exponent, no move to which was random."""
    run = evaluator.SampleContext(task, None, CHUNK, None, seed).sample
    beta = np.float32(task.conditions.largest)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 3), len(w))
    size = min(CHUNK, len(w))
    parts = []
    for at in range(0, len(w), size):
        rows = np.arange(at, at + size) % len(w)
        parts.append(jax.tree.map(np.asarray, run(params, w[rows], np.full(size, beta), keys[rows])))
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(w)], *parts)


def many(task, calls: int, seed: int):
    """(problem, states, values) of so many samples of the untrained policy."""
    params = task.init(jax.random.key(seed), None)["params"]
    w = np.full((calls, len(task.problem.names)), 1 / len(task.problem.names), np.float32)
    states = sampled(task, params, w, seed)
    return task.problem, states, task.problem.checked(states, objectives(task.problem, states))


def evolved(task, calls: int, seed: int):
    """As `many`, of NSGA-II: on the cells of a grid, on letters, or on trees of pieces."""
    problem, environment, rng = task.problem, task.environment, np.random.default_rng(seed)
    if isinstance(environment, Fragments):
        start = [genetic.random_tree(rng, environment) for _ in range(POPULATION)]

        def names(trees):
            return [genetic.smiles(environment, tree) for tree in trees]

        def score(trees):
            return objectives(problem.listed(names(trees)), np.arange(len(trees)))

        found = nsga2.search(rng, start, score, genetic.vary(environment), calls)
        problem, states = problem.listed(texts := names(found.genomes)), np.arange(len(found.genomes))
        first = np.unique(texts, return_index=True)[1]  # trees that are one molecule count once
        return problem, states[first], problem.checked(states, found.points)[first]
    is_grid = isinstance(environment, Grid)
    shape, most = (environment.dimensions, environment.side) if is_grid else (environment.length, environment.letters)
    terminal = (lambda x: np.float32(x / (most - 1))) if is_grid else np.int32
    compute = jax.jit(jax.vmap(problem.objectives))

    def score(genomes):
        padded = np.resize(np.stack(genomes), (POPULATION, shape))  # one compilation
        return np.asarray(compute(terminal(padded)))[: len(genomes)]

    start = list(rng.integers(0, most, (POPULATION, shape)))
    found = nsga2.search(rng, start, score, nsga2.vary_integers(0, most, 1 / shape), calls)
    states = terminal(np.stack(found.genomes))
    return problem, states, problem.checked(states, found.points)


def library(task, tower: str, calls: int):
    """As `many`, of the molecules that a map's towers were trained on, at most so many."""
    frozen = towers.load(tower)
    texts = [text for text, there in zip(frozen.library, frozen.trained) if there][:calls]
    problem, states = task.problem.listed(texts), np.arange(len(texts))
    return problem, states, problem.checked(states, objectives(problem, states))


if __name__ == "__main__":
    sys.exit(command.run(main))
