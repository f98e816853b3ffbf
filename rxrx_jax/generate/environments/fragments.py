"""Molecules as trees of at most nine pieces, each joined to others at slots, its atoms that can take a bond.

A move either opens a slot of the tree, or puts a piece, by one of its slots, where a slot is open, or stops; the first
piece needs no slot. A state is a tree without order: it is kept in one canonical form, whatever the moves that built
it. Two moves that lead to the same tree, as those to the six slots of a benzene with nothing on it, are one move
(`same`), and two that undo it to the same tree are one parent.

To see that, every slot has a hash of the tree that is seen from it (`branch`), which does not change when a piece is
turned onto itself, as a benzene can be in twelve ways. A canonical form starts at the piece of least hash, turns each
piece so that its hash is least, and numbers pieces breadth first. The hashes have 32 bits: that two different ones
among the 54 of a tree are equal has a chance below one in a million; such a tree would have two forms.

`pieces.py` has the published pieces, `assemble.py` makes SMILES of what this builds. The tables are RDKit's; the rest
are pure functions of fixed shapes.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.environments import Environment, assemble
from rxrx_jax.generate.environments.pieces import PIECES

MOST = 9  # pieces
NOTHING, ENTRY = np.uint32(1), np.uint32(0x9E3779B9)  # values of a slot without a branch, and of where one is seen from
ABSENT = np.uint32(2**32 - 1)


class Tree(NamedTuple):
    """N places, the filled ones first, of S slots."""

    piece: jax.Array  # int32 [N]: its number; the number of pieces stands for a slot that is open; -1 nothing
    link: jax.Array  # int32 [N, S]: place * S + slot of what is joined there, or -1
    branch: jax.Array  # uint32 [N, S]: the hash of the tree, less what hangs at the slot
    done: jax.Array  # bool []


@dataclasses.dataclass(frozen=True)
class Fragments(Environment):
    """Trees of at most `most` of `pieces`, (SMILES, atoms that are slots) each.

    Actions: place * S + slot opens it; then one for each piece and slot (`tables.piece`, `tables.slot`); last, "stop".
    Backward actions: place i, whose piece or open slot is taken away; the last undoes "stop".
    """

    most: int = MOST
    pieces: tuple[tuple[str, tuple[int, ...]], ...] = PIECES

    def __post_init__(self):
        if self.most < 1:
            raise UserError(f"task.most={self.most}: a molecule has at least one piece")
        assemble.tables(self.pieces)

    @property
    def tables(self) -> assemble.Tables:
        return assemble.tables(self.pieces)

    @property
    def few(self) -> bool:
        return self.most <= 3 and len(self.pieces) <= 8

    @property
    def slots(self) -> int:
        """S, of the piece that has most."""
        return self.tables.exists.shape[1]

    @property
    def actions(self) -> int:
        return self.most * self.slots + len(self.tables.piece) + 1

    @property
    def backward_actions(self) -> int:
        return self.most + 1

    @property
    def longest(self) -> int:
        return 2 * self.most

    @property
    def width(self) -> int:
        return self.most * (len(self.pieces) + 1 + self.most + 2 * self.slots)

    def reset(self) -> Tree:
        shape = (self.most, self.slots)
        return Tree(
            jnp.full(self.most, -1, jnp.int32),
            jnp.full(shape, -1, jnp.int32),
            jnp.zeros(shape, jnp.uint32),
            jnp.bool_(False),
        )

    def step(self, state: Tree, action) -> Tree:
        s, places = self.slots, self.most * self.slots
        count, at = (state.piece >= 0).sum(), self._open(state)
        # A slot is opened: the new place is joined to it by its first slot.
        piece = state.piece.at[count].set(len(self.pieces), mode="drop")
        link = state.link.at[action // s, action % s].set(count * s, mode="drop")
        opened = (piece, link.at[count, 0].set(action, mode="drop"))
        # A piece is put where one is open, or first.
        number = jnp.clip(action - places, 0, len(self.tables.piece) - 1)
        slot, target = jnp.array(self.tables.slot)[number], state.link[at, 0]
        piece = state.piece.at[at].set(jnp.array(self.tables.piece)[number])
        link = state.link.at[at].set(-1).at[at, slot].set(target)
        put = (piece, link.reshape(-1).at[jnp.where(target < 0, places, target)].set(at * s + slot, mode="drop"))
        first = (piece, state.link)
        filled = jax.tree.map(
            lambda one, two: jnp.where(count == 0, one, two), first, (put[0], put[1].reshape(link.shape))
        )
        new = self._canonical(*jax.tree.map(lambda one, two: jnp.where(action < places, one, two), opened, filled))
        stops = action == self.actions - 1
        kept = jax.tree.map(lambda old, one: jnp.where(state.done | stops, old, one), state, new)
        return kept._replace(done=state.done | stops)

    def forward_mask(self, state: Tree):
        count, is_open = (state.piece >= 0).sum(), (state.piece == len(self.pieces)).any()
        free = jnp.array(self.tables.exists)[state.piece] & (state.link < 0)
        opens = free.reshape(-1) & ~is_open & (count < self.most)
        puts = is_open | ((count == 0) & (jnp.array(self.tables.slot) == 0))
        return jnp.concatenate([opens, puts, (~is_open & (count > 0))[None]])

    def same(self, state: Tree, action):
        """Slots from which the same tree is seen, and slots of a piece that turning it onto itself exchanges."""
        branch, kinds = state.branch.reshape(-1), jnp.array(self.tables.kind)
        places, numbers = len(branch), jnp.arange(self.actions)
        kind = kinds[jnp.clip(action - places, 0, len(kinds) - 1)]
        alike = jnp.concatenate([(branch == branch[jnp.clip(action, 0, places - 1)]) & (action < places),
                                 (kinds == kind) & (action >= places) & (action < self.actions - 1),
                                 jnp.reshape(action == self.actions - 1, 1)])  # fmt: skip
        return (alike & self.forward_mask(state)) | (numbers == action)

    def backward_mask(self, state: Tree):
        is_open = state.piece == len(self.pieces)
        leaf = (state.piece >= 0) & ((state.link >= 0).sum(1) <= 1)
        rest = self._rest(state)
        number = jnp.arange(self.most)
        repeats = (leaf[None] & (rest[None] == rest[:, None]) & (number[None] < number[:, None])).any(1)
        taken = jnp.where(is_open.any(), is_open, leaf & ~repeats)
        return jnp.append(taken & ~state.done, state.done)

    def parent(self, state: Tree, backward) -> Tree:
        at, nothing = jnp.minimum(backward, self.most - 1), self.most * self.slots
        slot = jnp.argmax(state.link[at] >= 0)
        target = state.link[at, slot]
        is_open, alone = state.piece[at] == len(self.pieces), target < 0
        piece = state.piece.at[at].set(jnp.where(is_open | alone, -1, len(self.pieces)))
        link = state.link.at[at].set(-1).at[at, 0].set(jnp.where(is_open, -1, target))
        back = jnp.where(is_open, -1, at * self.slots)
        link = link.reshape(-1).at[jnp.where(alone, nothing, target)].set(back, mode="drop").reshape(link.shape)
        new = self._canonical(piece, link)
        kept = jax.tree.map(lambda old, one: jnp.where(state.done, old, one), state, new)
        return kept._replace(done=jnp.bool_(False))

    def undo(self, state: Tree, action):
        after = self.step(state, action)
        leaf = (after.piece >= 0) & ((after.link >= 0).sum(1) <= 1)
        seen = self._rest(state)[self._open(state)]
        last = jnp.argmax(leaf & (self._rest(after) == seen))  # the first place whose piece leaves this tree
        opened = jnp.argmax(after.piece == len(self.pieces))
        found = jnp.where(action < self.most * self.slots, opened, jnp.where(state.piece[0] < 0, 0, last))
        return jnp.where(action == self.actions - 1, self.most, found)

    def hot(self, state: Tree):
        """Of every place its piece and, of the place before it that it is joined to, the number and both slots."""
        number = jnp.arange(self.most)[:, None]
        slot = jnp.argmax((state.link >= 0) & (state.link // self.slots < number), 1)
        before = jnp.take_along_axis(state.link, slot[:, None], 1)[:, 0]
        before = jnp.where((before >= 0) & (before // self.slots < number[:, 0]), before, -1)
        slot = jnp.where(before >= 0, slot, -1)
        joined = before >= 0
        values = [state.piece, jnp.where(joined, before // self.slots, -1), jnp.where(joined, before % self.slots, -1)]
        values = jnp.stack([*values, slot], 1)  # [N, 4], -1 for nothing
        starts = np.cumsum([0, len(self.pieces) + 1, self.most, self.slots])
        places = number * (self.width // self.most) + starts + values
        return jnp.where(values < 0, self.width, places).reshape(-1)

    def terminal(self, state: Tree):
        """(piece int32 [N], link int32 [N, S]), of which `assemble.smiles` makes a molecule."""
        return state.piece, state.link

    def _open(self, state: Tree):
        """The place that is open; 0 where none is."""
        return jnp.argmax(state.piece == len(self.pieces))

    def _rest(self, state: Tree):
        """The hash of the tree without the piece at each place that has one neighbour: uint32 [N]."""
        target = state.link.max(1)
        return jnp.where(target >= 0, state.branch.reshape(-1)[target], NOTHING)

    def _hashes(self, piece, value):
        """Of pieces [N] whose slots see the hashes value [N, S], for each of G ways to turn them: of the tree from the
        piece on, uint32 [N, G], and of the tree as it is seen from each slot, [N, G, S]. A turned piece has the sum of
        its slots' values by the weights of where they have come to."""
        weights = jnp.array(self.tables.weights)[piece]  # [N, G, S]
        value, kind = _mix(value)[:, None], _mix(piece.astype(jnp.uint32))[:, None]
        whole = (weights * value).sum(-1, dtype=jnp.uint32)
        seen = whole[..., None] + weights * (ENTRY - value)
        return _mix(whole ^ kind), _mix(seen ^ kind[..., None])

    def _canonical(self, piece, link) -> Tree:
        """The canonical form of a tree whose places are in any order, with gaps."""
        n, s = link.shape
        see = lambda branch: jnp.where(link >= 0, branch.reshape(-1)[link], NOTHING)  # noqa: E731

        def spread(branch, _):  # after i times the hashes of branches of depth i are right
            return self._hashes(piece, see(branch))[1].min(1), None

        branch, _ = jax.lax.scan(spread, jnp.zeros((n, s), jnp.uint32), None, n)
        whole, seen = self._hashes(piece, see(branch))
        root = jnp.argmin(jnp.where(piece >= 0, whole.min(1), ABSENT))
        whole, seen = (
            jnp.argmin(whole, 1),
            jnp.argmin(seen, 1),
        )  # the ways to turn: [N], and by the slot of entry [N, S]

        def visit(carry, at):  # breadth first
            order, entry, count = carry
            node = order[at]
            turn = jnp.where(entry[at] < 0, whole[node], seen[node, entry[at]])
            slots = jnp.array(self.tables.turns)[piece[node], turn]  # [S]: the old slot of each new one
            child = link[node, slots]
            new = (child >= 0) & (slots != entry[at]) & (at < count)
            to = jnp.where(new, count + jnp.cumsum(new) - 1, n)
            order = order.at[to].set(child // s, mode="drop")
            entry = entry.at[to].set(child % s, mode="drop")
            return (order, entry, count + new.sum()), slots

        start = (
            jnp.zeros(n, jnp.int32).at[0].set(root),
            jnp.full(n, -1, jnp.int32),
            (piece >= 0).any().astype(jnp.int32),
        )
        (order, _, count), slots = jax.lax.scan(visit, start, jnp.arange(n))
        there = jnp.arange(n) < count
        place = jnp.zeros(n, jnp.int32).at[jnp.where(there, order, n)].set(jnp.arange(n), mode="drop")
        back = jnp.zeros((n, s), jnp.int32).at[order[:, None], jnp.where(there[:, None], slots, s)]
        back = back.set(jnp.broadcast_to(jnp.arange(s), (n, s)), mode="drop")
        old = link[order[:, None], slots]
        joined = (old >= 0) & there[:, None]
        link = jnp.where(joined, place[old // s] * s + back[old // s, old % s], -1)
        branch = jnp.where(there[:, None], branch[order[:, None], slots], 0)
        return Tree(jnp.where(there, piece[order], -1), link, branch, jnp.bool_(False))


def _mix(x):
    """The end of MurmurHash3, uint32: each bit of the result depends on all."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
