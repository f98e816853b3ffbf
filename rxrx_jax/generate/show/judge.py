"""What is said of samples, some for each preference: how far they reach, how different they are, and which are shown.

A problem may know more than its rewards read: the truth that an objective predicts, where it is simulated, and how far
an object is from what the prediction was trained on. Then the numbers of both stand side by side.
"""

import dataclasses
import sys
from collections.abc import Callable

import jax
import numpy as np

from rxrx_jax.generate import pareto
from rxrx_jax.generate.rewards import Problem

AGAINST = {"igd_plus": pareto.igd_plus, "gd_plus": pareto.gd_plus, "pc_entropy": pareto.pc_entropy}  # the true front


@dataclasses.dataclass(frozen=True)
class Judged:
    """numbers, by name; front: the objects that no other dominates, each {"state": its name, objective: value ...};
    preferences: for each one {"w": [d], "best": the rows of its best different objects, as in front}."""

    numbers: dict[str, float]
    front: list[dict]
    preferences: list[dict]


def judge(problem: Problem, scalarise: Callable, w: np.ndarray, states, values: np.ndarray, top: int,
          true: np.ndarray | None = None) -> Judged:  # fmt: skip
    """Of as many samples for each preference.

    Args:
      scalarise: of `scalarise.py`.
      w: preferences [m, d].
      states: terminal states, a tree of [m * samples, ...], those of one preference together.
      values: their objectives [m * samples, d].
      top: how many of the best different samples of each preference are judged one by one.
      true: the true front [k, d], where it is known.
    """
    samples = len(values) // len(w)
    reward = np.exp(np.asarray(scalarise(values, np.repeat(w, samples, 0))))
    chosen, best, apart, different = [], [], [], []
    names = _names(problem, states)
    for i in range(len(w)):
        first = i * samples + np.unique(names[i * samples : (i + 1) * samples], axis=0, return_index=True)[1]
        rows = first[np.argsort(-reward[first], kind="stable")[:top]]
        chosen.append(rows)
        best.append(np.mean(reward[rows]))
        apart.append(pareto.diversity(problem.distances(row(states, rows))))
        different.append(len(first) / samples)
    same = [problem.names[i] for i in pareto.constant(values)]
    if same:
        print(f"note: {', '.join(same)}: constant over all samples, so that the hypervolume is 0", file=sys.stderr)
    found = {
        "hypervolume": 0.0 if same else pareto.hypervolume(values),
        "r2": pareto.r2(values, w),
        "r2_published": pareto.r2_published(values, w),
    }
    kept = np.flatnonzero(pareto.non_dominated(values))
    kept = kept[np.unique(names[kept], axis=0, return_index=True)[1]]
    if true is not None:
        found["hypervolume_share"] = pareto.hypervolume(values) / pareto.hypervolume(true)
        for name, metric in AGAINST.items():
            found[name] = metric(values[kept], true)
    found |= {f"top{top}_reward": float(np.mean(best)), f"top{top}_diversity": float(np.mean(apart))}
    found["unique"] = float(np.mean(different))
    if len(problem.names) > 1:
        found["follows_preference"] = follows(w, values.reshape(len(w), samples, -1).mean(1))
    shown = np.unique(np.concatenate([kept, *chosen]))
    more = problem.beside(row(states, shown)) if problem.beside else {}
    place = {int(i): k for k, i in enumerate(shown)}
    for name, of in more.items():
        found[f"top{top}_{name}"] = float(np.mean([np.mean([of[place[int(i)]] for i in rows]) for rows in chosen]))
    if problem.truth:
        truth = problem.checked(states, problem.truth(states, values))
        reward = np.exp(np.asarray(scalarise(truth, np.repeat(w, samples, 0))))
        found["true/hypervolume"] = pareto.hypervolume(truth)
        found["true/r2"] = pareto.r2(truth, w)
        found[f"true/top{top}_reward"] = float(np.mean([np.mean(reward[rows]) for rows in chosen]))

    def said(i: int) -> dict:
        about = {"state": problem.say(row(states, i))} | dict(zip(problem.names, values[i].tolist()))
        return about | {name: float(of[place[int(i)]]) for name, of in more.items()}

    preferences = [{"w": each.tolist(), "best": [said(i) for i in rows]} for each, rows in zip(w, chosen)]
    return Judged(found, [said(i) for i in kept], preferences)


def best_of_all(problem: Problem, scalarise: Callable, w: np.ndarray, states, values: np.ndarray, samples: int):
    """(states, values) as `judge` takes them, of a search that has no samples of a preference: for each of w [m, d] the
    `samples` of highest reward, best first, of different states [n, ...] with values [n, d]."""
    first = np.unique(_names(problem, states), axis=0, return_index=True)[1]
    rows = []
    for each in w:
        order = first[np.argsort(-np.asarray(scalarise(values[first], each)), kind="stable")]
        rows.append(np.resize(order[:samples], samples))  # again from the first where there are fewer
    rows = np.concatenate(rows)
    return row(states, rows), values[rows]


def follows(w: np.ndarray, means: np.ndarray) -> float:
    """The smallest over objectives of Spearman's correlation between weights and means, both [n, d]; 0 for a constant
    one."""
    from scipy.stats import spearmanr

    found = [0.0 if np.ptp(mean) == 0 else spearmanr(weight, mean).statistic for weight, mean in zip(w.T, means.T)]
    return float(min(found))


def row(tree, i):
    """Row or rows i of every array of a tree."""
    return jax.tree.map(lambda x: x[i], tree)


def _names(problem: Problem, states) -> np.ndarray:
    """Rows that are equal where the objects are: of molecules their SMILES, as two trees can be one."""
    if problem.on_host:
        return np.array([problem.say(row(states, i)) for i in range(len(jax.tree.leaves(states)[0]))])
    return np.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(states)], 1)
