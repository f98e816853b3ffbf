"""Trees of pieces: all small ones by enumeration against RDKit, random large ones, and what cannot be built."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.environments import assemble
from rxrx_jax.generate.environments.fragments import Fragments
from rxrx_jax.generate.environments.pieces import PIECES

# Turned onto themselves in 6, 2, 1, 1 and 2 ways, as far as their slots go.
FIVE = (("C1CC1", (0, 1, 2)), ("CC", (0, 1)), ("CO", (0, 1)), ("C=O", (0,)), ("c1ccccc1", (0, 3)))
SMALL = Fragments(most=3, pieces=FIVE)
LARGE = Fragments()


def names(states) -> list[bytes]:
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(states)]
    return [b"".join(array[i].tobytes() for array in arrays) for i in range(len(arrays[0]))]


@functools.partial(jax.jit, static_argnums=0)
def explored(env, states):
    """Of n states: every child, what is legal and alike, the way back from every child, and every parent."""
    actions, backward = jnp.arange(env.actions), jnp.arange(env.backward_actions)
    of = lambda f, x: jax.vmap(lambda state: jax.vmap(lambda a: f(state, a))(x))(states)  # noqa: E731
    children = of(env.step, actions)
    back = jax.vmap(jax.vmap(env.backward_mask))(children)
    undone = of(lambda state, a: env.parent(env.step(state, a), env.undo(state, a)), actions)
    masks = jax.vmap(env.forward_mask)(states), jax.vmap(env.backward_mask)(states)
    return children, *masks, of(env.same, actions), of(env.undo, actions), back, undone, of(env.parent, backward)


def row(tree, *index):
    return jax.tree.map(lambda x: x[index], tree)


def explore(frontier):
    """`explored`, compiled for 64 states."""
    n = len(frontier.done)
    padded = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], -n % 64, 0)]), frontier)
    parts = [explored(SMALL, row(padded, slice(i, i + 64))) for i in range(0, n, 64)]
    return jax.tree.map(lambda *x: np.concatenate([np.asarray(y) for y in x])[:n], *parts)


@pytest.fixture(scope="module")
def graph():
    """(name of the initial state, name -> (state, {action: child}, parents)) of all trees of up to three pieces."""
    frontier = jax.tree.map(lambda x: np.asarray(x)[None], SMALL.reset())
    start, found = names(frontier)[0], {}
    while len(frontier.done):
        children, legal, back, same, undo, after, undone, parents = explore(frontier)
        keys, new = names(frontier), {}
        for i, key in enumerate(keys):
            child, up, home = names(row(children, i)), names(row(parents, i)), names(row(undone, i))
            actions = [] if frontier.done[i] else np.flatnonzero(legal[i])
            for a in actions:
                assert child[a] != key and home[a] == key and after[i, a, undo[i, a]]
                assert {b for b in actions if child[b] == child[a]} == set(np.flatnonzero(same[i, a]))
                if child[a] not in found and child[a] not in keys:
                    new[child[a]] = row(children, i, a)
            found[key] = (row(frontier, i), {a: child[a] for a in actions}, [up[b] for b in np.flatnonzero(back[i])])
        frontier = jax.tree.map(lambda *x: np.stack(x), *new.values()) if new else row(frontier, slice(0))
    return start, found


def by_hand() -> set[str]:
    """All trees of up to three pieces, as RDKit tells them apart: pieces joined over a silicon atom."""
    from rdkit import Chem

    found, frontier = set(), [((f,), (), ()) for f in range(len(FIVE))]
    while frontier:
        pieces, bonds, used = frontier.pop()
        parts = [Chem.MolFromSmiles(FIVE[f][0]) for f in pieces] + [Chem.MolFromSmiles("[SiH2]")] * len(bonds)
        joined = [((len(pieces) + i, 0), end) for i, pair in enumerate(bonds) for end in pair]
        found.add(assemble._join(parts, joined)[0] if bonds else FIVE[pieces[0]][0])
        if len(pieces) == 3:
            continue
        for i, f in enumerate(pieces):
            for atom in FIVE[f][1]:
                for g in range(len(FIVE)) if (i, atom) not in used else ():
                    for own in FIVE[g][1]:
                        ends = ((i, atom), (len(pieces), own))
                        frontier.append(((*pieces, g), (*bonds, ends), (*used, *ends)))
    return found


def test_all_trees_of_up_to_three_pieces_are_there_once(graph):
    terminal = [state for state, _, _ in graph[1].values() if state.done]
    assert len(terminal) == len(by_hand()) > 100
    assert max((state.piece >= 0).sum() for state in terminal) == 3


def test_parents_are_the_states_that_lead_to_one(graph):
    start, found = graph
    leading = {}
    for key, (_, children, _) in found.items():
        for child in children.values():
            leading.setdefault(child, set()).add(key)
    for key, (_, _, parents) in found.items():
        if key != start:
            assert len(parents) == len(set(parents)) and set(parents) == leading[key]


def moves_made(state) -> int:
    return 2 * int((state.piece >= 0).sum()) - int((state.piece == len(FIVE)).any()) + int(state.done)


def test_probabilities_of_all_paths_sum_to_one(graph):
    """Of a policy that is uniform over actions."""
    start, found = graph
    reach, ends = {start: 1.0}, 0.0
    for key in sorted(
        found,
        key=lambda key: (found[key][0].done, (found[key][0].piece >= 0).sum() * 2 - (found[key][0].piece == 5).any()),
    ):  # noqa: E501
        state, children, _ = found[key]
        ends += reach[key] if state.done else 0
        for child in children.values():
            reach[child] = reach.get(child, 0) + reach[key] / len(children)
    assert ends == pytest.approx(1, abs=1e-9) and len(reach) == len(found)


@functools.partial(jax.jit, static_argnums=(0, 2))
def rollout(env, key, count):
    """Random trajectories, uniform over legal actions, but in half of them "stop" is rare, so that the trees are
    large: (terminal states [count], actions [count, longest])."""

    def one(key):
        logits = jnp.zeros(env.actions).at[-1].set(-6.0 * jax.random.bernoulli(key))

        def move(state, key):
            action = jax.random.categorical(key, jnp.where(env.forward_mask(state), logits, -jnp.inf))
            return env.step(state, action), action

        return jax.lax.scan(move, env.reset(), jax.random.split(key, env.longest))

    return jax.vmap(one)(jax.random.split(key, count))


@functools.partial(jax.jit, static_argnums=0)
def replay(env, actions):
    def one(actions):
        return jax.lax.scan(lambda state, action: (env.step(state, action), None), env.reset(), actions)[0]

    return jax.vmap(one)(actions)


def sanitised(seed: int, count: int, replayed: bool = True) -> list[str]:
    states, actions = rollout(LARGE, jax.random.key(seed), count)
    sizes = (states.piece >= 0).sum(1)
    assert states.done.all() and sizes.max() == 9 and (sizes == 9).mean() > 0.1
    found = assemble.all_smiles(PIECES, jax.vmap(LARGE.terminal)(states))
    if replayed:
        assert found == assemble.all_smiles(PIECES, jax.vmap(LARGE.terminal)(replay(LARGE, actions)))
    return found


def test_random_molecules_sanitise():
    found = sanitised(0, 200, replayed=False)
    assert len(set(found)) > 100


@pytest.mark.slow
def test_a_thousand_random_molecules_sanitise_and_replay():
    assert len(set(sanitised(1, 1000))) > 500


@pytest.mark.full
def test_a_hundred_thousand_random_molecules_sanitise_and_replay():
    found = set()
    for seed in range(100):
        found |= set(sanitised(1000 + seed, 1000, replayed=seed < 10))
    assert len(found) > 50_000


@pytest.mark.slow
def test_a_state_is_encoded_by_what_was_built():
    states, _ = rollout(LARGE, jax.random.key(2), 200)
    seen = np.asarray(jax.jit(jax.vmap(LARGE.encode))(states))
    assert seen.shape == (200, LARGE.width) and set(np.unique(seen)) == {0, 1}
    same_tree = {key: row.tobytes() for key, row in zip(names(states), seen)}
    assert len(set(same_tree.values())) == len(same_tree)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((), "no piece"),
        ((("C1C", (0,)),), "'C1C' is not a valid SMILES"),
        ((("CC", ()),), "CC has the slots"),
        ((("CC", (0, 0)),), "each once"),
        ((("CC", (2,)),), "name atoms of it"),
        ((("CF", (1,)),), r"CF cannot take a bond at each of its slots \(1,\): .*valence"),
    ],
)
def test_pieces_that_cannot_be_used(pieces, message):
    with pytest.raises(UserError, match=message):
        Fragments(pieces=pieces)
    with pytest.raises(UserError, match="task.most=0"):
        Fragments(most=0)


def test_an_unsanitisable_molecule_stops_with_its_moves():
    pieces = (("CC", (0, 1)), ("CF", (1,)))
    link = np.array([[2, -1], [0, -1], [-1, -1]])
    with pytest.raises(
        UserError, match="sanitise the molecule of CC, then CF by atom 1 at atom 0 of piece 1: .*valence"
    ):
        assemble.smiles(pieces, np.array([0, 1, -1]), link)
    with pytest.raises(UserError, match="unfinished molecule: an open slot, then CC by atom 0"):
        assemble.smiles(pieces, np.array([2, 0, -1]), np.array([[2, -1], [0, -1], [-1, -1]]))
    with pytest.raises(UserError, match="unfinished molecule: no piece"):
        assemble.smiles(pieces, np.full(3, -1), np.full((3, 2), -1))
