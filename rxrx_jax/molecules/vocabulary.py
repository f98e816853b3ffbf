"""From Morgan identifiers to the numbers that an encoder embeds and predicts: a vocabulary of the training molecules.

Tokens are 0 for padding, 1 to V for the identifiers of radius 0 that training molecules have, then MASK, UNKNOWN and
CLS. Labels are 1 to K for the identifiers of radius 2 that occur often enough there, and 0 (UNKNOWN_LABEL) for any
other, which a loss leaves out.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections import Counter

import numpy as np

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError

PADDING, UNKNOWN_LABEL = 0, 0
LEAST = 5  # times that a label occurs in the training molecules, not to be unknown
AGAIN = "copy it again, or rebuild the dataset"
MOST_TOKENS = 2**16 - 5  # they are written in 16 bits


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The identifiers of tokens and of labels, each sorted and without repeats; `from_counts` and `load` make it."""

    tokens: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def mask(self) -> int:
        """The token of an atom that is to be predicted."""
        return len(self.tokens) + 1

    @property
    def unknown(self) -> int:
        """The token of an identifier that no training molecule has."""
        return len(self.tokens) + 2

    @property
    def cls(self) -> int:
        """The token that stands for the molecule."""
        return len(self.tokens) + 3

    @property
    def size(self) -> int:
        """Tokens to embed, with PADDING, MASK, UNKNOWN and CLS."""
        return len(self.tokens) + 4

    @property
    def label_size(self) -> int:
        """Labels to predict, with UNKNOWN_LABEL."""
        return len(self.labels) + 1

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256, hex, of all identifiers: two vocabularies are the same if this is."""
        text = json.dumps([list(self.tokens), list(self.labels)], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.tokens, np.uint32), np.array(self.labels, np.uint32)

    def encode_tokens(self, identifiers: np.ndarray) -> np.ndarray:
        """Tokens of identifiers of radius 0, of any shape: uint16."""
        return _look_up(self._arrays[0], identifiers, self.unknown).astype(np.uint16)

    def encode_labels(self, identifiers: np.ndarray) -> np.ndarray:
        """Labels of identifiers of radius 2, of any shape: int32."""
        return _look_up(self._arrays[1], identifiers, UNKNOWN_LABEL).astype(np.int32)


def _look_up(known: np.ndarray, identifiers: np.ndarray, otherwise: int) -> np.ndarray:
    if not len(known):
        return np.full(np.shape(identifiers), otherwise)
    at = np.minimum(np.searchsorted(known, identifiers), len(known) - 1)
    return np.where(known[at] == identifiers, at + 1, otherwise)


def from_counts(tokens: Counter[int], labels: Counter[int], least: int = LEAST) -> Vocabulary:
    """The vocabulary of training molecules.

    Args:
      tokens: how often each identifier of radius 0 occurs in them.
      labels: of radius 2.
      least: occurrences that a label needs.

    Raises UserError for more kinds of atoms than a record can tell apart.
    """
    if len(tokens) > MOST_TOKENS:
        raise UserError(f"{len(tokens):,} kinds of atoms in the training molecules, more than {MOST_TOKENS:,}")
    return Vocabulary(tuple(sorted(tokens)), tuple(sorted(label for label, n in labels.items() if n >= least)))


def save(path: pathlib.Path, vocabulary: Vocabulary) -> None:
    """Writes a vocabulary as JSON, which appears when complete."""
    content = {"digest": vocabulary.digest, "tokens": vocabulary.tokens, "labels": vocabulary.labels}
    files.write(path, json.dumps(content) + "\n")


def load(path: pathlib.Path) -> Vocabulary:
    """Reads what `save` wrote. Raises UserError if it is anything else."""
    return parse(files.read_json(path, AGAIN), str(path))


def parse(found: dict, path: str) -> Vocabulary:
    """As `load`, of the JSON itself. Args: path, where it is from, for messages."""
    parts = [found.get("tokens"), found.get("labels")]
    for part in parts:
        whole = isinstance(part, list) and all(type(one) is int and 0 <= one < 2**32 for one in part)
        if not whole or part != sorted(set(part)):
            raise UserError(f"{path} is damaged (not sorted identifiers); {AGAIN}")
    vocabulary = Vocabulary(tuple(parts[0]), tuple(parts[1]))
    if found.get("digest") != vocabulary.digest:
        raise UserError(f"{path} is damaged (its digest is not that of its identifiers); {AGAIN}")
    return vocabulary


def check_same(mine: str, theirs: str, what: str) -> None:
    """Raises UserError unless two digests are of one vocabulary. Args: what, names the other, such as a checkpoint."""
    if mine != theirs:
        raise UserError(
            f"{what} has another vocabulary ({theirs[:12]}) than these molecules ({mine[:12]}): prepare them with "
            "--vocabulary=FOLDER, the prepared molecules that it was trained on"
        )
