"""Writes seh.npz: what PyTorch makes of the sEH proxy's definition (recursionpharma/gflownet, MIT: NNConv and Set2Set
of PyTorch Geometric, the GRU and LSTM of PyTorch), written independently, one molecule at a time.

pip install torch==2.13.0 rdkit==2026.9.1
cd tests && python -m reference.peers.generate.seh ../../shared/data/molecules/seh_proxy.npz

`random` is of `weights()`, `published` of the file.
"""

import pathlib
import sys

import numpy as np

PATH = pathlib.Path(__file__).with_suffix(".npz")
SHAPES = [
    (64, 71),
    (64,),
    (64, 64),
    (64,),
    (128, 4),
    (128,),
    (4096, 128),
    (4096,),
    (192, 64),
    (192, 64),
    (192,),
    (192,),
]
SHAPES += [(512, 64), (512,), (105, 512), (105,), (256, 128), (256, 64), (256,), (256,), (1, 128), (1,)]
EDGES = ["C", "[NH4+]", "CC", "[Na+].[Cl-]", "C#N", "c1ccccc1", "BrI", "C[Si](C)(C)C", "O=S(=O)(O)O", "[2H]OC"]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """p0 to p21, float32, of a size at which the network's outputs differ."""
    random = np.random.default_rng(seed)
    return {
        f"p{i}": (random.normal(size=shape) * 0.9 / np.sqrt(shape[-1])).astype(np.float32)
        for i, shape in enumerate(SHAPES)
    }


def torch_forward(arrays: dict[str, np.ndarray], smiles: str) -> float:
    import torch
    from rdkit import Chem

    p = [torch.tensor(arrays[f"p{i}"]) for i in range(22)]
    gru, lstm = torch.nn.GRU(64, 64), torch.nn.LSTM(128, 64)
    for module, first in ((gru, 8), (lstm, 16)):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        module.load_state_dict({name: p[first + i] for i, name in enumerate(names)})
    mol = Chem.MolFromSmiles(smiles)
    x = torch.zeros(mol.GetNumAtoms(), 71)
    for i, atom in enumerate(mol.GetAtoms()):
        x[i, {"H": 0, "C": 1, "N": 2, "O": 3, "F": 4}.get(atom.GetSymbol(), 5)] = 1
        x[i, 9] = float(atom.GetIsAromatic())
        for column, name in ((10, "SP"), (11, "SP2"), (12, "SP3")):
            x[i, column] = float(str(atom.GetHybridization()) == name)
        x[i, 13] = atom.GetTotalNumHs(includeNeighbors=True)
        x[i, 14 + atom.GetAtomicNum() - 1] = 1
    source, target, attributes = [], [], []
    for bond in mol.GetBonds():
        kind = {"SINGLE": 0, "DOUBLE": 1, "TRIPLE": 2, "AROMATIC": 3}[str(bond.GetBondType())]
        for a, b in ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()), (bond.GetEndAtomIdx(), bond.GetBeginAtomIdx())):
            source, target, attributes = source + [a], target + [b], attributes + [np.eye(4)[kind]]
    if not source:
        source, target, attributes = [0], [0], [np.zeros(4)]
    attributes = torch.tensor(np.array(attributes), dtype=torch.float32)
    act, linear = torch.nn.functional.leaky_relu, torch.nn.functional.linear
    of_edges = linear(act(linear(attributes, p[4], p[5])), p[6], p[7]).view(-1, 64, 64)
    count = torch.bincount(torch.tensor(target), minlength=len(x)).clamp(min=1)
    out = act(linear(x, p[0], p[1]))
    h = out[None]
    for _ in range(12):
        total = torch.zeros(len(x), 64)
        for e, (a, b) in enumerate(zip(source, target)):
            total[b] += out[a] @ of_edges[e]
        message = act(total / count[:, None] + linear(out, p[2]) + p[3])
        out, h = gru(message[None], h)
        out = out[0]
    read, memory = torch.zeros(1, 128), (torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))
    for _ in range(3):
        query, memory = lstm(read[None], memory)
        share = torch.softmax((out * query[0]).sum(1), 0)
        read = torch.cat([query[0], (share[:, None] * out).sum(0, keepdim=True)], 1)
    return float(linear(read, p[20], p[21]))


def run(arrays: dict[str, np.ndarray], smiles: list[str]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.array([torch_forward(arrays, one) for one in smiles])


def main():
    from rxrx_jax.molecules.library import simulated

    smiles = EDGES + simulated(100 - len(EDGES))
    with np.load(sys.argv[1]) as published:
        of_published = run(dict(published), smiles)
    np.savez_compressed(PATH, smiles=smiles, random=run(weights(), smiles), published=of_published)


if __name__ == "__main__":
    main()
