"""Rewards: objectives in [0, 1], all of them maximised, of the terminal states of an environment."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.generate.environments import Environment
from rxrx_jax.generate.pareto import MOST_OBJECTIVES


@dataclasses.dataclass(frozen=True)
class Problem:
    """An environment and what is wanted of its terminal states.

    names [d] of the objectives; objectives(terminal) -> float [d], in JAX, of one state; distances(terminal [n, ...])
    -> float [n, n], in numpy, between states, for diversity; say(terminal) -> how one state is named to the user.

    on_host: objectives(terminal [n, ...]) -> float [n, d] is of many states and in numpy, as RDKit's are.

    What no reward reads, None where nothing is known: truth(terminal [n, ...], values [n, d]) -> float [n, d], the
    objectives as they truly are, of which those that are computed are a prediction; beside(terminal [n, ...]) ->
    {name: float [n]}, other numbers to judge them by.

    listed(texts): of molecules, the same problem for any of them, whose terminal state is their number in a list of
    SMILES."""

    environment: Environment
    names: tuple[str, ...]
    objectives: Callable
    distances: Callable
    say: Callable
    on_host: bool = False
    truth: Callable | None = None
    beside: Callable | None = None
    listed: Callable | None = None

    def checked(self, terminal, values) -> np.ndarray:
        """Objectives [n, d] of terminal states [n, ...], as they are. Raises UserError as `checked` does."""
        return checked(values, self.names, lambda i: self.say(jax.tree.map(lambda x: x[i], terminal)))


def chosen(names: tuple[str, ...], known, key: str = "task.objectives") -> tuple[str, ...]:
    """The names of objectives that a config has under `key`. Raises UserError for none, an unknown one or one that is
    there twice, and for more than MOST_OBJECTIVES."""
    names = tuple(names)
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{key}: the objective {unknown[0]!r} is unknown; expected {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"{key}={names}: expected one or more different objectives of {', '.join(known)}")
    return few(names, key)


def few(names: tuple[str, ...], key: str = "task.objectives") -> tuple[str, ...]:
    """`names`. Raises UserError for more than MOST_OBJECTIVES."""
    if len(names) > MOST_OBJECTIVES:
        raise UserError(f"{key}: {len(names)} objectives, and the exact hypervolume is for at most {MOST_OBJECTIVES}; "
                        "drop some, or join those that go together in one weighted mean")  # fmt: skip
    return names


def checked(values: np.ndarray, names: tuple[str, ...], of) -> np.ndarray:
    """Objectives float [n, d] of n terminal states, as they are. Args: of(i), how state i is named.

    Raises UserError naming the first that is NaN, infinite or outside [0, 1]."""
    values = np.asarray(values)
    bad = ~((values >= 0) & (values <= 1))  # NaN too
    if bad.any():
        i, k = np.argwhere(bad)[0]
        raise UserError(f"the objective {names[k]} of {shortened(str(of(i)))} is {values[i, k]:g}: expected a finite "
                        "number from 0 to 1; scale or clip it")  # fmt: skip
    return values
