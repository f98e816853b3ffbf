"""Objectives of strings: how often each of some n-grams occurs, out of how often it could (the n-grams of Jain et al.
2023: 18 times in both unigrams of length 18 and bigrams of length 36). Those of one string compete for its places."""

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import pareto
from rxrx_jax.generate.environments.strings import Strings
from rxrx_jax.generate.rewards import Problem, few

LETTERS = "ARNDCQEGHILKMFPSTWYV"  # of amino acids


def count(tokens: jax.Array, motif: tuple[int, ...]) -> jax.Array:
    """How often a motif occurs in letters int32 [length], read from the left, occurrences not overlapping: int32 []."""
    n = len(motif)
    places = len(tokens) - n + 1
    hits = jnp.stack([tokens[i : i + places] == letter for i, letter in enumerate(motif)]).all(0)

    def read(taken, hit):
        """taken: places from here on that belong to the last occurrence."""
        new = hit & (taken == 0)
        return jnp.where(new, n - 1, jnp.maximum(taken - 1, 0)), new

    return jax.lax.scan(read, jnp.int32(0), hits)[1].sum()


def problem(motifs: tuple[str, ...], length: int, letters: str = LETTERS) -> Problem:
    """Strings with a motif for each objective; distances are Levenshtein's over the length. Raises UserError for
    letters or motifs that cannot be."""
    motifs, where = tuple(motifs), "task.objectives"
    if len(set(letters)) < max(len(letters), 2):
        raise UserError(f"task.letters={letters!r}: expected two or more different ones")
    if not motifs or len(set(motifs)) < len(motifs):
        raise UserError(f"{where}={motifs}: expected one or more different motifs")
    for motif in few(motifs, where):
        if not motif or set(motif) - set(letters):
            raise UserError(f"{where}: the objective {motif!r} is unknown; expected a motif of the letters {letters}")
        if len(motif) > length:
            raise UserError(f"{where}: {motif} is longer than the strings (task.length={length})")
    environment = Strings(len(letters), length)
    codes = [tuple(letters.index(x) for x in motif) for motif in motifs]
    objectives = lambda x: jnp.stack([count(x, code) / (length // len(code)) for code in codes])  # noqa: E731
    distances = lambda x: pareto.levenshtein(np.asarray(x)) / length  # noqa: E731
    return Problem(environment, motifs, objectives, distances, lambda x: "".join(letters[i] for i in x))
