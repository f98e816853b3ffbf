"""A genetic algorithm on molecules: trees of the pieces that `environments/fragments.py` builds of, so that both search
the same space. Parents are crossed at a bond between pieces (as in Jensen 2019, "A graph-based genetic algorithm"), and
children mutated by a piece that is added, taken away or replaced. Every child is a valid tree."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rxrx_jax.generate import nsga2
from rxrx_jax.generate.environments import assemble
from rxrx_jax.generate.environments.fragments import Fragments
from rxrx_jax.generate.rewards.chemistry import Rewards


class Tree(NamedTuple):
    """Numbers of pieces, and the bonds between them: ((place, slot), (place, slot)) each, one fewer."""

    pieces: tuple[int, ...]
    bonds: tuple[tuple[tuple[int, int], tuple[int, int]], ...]


def arrays(environment: Fragments, tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """(piece, link), as of `Fragments.terminal`, with the places in the tree's order."""
    piece = np.full(environment.most, -1)
    link = np.full((environment.most, environment.slots), -1)
    piece[: len(tree.pieces)] = tree.pieces
    for (i, s), (j, t) in tree.bonds:
        link[i, s], link[j, t] = j * environment.slots + t, i * environment.slots + s
    return piece, link


def smiles(environment: Fragments, tree: Tree) -> str:
    """The canonical SMILES of a tree."""
    return assemble.smiles(environment.pieces, *arrays(environment, tree))


def _free(environment: Fragments, tree: Tree) -> list[tuple[int, int]]:
    used = {end for bond in tree.bonds for end in bond}
    slots = [(i, s) for i, f in enumerate(tree.pieces) for s in range(len(environment.pieces[f][1]))]
    return [end for end in slots if end not in used]


def grow(rng: np.random.Generator, environment: Fragments, tree: Tree) -> Tree:
    """With one more piece, if there is room."""
    free = _free(environment, tree)
    if len(tree.pieces) == environment.most or not (free or not tree.pieces):
        return tree
    piece = int(rng.integers(len(environment.pieces)))
    if not tree.pieces:
        return Tree((piece,), ())
    own = (len(tree.pieces), int(rng.integers(len(environment.pieces[piece][1]))))
    return Tree((*tree.pieces, piece), (*tree.bonds, (free[rng.integers(len(free))], own)))


def part(tree: Tree, start: int, without: int) -> tuple[Tree, dict[int, int]]:
    """What hangs together with the piece `start` less the bond number `without`, and the new place of each old one."""
    bonds = [bond for k, bond in enumerate(tree.bonds) if k != without]
    order = [start]
    for place in order:  # which grows
        for (i, _), (j, _) in bonds:
            order += [b for a, b in ((i, j), (j, i)) if a == place and b not in order]
    place = {old: new for new, old in enumerate(order)}
    kept = [((place[i], s), (place[j], t)) for (i, s), (j, t) in bonds if i in place]
    kept = [bond if bond[0][0] < bond[1][0] else bond[::-1] for bond in kept]
    return Tree(tuple(tree.pieces[old] for old in order), tuple(sorted(kept, key=lambda bond: bond[1]))), place


def shrink(rng: np.random.Generator, tree: Tree) -> Tree:
    """Without one of its leaves, if it has more than one piece."""
    if not tree.bonds:
        return tree
    places = [end[0] for bond in tree.bonds for end in bond]
    leaves = [i for i in range(len(tree.pieces)) if places.count(i) == 1]
    leaf = leaves[rng.integers(len(leaves))]
    bond = next(k for k, ends in enumerate(tree.bonds) if leaf in (ends[0][0], ends[1][0]))
    return part(tree, next(end[0] for end in tree.bonds[bond] if end[0] != leaf), bond)[0]


def cross(rng: np.random.Generator, environment: Fragments, one: Tree, two: Tree) -> Tree:
    """A part of each, joined where they were cut; `one` where they cannot be cut or would be too large."""
    if not one.bonds or not two.bonds:
        return one
    halves = []
    for tree in (one, two):
        bond = int(rng.integers(len(tree.bonds)))
        end = tree.bonds[bond][rng.integers(2)]
        half, place = part(tree, end[0], bond)
        halves.append((half, (place[end[0]], end[1])))
    (left, at), (right, to) = halves
    offset = len(left.pieces)
    if offset + len(right.pieces) > environment.most:
        return one
    moved = tuple(((i + offset, s), (j + offset, t)) for (i, s), (j, t) in right.bonds)
    return Tree(left.pieces + right.pieces, (*left.bonds, (at, (to[0] + offset, to[1])), *moved))


def vary(environment: Fragments) -> Callable[[np.random.Generator, Tree, Tree], Tree]:
    """A `vary` of `nsga2.search`: parents crossed half of the time, and always mutated unless crossed."""

    def child(rng, one, two):
        crossed = cross(rng, environment, one, two) if rng.random() < 0.5 else one
        if crossed is not one and rng.random() < 0.5:
            return crossed
        kind = rng.integers(3)
        if kind == 0:
            return grow(rng, environment, crossed)
        smaller = shrink(rng, crossed)
        return smaller if kind == 1 else grow(rng, environment, smaller)

    return child


def random_tree(rng: np.random.Generator, environment: Fragments) -> Tree:
    """A tree of one to `most` pieces, each with the same chance; fewer where no slot is left."""
    tree = Tree((), ())
    for _ in range(rng.integers(1, environment.most + 1)):
        tree = grow(rng, environment, tree)
    return tree


def search(environment: Fragments, rewards: Rewards, calls: int, seed: int = 0, size: int = 64, weights=None):
    """Molecules by NSGA-II, or by a plain genetic algorithm for the weighted sum of the objectives.

    Args:
      environment: of the trees.
      rewards: the objectives of SMILES, [n, d].
      calls: molecules to score.
      size: of the population.
      weights: of the objectives, [d]; None for NSGA-II.

    Returns (SMILES, objectives [n, d]) of all that was scored, in that order.
    """
    rng = np.random.default_rng(seed)
    names, values = [], []

    def score(trees):
        found = [smiles(environment, tree) for tree in trees]
        points = rewards(found)
        names.extend(found)
        values.append(points)
        return points if weights is None else points @ np.asarray(weights, np.float64)[:, None]

    start = [random_tree(rng, environment) for _ in range(min(size, calls))]
    nsga2.search(rng, start, score, vary(environment), calls)
    return names, np.concatenate(values)
