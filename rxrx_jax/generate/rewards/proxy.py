"""The sEH proxy of Bengio et al. 2021 in JAX: a message-passing network that predicts how well a molecule binds to
soluble epoxide hydrolase, from published weights (GFNOrg/gflownet, MIT) that the user names by path.

71 features of an atom -> 64, twelve steps of an edge-conditioned convolution (Gilmer et al. 2017) and a GRU, Set2Set of
three steps (Vinyals et al. 2016), one linear layer. A bond has one of four kinds, so that the convolution has four
matrices, computed once. `python -m rxrx_jax.generate.rewards.seh` converts weights and compares with measurements.
"""

import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError, reason, shortened
from rxrx_jax.generate.rewards import checked
from rxrx_jax.molecules.chemistry import chem, quiet

FEATURES, WIDTH, STEPS, READS, KINDS = 71, 64, 12, 3, 4
HEAVIEST = 56  # atomic number; the one-hot ends with barium
SCALE = 8.0  # the proxy's value by this is the objective, as in recursionpharma/gflownet
SHAPES = {
    "p0": (64, 71), "p1": (64,), "p2": (64, 64), "p3": (64,), "p4": (128, 4), "p5": (128,), "p6": (4096, 128),
    "p7": (4096,), "p8": (192, 64), "p9": (192, 64), "p10": (192,), "p11": (192,), "p16": (256, 128),
    "p17": (256, 64), "p18": (256,), "p19": (256,), "p20": (1, 128), "p21": (1,),
}  # fmt: skip
BATCH, ATOMS = 64, 16  # molecules at a time, and what their atoms are padded to a multiple of: few shapes are compiled


class Graphs(NamedTuple):
    """B molecules of up to N atoms."""

    atoms: np.ndarray  # float32 [B, N, 71]
    bonds: np.ndarray  # int32 [B, N, N]: 0 none, 1 single, 2 double, 3 triple, 4 aromatic, 5 without a kind
    there: np.ndarray  # bool [B, N]


def load(path: pathlib.Path | str) -> dict[str, np.ndarray]:
    """Weights from the .npz that `seh convert` writes. Raises UserError for a file that is missing or not of them."""
    path = pathlib.Path(path)
    advice = "convert the published file: python -m rxrx_jax.generate.rewards.seh convert best_params.pkl.gz OUT.npz"
    try:
        with np.load(path, allow_pickle=False) as found:
            weights = {name: np.asarray(found[name], np.float32) for name in SHAPES if name in found.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file with weights of the sEH proxy; {advice}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an .npz of weights ({reason(error)}); {advice}") from error
    check(weights, str(path))
    return weights


def check(weights: dict[str, np.ndarray], path: str) -> None:
    """Raises UserError unless every array of SHAPES is there, in its shape and finite."""
    for name, shape in SHAPES.items():
        if name not in weights:
            raise UserError(f"{path} has no array {name}: it is not the sEH proxy's")
        if weights[name].shape != shape:
            raise UserError(f"{path}: {name} has the shape {weights[name].shape}, the sEH proxy's has {shape}")
        if not np.isfinite(weights[name]).all():
            raise UserError(f"{path}: {name} has values that are not finite; convert the file again")


def _features(mol: Any, smiles: str) -> tuple[np.ndarray, np.ndarray]:
    """(atoms [n, 71], kinds of bonds [n, n]) of RDKit's molecule."""
    lib = chem()
    kinds = lib.BondType
    columns = {kinds.SINGLE: 1, kinds.DOUBLE: 2, kinds.TRIPLE: 3, kinds.AROMATIC: 4, kinds.UNSPECIFIED: 1}
    hybrids = {lib.HybridizationType.SP: 10, lib.HybridizationType.SP2: 11, lib.HybridizationType.SP3: 12}
    n = mol.GetNumAtoms()
    atoms, bonds = np.zeros((n, FEATURES), np.float32), np.zeros((n, n), np.int32)
    for row, atom in zip(atoms, mol.GetAtoms()):
        if not 1 <= (number := atom.GetAtomicNum()) <= HEAVIEST:
            raise UserError(f"{smiles} has {atom.GetSymbol()}: the sEH proxy knows elements from H to Ba")
        row[{1: 0, 6: 1, 7: 2, 8: 3, 9: 4}.get(number, 5)] = 1
        row[9] = atom.GetIsAromatic()
        if (hybrid := atom.GetHybridization()) in hybrids:
            row[hybrids[hybrid]] = 1
        row[13] = atom.GetTotalNumHs(includeNeighbors=True)
        row[13 + number] = 1
    for bond in mol.GetBonds():
        if bond.GetBondType() not in columns:
            raise UserError(f"{smiles} has a bond of the kind {bond.GetBondType()}, which the sEH proxy does not know")
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[i, j] = bonds[j, i] = columns[bond.GetBondType()]
    if not mol.GetNumBonds():
        bonds[0, 0] = 5  # the published code joins the first atom to itself
    return atoms, bonds


def graphs(smiles: Sequence[str], atoms: int = ATOMS) -> Graphs:
    """What the network reads. Args: atoms, N is a multiple of it. Raises UserError, which names the SMILES."""
    found = []
    for one in smiles:
        with quiet():
            mol = chem().MolFromSmiles(one)
        if mol is None or not mol.GetNumAtoms():
            raise UserError(f"invalid SMILES {shortened(one)!r}")
        found.append(_features(mol, one))
    room = -(-max(len(rows) for rows, _ in found) // atoms) * atoms
    out = Graphs(
        np.zeros((len(found), room, FEATURES), np.float32),
        np.zeros((len(found), room, room), np.int32),
        np.zeros((len(found), room), bool),
    )
    for i, (rows, bonds) in enumerate(found):
        n = len(rows)
        out.atoms[i, :n], out.bonds[i, :n, :n], out.there[i, :n] = rows, bonds, True
    return out


def _linear(x, weight, bias=0.0):
    return jnp.matmul(x, weight.T, precision="highest") + bias


def _gru(weights, x, h):
    """PyTorch's: reset, update and new in this order."""
    of_x, of_h = _linear(x, weights["p8"], weights["p10"]), _linear(h, weights["p9"], weights["p11"])
    (r_x, z_x, n_x), (r_h, z_h, n_h) = jnp.split(of_x, 3, -1), jnp.split(of_h, 3, -1)
    update = jax.nn.sigmoid(z_x + z_h)
    return (1 - update) * jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h) + update * h


def _lstm(weights, x, h, c):
    """PyTorch's: input, forget, cell and output in this order."""
    gates = _linear(x, weights["p16"], weights["p18"]) + _linear(h, weights["p17"], weights["p19"])
    i, f, g, o = jnp.split(gates, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


@jax.jit
def apply(weights: dict[str, jax.Array], atoms: jax.Array, bonds: jax.Array, there: jax.Array) -> jax.Array:
    """The proxy's value of each of B molecules, float32 [B]; about 8 is a very good one. Args: as of `Graphs`."""
    kinds = jnp.concatenate([jnp.eye(KINDS), jnp.zeros((1, KINDS))])  # the last has no kind
    hidden = jax.nn.leaky_relu(_linear(kinds, weights["p4"], weights["p5"]))
    matrices = _linear(hidden, weights["p6"], weights["p7"]).reshape(KINDS + 1, WIDTH, WIDTH)  # [kind, in, out]
    joined = (bonds[..., None] == 1 + jnp.arange(KINDS + 1)).astype(jnp.float32)  # [B, N, N, kind]
    degree = jnp.maximum((bonds > 0).sum(-1), 1)[..., None]

    def step(h, _):
        sent = jnp.einsum("bjc,kcd->bjkd", h, matrices, precision="highest")
        mean = jnp.einsum("bijk,bjkd->bid", joined, sent, precision="highest") / degree
        message = jax.nn.leaky_relu(mean + _linear(h, weights["p2"], weights["p3"]))
        return _gru(weights, message, h), None

    h = jax.nn.leaky_relu(_linear(atoms, weights["p0"], weights["p1"]))
    h, _ = jax.lax.scan(step, h, None, STEPS)  # [B, N, 64]
    query = jnp.zeros((len(atoms), WIDTH))
    cell, read = query, jnp.zeros((len(atoms), 2 * WIDTH))
    for _ in range(READS):
        query, cell = _lstm(weights, read, query, cell)
        scores = jnp.where(there, jnp.einsum("bnc,bc->bn", h, query, precision="highest"), -jnp.inf)
        share = jax.nn.softmax(scores, -1)
        read = jnp.concatenate([query, jnp.einsum("bn,bnc->bc", share, h, precision="highest")], -1)
    return _linear(read, weights["p20"], weights["p21"])[:, 0]


def predict(weights: dict[str, np.ndarray], smiles: Sequence[str]) -> np.ndarray:
    """The proxy's values, float64 [n]: molecules of similar size are computed together, in the order given."""
    if not len(smiles):
        return np.zeros(0)
    order = sorted(range(len(smiles)), key=lambda i: len(smiles[i]))
    found = np.zeros(len(smiles))
    for at in range(0, len(order), BATCH):
        rows = order[at : at + BATCH]
        filled = rows + rows[:1] * (BATCH - len(rows) if len(order) > BATCH else 0)
        found[rows] = np.asarray(apply(weights, *graphs([smiles[i] for i in filled])))[: len(rows)]
    return found


def objective(weights: dict[str, np.ndarray], smiles: Sequence[str]) -> np.ndarray:
    """The proxy's values by 8, clipped to [0, 1]: float64 [n]. Raises UserError, naming the SMILES, for NaN."""
    values = predict(weights, smiles)
    return checked(np.clip(values[:, None] / SCALE, 0, 1), ("seh",), smiles.__getitem__)[:, 0]
