"""From rows to molecules: duplicates become one, each gets its split, what an encoder cannot tell apart is named."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from rxrx_jax.molecules import split as split_lib
from rxrx_jax.molecules.split import SPLITS, TEST, TRAIN, VALIDATION
from tfds_builders.molecules.features import Facts
from tfds_builders.molecules.table import Table

STRONGEST = (TEST, VALIDATION, TRAIN)  # a molecule of two splits stays in the first of them


@dataclasses.dataclass
class Merged:
    """The molecules of a build; places count them in the order of their rows.

    facts: of every molecule of every row, as places.
    places: of each split, those that become records.
    values: float32 [places, targets].
    set_aside: (row, reason), of all.
    duplicates: (row that is kept, row, InChIKey, targets of which the values differ).
    stereoisomers: (SMILES without stereochemistry, rows, target, values).
    notes: a sentence each.
    """

    facts: Facts
    places: dict[str, np.ndarray]
    values: np.ndarray
    set_aside: list[tuple[int, str]]
    duplicates: list[tuple[int, int, str, str]]
    stereoisomers: list[tuple[str, str, str, str]]
    notes: list[str]


def merge(table: Table, chunks: Sequence[Facts], seed: int) -> Merged:
    """Merges duplicates by InChIKey (by canonical SMILES where there is none), and splits what is left.

    A molecule that the table has in two splits stays in the test set, else in validation, and its other rows are set
    aside. Of rows of one split the first is kept: with the mean of their values, and for a class without a value where
    they disagree. Without a column of splits the scaffold split of `seed` is made; where the table names no validation
    set, it is made of the training molecules.
    """
    facts = Facts(*(list(itertools.chain.from_iterable(columns)) for columns in zip(*chunks)))
    rows = np.array(facts.rows, np.int64)
    values = table.values[rows] if len(rows) else np.zeros((0, len(table.targets)), np.float32)
    set_aside = sorted([*table.bad.items(), *((row, reason) for row, reason in facts.set_aside)])
    groups = collections.defaultdict(list)
    for place, (key, smiles) in enumerate(zip(facts.inchikeys, facts.smiles)):
        groups[key or smiles].append(place)
    kept, duplicates = [], []
    for group in groups.values():
        if table.splits is not None and len(group) > 1:
            best = min((table.splits[rows[place]] for place in group), key=STRONGEST.index)
            others = [place for place in group if table.splits[rows[place]] != best]
            set_aside += [(int(rows[place]), f"the same molecule is in {best}") for place in others]
            group = [place for place in group if place not in others]
        kept.append(group[0])
        differ = _merge_values(values, group, table.kinds)
        names = " ".join(table.targets[i] for i in differ)
        key = facts.inchikeys[group[0]] or facts.smiles[group[0]]
        duplicates += [(int(rows[group[0]]), int(rows[place]), key, names) for place in group[1:]]
    kept = np.array(sorted(kept), np.int64)
    places = _split(table, facts, rows, kept, seed)
    stereoisomers = _stereoisomers(table, facts, values, kept)
    notes = [*table.notes, *_notes(facts, kept, places, duplicates, stereoisomers)]
    return Merged(facts, places, values, sorted(set_aside), sorted(duplicates), stereoisomers, notes)


def _merge_values(values: np.ndarray, group: list[int], kinds: Sequence[str]) -> list[int]:
    """Writes the merged values of a group to its first place; returns the targets of which values differ."""
    if len(group) == 1:
        return []
    mine, differ = values[group], []
    for i in np.flatnonzero((~np.isnan(mine)).any(0)).tolist():
        known = mine[~np.isnan(mine[:, i]), i].astype(np.float64)
        if (known != known[0]).any():
            differ.append(i)
            values[group[0], i] = np.nan if kinds[i] == "classification" else known.mean()
        else:
            values[group[0], i] = known[0]
    return differ


def _split(table: Table, facts: Facts, rows: np.ndarray, kept: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    def of_scaffolds(places: np.ndarray, fractions: tuple[float, float, float]) -> dict[str, np.ndarray]:
        found = split_lib.scaffold_split([facts.scaffolds[place] for place in places], seed, fractions)
        return {name: places[which] for name, which in found.items()}

    if table.splits is None:
        return of_scaffolds(kept, split_lib.FRACTIONS)
    given = np.array([table.splits[rows[place]] for place in kept])
    found = {name: kept[given == name] for name in SPLITS}
    if not len(found[VALIDATION]) and len(found[TRAIN]):
        found |= {TEST: found[TEST]} | {
            name: places
            for name, places in of_scaffolds(found[TRAIN], split_lib.TRAIN_VALIDATION).items()
            if name != TEST
        }
    return found


def _stereoisomers(table: Table, facts: Facts, values: np.ndarray, kept: np.ndarray) -> list[tuple]:
    """Molecules that differ in stereochemistry alone, which has no part in tokens, labels and distances, and in a
    target: (SMILES without stereochemistry, rows, target, values)."""
    groups = collections.defaultdict(list)
    for place in kept.tolist():
        groups[facts.flat[place]].append(place)
    found = []
    for flat, group in groups.items():
        if len(group) > 1:
            for i, target in enumerate(table.targets):
                known = [place for place in group if not np.isnan(values[place, i])]
                if len({float(values[place, i]) for place in known}) > 1:
                    rows = " ".join(str(facts.rows[place]) for place in known)
                    found.append((flat, rows, target, " ".join(f"{values[place, i]:.6g}" for place in known)))
    return found


def _notes(facts: Facts, kept: np.ndarray, places: dict, duplicates: list, stereoisomers: list) -> list[str]:
    of = kept.tolist()
    suffixes, salts = sum(facts.suffixes[i] for i in of), sum(facts.fragments[i] > 1 for i in of)
    metals = collections.Counter(metal for i in of for metal in facts.metals[i].split())
    with_metal, without_key = sum(bool(facts.metals[i]) for i in of), sum(not facts.inchikeys[i] for i in of)
    found = [
        (suffixes, "molecules had a CXSMILES extension or a name after their SMILES; relative stereochemistry is lost"),
        (salts, "molecules were given with several fragments"),
        (with_metal, f"molecules have metal atoms: {', '.join(f'{name} {n:,}' for name, n in metals.most_common())}"),
        (without_key, "molecules have no InChIKey and are compared by their canonical SMILES"),
        (len(duplicates), "rows are duplicates by InChIKey and were merged (duplicates.csv)"),
        (sum(bool(line[3]) for line in duplicates), "of the merged rows have another value of a target"),
        (len({line[0] for line in stereoisomers}), "groups of stereoisomers, which have the same tokens, labels and "
         "distances, differ in a target (stereoisomers.csv): no encoder of these can tell them apart"),
    ]  # fmt: skip
    empty = [name for name in SPLITS if not len(places[name])]
    return [f"{n:,} {text}" for n, text in found if n] + [f"the split {name} is empty" for name in empty]
