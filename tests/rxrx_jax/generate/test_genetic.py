"""Children of trees of pieces are trees of pieces, and searching finds better molecules than drawing them."""

import numpy as np
import pytest

from rxrx_jax.generate import genetic, pareto
from rxrx_jax.generate.environments.fragments import Fragments
from rxrx_jax.generate.rewards.chemistry import Rewards

SPACE = Fragments()


def check(tree):
    """One tree: as many bonds as pieces less one, all joined, every slot of its piece and used once."""
    assert 1 <= len(tree.pieces) <= 9 and len(tree.bonds) == len(tree.pieces) - 1
    ends = [end for bond in tree.bonds for end in bond]
    assert len(set(ends)) == len(ends)
    assert all(0 <= s < len(SPACE.pieces[tree.pieces[i]][1]) for i, s in ends)
    joined = {0}
    for _ in tree.pieces:
        joined |= {b for (i, _), (j, _) in tree.bonds for a, b in ((i, j), (j, i)) if a in joined}
    assert len(joined) == len(tree.pieces)


def test_children_are_trees_of_both_parents():
    rng = np.random.default_rng(0)
    population = [genetic.random_tree(rng, SPACE) for _ in range(40)]
    vary = genetic.vary(SPACE)
    for _ in range(400):
        one, two = (population[i] for i in rng.integers(0, 40, 2))
        smaller, larger, crossed = (
            genetic.shrink(rng, one),
            genetic.grow(rng, SPACE, one),
            genetic.cross(rng, SPACE, one, two),
        )
        for tree in (smaller, larger, crossed, child := vary(rng, one, two)):
            check(tree)
        assert len(smaller.pieces) == max(1, len(one.pieces) - 1) and len(larger.pieces) <= len(one.pieces) + 1
        assert set(crossed.pieces) <= set(one.pieces + two.pieces)
        population[rng.integers(40)] = child
    assert {len(tree.pieces) for tree in population} > {2, 3}


def test_a_part_of_a_tree_is_the_molecule_without_the_rest():
    """C1CC1, CC at its first atom, and F at the other atom of CC."""
    number = {text: i for i, (text, _) in enumerate(SPACE.pieces)}
    tree = genetic.Tree(tuple(number[text] for text in ("F", "CC", "C1CC1")), (((0, 0), (1, 1)), ((2, 0), (1, 0))))
    assert genetic.smiles(SPACE, tree) == "FCCC1CC1"
    assert genetic.smiles(SPACE, genetic.part(tree, 1, 0)[0]) == "CCC1CC1"
    assert genetic.smiles(SPACE, genetic.part(tree, 0, 0)[0]) == "F"
    assert genetic.smiles(SPACE, genetic.part(tree, 1, 1)[0]) == "CCF"


@pytest.mark.slow
def test_searching_is_better_than_drawing():
    rewards = Rewards(("qed", "sa"))
    drawn = genetic.search(SPACE, rewards, 600, seed=1, size=600)
    found = genetic.search(SPACE, rewards, 600, seed=1, size=32)
    assert len(found[0]) == len(found[1]) == 600
    np.testing.assert_array_equal(found[1], genetic.search(SPACE, rewards, 600, seed=1, size=32)[1])
    assert pareto.hypervolume(found[1]) > pareto.hypervolume(drawn[1])
    plain = genetic.search(SPACE, rewards, 600, seed=1, size=32, weights=(1, 0))
    assert plain[1][300:, 0].mean() > drawn[1][:, 0].mean() + 0.1
