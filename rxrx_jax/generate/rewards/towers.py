"""Frozen towers of runs of `molecule_map.py` in one file: where a map has its genes, and where a structure is predicted
to be. `python -m rxrx_jax.freeze_tower` writes it; several runs in one world are an ensemble.

A simulated screen's file also knows its molecules and its seed, and so what any molecule truly does.
"""

import dataclasses
import difflib
import functools
import io
import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from rxrx_jax.base import files
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.sharding import on_one_device
from rxrx_jax.models.molecule import MoleculeHead, Towers, Wells, make_molecule_encoder
from rxrx_jax.molecules import fingerprints, records, screen
from rxrx_jax.molecules.standardise import BadMolecule
from rxrx_jax.molecules.vocabulary import Vocabulary

MINIBATCH, SIZES = 32, (24, 32, 48, 64, 96, 128, 256)  # molecules at a time, and the atoms that they are padded to
NEAR, AGAIN = 5, "make it again with python -m rxrx_jax.freeze_tower"


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """An ensemble of m towers.

    params: trees of `Towers`, one for each. model: keys of `config.model`; outputs: of the towers. doses: micromolar.
    genes: names, sorted; positions [g, d], of them as embeddings of wells; centre, scale [d], of embeddings as the
    towers know them. library: SMILES of the molecules whose wells there are; trained: bool, of each. screen_seed: of a
    simulated screen, else None."""

    params: tuple[dict, ...]
    model: dict
    outputs: int
    doses: tuple[float, ...]
    vocabulary: Vocabulary
    genes: tuple[str, ...]
    positions: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    library: tuple[str, ...]
    trained: np.ndarray
    screen_seed: int | None = None

    @functools.cached_property
    def towers(self) -> Towers:
        encoder = make_molecule_encoder(Config(self.model), self.vocabulary.size)
        return Towers(encoder, MoleculeHead(self.outputs), Wells(self.outputs))

    def place(self, gene: str, where: str) -> int:
        """The number of a gene. Raises UserError, which names near ones, where the map has none of that name."""
        if gene in self.genes:
            return self.genes.index(gene)
        upper = {name.upper(): name for name in self.genes}
        near = [upper[name] for name in difflib.get_close_matches(gene.upper(), upper, NEAR, 0.5)]
        said = f"near it are {', '.join(near)}" if near else f"it has {', '.join(self.genes[:NEAR])} and others"
        raise UserError(f"task.gene={shortened(gene)!r} is not in the map of {where}; {said}")

    @on_one_device()
    def of_molecules(self, smiles: Sequence[str]) -> np.ndarray:
        """Unit vectors of canonical SMILES at the highest dose, float32 [m, n, outputs]. Raises UserError, naming
        the SMILES, for an invalid molecule."""
        found = np.zeros((len(self.params), len(smiles), self.outputs), np.float32)
        made = []
        for text in smiles:
            try:
                made.append(records.featurise(text, self.vocabulary))
            except BadMolecule as error:
                raise UserError(f"the map has no position of {shortened(text)}: {error}") from None
        size = np.searchsorted(SIZES, [len(one.tokens) for one in made])
        for s in np.unique(size):
            places = np.flatnonzero(size == s)
            for at in range(0, len(places), MINIBATCH):
                rows = places[at : at + MINIBATCH]
                views = self._views([made[i] for i in rows], SIZES[s])
                for member, params in enumerate(self.params):
                    found[member, rows] = np.asarray(self._molecules(params, views))[: len(rows)]
        return found

    @on_one_device()
    def of_wells(self, x: np.ndarray) -> np.ndarray:
        """Unit vectors of embeddings of wells [n, d], as they were given: float32 [m, n, outputs]."""
        x = ((x - self.centre) / self.scale).astype(np.float32)
        return np.stack([np.asarray(self._wells(params, x)) for params in self.params])

    def nearest(self, smiles: Sequence[str]) -> np.ndarray:
        """Tanimoto's similarity of SMILES to the nearest molecule that the towers were trained on: float32 [n]."""
        return fingerprints.tanimoto(fingerprints.morgan(smiles), self._fingerprints).max(1)

    @functools.cached_property
    def hidden(self) -> screen.Hidden:
        """What the simulated screen's compounds do. Raises UserError where nothing is simulated."""
        if self.screen_seed is None:
            raise UserError("these towers are not of a simulated screen: what a molecule truly does is not known")
        return screen.hidden(self.library, self.screen_seed)

    @functools.cached_property
    def _fingerprints(self) -> np.ndarray:
        return fingerprints.morgan([text for text, there in zip(self.library, self.trained) if there])

    @functools.cached_property
    def _molecules(self):
        dose = np.full(MINIBATCH, np.argmax(self.doses))
        return jax.jit(lambda params, views: self.towers.of_molecules(params, views, dose))

    @functools.cached_property
    def _wells(self):
        return jax.jit(self.towers.of_wells)

    def _views(self, made: list[records.Molecule], atoms: int) -> dict[str, np.ndarray]:
        """As `data.molecules.collate`, of at most MINIBATCH molecules."""
        tokens = np.zeros((MINIBATCH, atoms + 1), np.int32)
        distances = np.zeros((MINIBATCH, atoms + 1, atoms + 1), np.uint8)
        tokens[:, 0] = self.vocabulary.cls
        for i, one in enumerate(made):
            end = 1 + len(one.tokens)
            tokens[i, 1:end], distances[i, 1:end, 1:end] = one.tokens, one.distances
        return {"tokens": tokens, "distances": distances}


def save(path: pathlib.Path, frozen: Frozen) -> None:
    """Writes the file, which appears when complete; the same bytes for the same towers."""
    about = {name: getattr(frozen, name) for name in ("model", "outputs", "doses", "genes", "library", "screen_seed")}
    about |= {"tokens": frozen.vocabulary.tokens, "labels": frozen.vocabulary.labels, "members": len(frozen.params)}
    arrays = {name: getattr(frozen, name) for name in ("positions", "centre", "scale", "trained")}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    for i, params in enumerate(frozen.params):
        for keys, value in jax.tree_util.tree_leaves_with_path(params):
            arrays["/".join([str(i), *(key.key for key in keys)])] = np.asarray(value)
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write(path, content.getvalue())


def load(path: str) -> Frozen:
    """Reads what `save` wrote. Raises UserError where there is none, or it is damaged."""
    if not path:
        raise UserError("task.tower names the file of a map's frozen tower: make one of a run of molecule_map.py with "
                        "python -m rxrx_jax.freeze_tower")  # fmt: skip
    try:
        with np.load(io.BytesIO(pathlib.Path(path).read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
        vocabulary = Vocabulary(tuple(about.pop("tokens")), tuple(about.pop("labels")))
        params: list[dict] = [{} for _ in range(about.pop("members"))]
        given = {name: arrays.pop(name) for name in ("positions", "centre", "scale", "trained")}
        for name, value in arrays.items():
            member, *parents, last = name.split("/")
            node = params[int(member)]
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = value
        about |= {name: tuple(about[name]) for name in ("doses", "genes", "library")}
        return Frozen(params=tuple(params), vocabulary=vocabulary, **about, **given)
    except FileNotFoundError:
        raise UserError(f"task.tower={path}: no such file; make it with python -m rxrx_jax.freeze_tower") from None
    except Exception as error:  # a damaged archive raises anything
        raise UserError(
            f"task.tower={path} is damaged or not a frozen tower ({type(error).__name__}); {AGAIN}"
        ) from error
