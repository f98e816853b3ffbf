"""The source of molecules: records of a prepared library, each minibatch padded to one of four sizes.

A minibatch is a dict of numpy arrays, this host's part of the global one, with N = atoms of its bucket + 1, CLS first:
tokens int32 [B, N], 0 for padding; labels int32 [B, N], 0 where nothing is to be predicted; distances uint8 [B, N, N],
0 to and from CLS and padding; targets float32 [B, t], NaN where missing; valid bool [B], False for a padded example.
"""

import dataclasses
import functools
import hashlib

import jax
import numpy as np

from rxrx_jax.base import hosts
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.batch import TRAIN
from rxrx_jax.data.images import LeavingOut
from rxrx_jax.data.minibatches import host_part, read_ahead
from rxrx_jax.data.molecules.library import Library, beside, open_library, read_library
from rxrx_jax.data.sampler import BucketSampler

BUCKETS = (32, 48, 96, 256)  # atoms
BESIDE = "*"


@dataclasses.dataclass(frozen=True)
class Molecules:
    """dataset: a Library; sampler: of its training molecules, `size` per minibatch."""

    dataset: Library
    sampler: object
    evaluated_as = "molecules"
    units = {TRAIN: 1}
    lengths = {TRAIN: "data.minibatch"}
    constants = {}
    shares = {}

    @property
    def samplers(self) -> dict:
        return {TRAIN: self.sampler}

    @property
    def examples(self) -> int:
        return self.sampler.size * self.sampler.steps_per_epoch

    @property
    def fingerprint(self) -> str:
        rows = self.sampler.drawn_from
        if len(rows) == len(self.dataset.roles.fit):
            return self.dataset.digest
        return f"{self.dataset.digest} rows {hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()}"

    @property
    def keeps(self) -> dict[str, bytes]:
        """The vocabulary, without which nothing can read the encoder."""
        from rxrx_jax.molecules.records import VOCABULARY

        folder = self.dataset.folder
        return {} if folder is None else {VOCABULARY: (folder / VOCABULARY).read_bytes()}

    @property
    def view(self) -> dict[str, jax.ShapeDtypeStruct]:
        columns = columns_of(self.dataset, 1, BUCKETS[0])
        return {name: columns[name] for name in ("tokens", "distances")}

    @functools.cached_property
    def shapes(self) -> list[tuple[float, dict]]:
        """(share of the first epoch's minibatches, spec) of each bucket that training molecules need, the largest
        first."""
        there = np.unique(np.searchsorted(BUCKETS, self.dataset.atoms[self.sampler.drawn_from]))
        steps = range(self.sampler.steps_per_epoch)
        used = [np.searchsorted(BUCKETS, bucket_of(self.dataset, self.sampler.rows(step))) for step in steps]
        spec = lambda b: {TRAIN: columns_of(self.dataset, self.sampler.size, BUCKETS[b])}  # noqa: E731
        return [(used.count(b) / len(steps), spec(b)) for b in there[::-1]]

    @property
    def spec(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        return self.shapes[0][1]

    def views(self, columns, constants, keys, number):
        """The same molecules `number` times: {"tokens" [B, N], "distances" [B, N, N]} each."""
        return ({name: columns[name] for name in ("tokens", "distances")},) * number

    def minibatches(self, start: int, steps: int):
        return read_ahead(_Steps(self.dataset, self.sampler, steps), start)

    def rows(self, step: int) -> list[dict]:
        rows = self.sampler.rows(step)
        return [{"row": int(r), "inchikey": str(self.dataset.inchikey[r]), "atoms": int(self.dataset.atoms[r])}
                for r in rows]  # fmt: skip

    def without(self, step: int, instead: int) -> "Molecules":
        return dataclasses.replace(self, sampler=LeavingOut(self.sampler, step, instead))


class _Steps:
    """A Grain random-access source whose element number i is this host's part of minibatch number i."""

    def __init__(self, library: Library, sampler, steps: int):
        self.library, self.sampler, self.steps = library, sampler, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        rows = self.sampler.rows(int(step))
        return {TRAIN: collate(self.library, host_part(rows), bucket_of(self.library, rows))}


def bucket_of(library: Library, rows: np.ndarray) -> int:
    """The atoms to pad to: of the smallest bucket that the molecules of rows [n] fit."""
    return BUCKETS[np.searchsorted(BUCKETS, library.atoms[rows].max())]


def columns_of(library: Library, size: int, atoms: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What `collate` returns, as shapes."""
    n = atoms + 1
    shapes = {
        "tokens": ((size, n), np.int32),
        "distances": ((size, n, n), np.uint8),
        "labels": ((size, n), np.int32),
        "targets": ((size, len(library.targets)), np.float32),
        "valid": ((size,), bool),
    }
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


def collate(library: Library, rows: np.ndarray, atoms: int, size: int | None = None) -> dict[str, np.ndarray]:
    """The records of rows [n], padded to `size` molecules (n) of so many atoms and CLS.

    Raises UserError for a record that cannot be read."""
    columns = columns_of(library, len(rows) if size is None else size, atoms)
    out = {name: np.zeros(x.shape, x.dtype) for name, x in columns.items()}
    out["tokens"][:, 0] = library.cls
    out["targets"][:] = np.nan
    out["valid"][: len(rows)] = True
    try:
        records = library.read(rows)
    except ValueError as error:
        raise UserError(f"a record of {library.where} cannot be read ({error}): prepare it again") from error
    for lane, record in enumerate(records):
        end = 1 + len(record.tokens)
        out["tokens"][lane, 1:end], out["labels"][lane, 1:end] = record.tokens, record.labels
        out["distances"][lane, 1:end, 1:end] = record.distances
        out["targets"][lane] = record.targets
    return out


def evaluation_minibatches(library: Library, rows: np.ndarray, size: int):
    """Iterator over (places [n] in `rows`, this host's part of a minibatch) in which each of rows [m] is once, from the
    smallest molecule to the largest; the last one of each bucket is padded to `size` with `valid` False."""
    bucket, parts = np.searchsorted(BUCKETS, library.atoms[rows]), []
    for b in np.unique(bucket):
        places = np.flatnonzero(bucket == b)
        parts += [(places[i : i + size], BUCKETS[b]) for i in range(0, len(places), size)]
    local = size // jax.process_count()

    def read(part):
        places, atoms = part
        lanes = host_part(np.arange(size))
        mine = places[lanes[lanes < len(places)]]
        return places, collate(library, rows[mine], atoms, local)

    return map(read, parts)


def _others(library: Library, names: tuple[str, ...], *where: str | None) -> list[Library]:
    """The molecules that `data.leave_out` names; BESIDE stands for all that were prepared beside the library with its
    vocabulary, which is what an encoder that is trained on it can be scored on. Args: where, folder and cache of
    `open_library`."""
    found = [open_library(name, {}, *where) for name in names if name != BESIDE]
    return found + [read_library(path, where[-1]) for path in beside(library) if BESIDE in names]


def make(config: Config, library: Library | None = None) -> Molecules:
    """The source of `config.data`. All hosts call it; a missing simulated library is built by the first host.

    Raises UserError for what cannot be drawn."""
    c = config.data
    where = c.get("folder"), c.get("cache")
    find = functools.cache(lambda: library or open_library(c.name, c.builder.as_kwargs(), *where))
    hosts.on_first_host(lambda: find() and None)
    found = hosts.on_all_hosts(find)
    if "phenomics" in c:
        from rxrx_jax.data.molecules import phenomics

        found = hosts.on_all_hosts(lambda: phenomics.attach(found, c.phenomics, c.screen_seed))
    rows, others = found.roles.fit, c.get("leave_out", ())
    for other in hosts.on_all_hosts(lambda: _others(found, others, *where)):
        scored = other.inchikey[np.concatenate([*other.roles.scored.values()])]
        kept = rows[~np.isin(found.inchikey[rows], scored)]
        hosts.say(f"{len(rows) - len(kept)} training molecules are scored in {other.where} and left out")
        rows = kept
    c.get("unreadable", 0)  # none is: a record that cannot be read stops the run
    return Molecules(found, BucketSampler(rows, found.atoms[rows], c.minibatch, BUCKETS, config.seed))
