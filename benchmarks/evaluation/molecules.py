"""Speed of molecules: `python benchmarks/evaluation/molecules.py [--source=FILE.csv] [--molecules=8000]`, a JSON line.

Times are processor time, which other work on the machine disturbs less, and the best of some; what is imported is
imported before, by a build of 20 molecules. Without --source the molecules are simulated.

read: microseconds a molecule to read records in random order, 128 at a time, the opening of the folder included, beside
those to make the same arrays of the same canonical SMILES with RDKit (parsing, environments, vocabulary; no InChIKey).
build: seconds of a whole build in one process, and the share that RDKit's own functions take, which are timed alone on
some of the molecules in the same run. Two processes are compared by what the slower way through a build takes: all of
the first process, and half of what its two workers take, their start included; and, where there are two cores,
by the clock.
encoder: milliseconds of the gradients of MolE's encoder at the size of `mole.py` for 32 molecules of 32 atoms, and,
where transformers and torch are installed, of its DebertaV2 of equal shape. buckets: how many times as fast a molecule
of the built library is on average when it is padded to its bucket as when it is padded to that of the longest.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from multiprocessing import forkserver

import numpy as np

from rxrx_jax.base import command
from rxrx_jax.molecules import chemistry, environments, library, records
from tfds_builders.molecules import build, table

MINIBATCH, SAMPLE = 128, 1000
LANES, WIDTH, DEPTH, MLP, HEADS, VOCABULARY = 32, 96, 4, 384, 4, 211  # of an encoder's step


def source(path: str | None, count: int, folder: pathlib.Path) -> pathlib.Path:
    """A csv file of the first molecules."""
    smiles = table.read(pathlib.Path(path)).smiles[:count] if path else library.simulated(count)
    out = folder / "molecules.csv"
    out.write_text("smiles\n" + "".join(f'"{text}"\n' for text in smiles))
    return out


def read(folder: pathlib.Path, repeats: int) -> dict:
    """Reading all records, and featurising some of them, microseconds each."""
    reading = on_the_fly = float("inf")
    lib = chemistry.chem()
    for _ in range(repeats):
        start = time.process_time()
        found = records.open_folder(folder)
        order = np.random.default_rng(0).permutation(len(found.table["row"]))
        for at in range(0, len(order), MINIBATCH):
            found.read(order[at : at + MINIBATCH])
        reading = min(reading, (time.process_time() - start) / len(order))
        texts = found.table["smiles"][order[:SAMPLE]]
        start = time.process_time()
        for text in texts:
            own = environments.environments(lib.MolFromSmiles(text))
            found.vocabulary.encode_tokens(own.atoms), found.vocabulary.encode_labels(own.labels)
        on_the_fly = min(on_the_fly, (time.process_time() - start) / len(texts))
    return {
        "read_us": round(1e6 * reading, 1),
        "featurise_us": round(1e6 * on_the_fly, 1),
        "times_faster": round(on_the_fly / reading, 1),
        "bytes": round(sum(one["bytes"] for one in found.about["splits"].values()) / len(order)),
    }


def of_workers() -> float:
    """Seconds of processor time of the process that starts workers, and of those that have ended."""
    pid = forkserver._forkserver._forkserver_pid
    if pid is None:
        return 0.0
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own and its children's, user and system


def in_rdkit(texts: list[str]) -> float:
    """Seconds a molecule that RDKit's functions take of what a build asks of them."""
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.Chem.Scaffolds import MurckoScaffold

    lib, generator = chemistry.chem(), environments._generator()[0]
    start = time.process_time()
    with chemistry.quiet():
        for text in texts:
            mol = lib.MolFromSmiles(text)
            if mol is None:
                continue
            smiles = lib.MolToSmiles(mol)
            mol = lib.MolFromSmiles(smiles)
            lib.MolToInchiKey(mol)
            if "@" in smiles or "/" in smiles:
                lib.MolToSmiles(mol, isomericSmiles=False)
            MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)
            output = rdFingerprintGenerator.AdditionalOutput()
            output.AllocateAtomToBits()
            generator.GetSparseCountFingerprint(mol, additionalOutput=output)
            output.GetAtomToBits()
            lib.GetDistanceMatrix(mol)
    return (time.process_time() - start) / len(texts)


def best(step, repeats: int) -> float:
    """The least processor time of a call after one that compiles."""
    step()
    found = float("inf")
    for _ in range(max(repeats, 2)):
        start = time.process_time()
        step()
        found = min(found, time.process_time() - start)
    return found


def ours(atoms: int, lanes: int):
    """A call that makes the gradients of our encoder for `lanes` molecules of so many atoms."""
    import jax

    from rxrx_jax.models.molecule import POSITIONS, MoleculeEncoder
    from rxrx_jax.models.vit import Size

    random, shape = np.random.default_rng(0), (lanes, atoms + 1)
    tokens = random.integers(1, VOCABULARY, shape).astype(np.int32)
    distances = random.integers(0, POSITIONS, (*shape, atoms + 1)).astype(np.uint8)
    encoder = MoleculeEncoder(Size(WIDTH, DEPTH, MLP, HEADS), VOCABULARY)
    params = encoder.init(jax.random.key(0), tokens, distances)
    options = {"train": True, "rngs": {"dropout": jax.random.key(1)}}
    loss = lambda params: encoder.apply(params, tokens, distances, **options)[1]["embedding"].sum()  # noqa: E731
    step = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(step(params))


def of_torch(atoms: int, lanes: int):
    """The same of DebertaV2, or None where it is not installed."""
    try:
        import torch
        from transformers import DebertaV2Config, DebertaV2Model
    except ImportError:
        return None
    config = DebertaV2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=MLP,
        vocab_size=VOCABULARY, type_vocab_size=0, relative_attention=True, max_relative_positions=64,
        position_buckets=-1, pos_att_type=["c2p", "p2c"], share_att_key=True, norm_rel_ebd="layer_norm",
        position_biased_input=False, layer_norm_eps=1e-7, hidden_act="gelu", attn_implementation="eager",
    )  # fmt: skip
    model = DebertaV2Model(config).train()
    tokens = torch.randint(1, VOCABULARY, (lanes, atoms + 1))

    def step():
        model.zero_grad()
        model(tokens).last_hidden_state[:, 0].sum().backward()

    return step


def encoder(atoms: np.ndarray, repeats: int) -> dict:
    """Args: atoms [n], of a library's molecules."""
    from rxrx_jax.data.molecules import BUCKETS

    theirs, places = of_torch(BUCKETS[0], LANES), np.searchsorted(BUCKETS, atoms)
    lanes = [max(LANES * BUCKETS[0] // size, 4) for size in BUCKETS]
    each = [best(ours(size, n), repeats) / n for size, n in zip(BUCKETS, lanes)]  # seconds of a molecule
    mine, torch = each[0] * LANES, best(theirs, repeats) if theirs else None
    return {
        "encoder_ms": round(1e3 * mine, 1),
        "debertav2_ms": torch and round(1e3 * torch, 1),
        "of_debertav2": torch and round(mine / torch, 2),
        "buckets_times_faster": round(float(each[places.max()] / np.mean([each[place] for place in places])), 1),
    }


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="a csv file of SMILES")
    parser.add_argument("--molecules", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=3, help="of everything, of which the fastest counts")
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        made_of = source(flags.source, flags.molecules, folder)
        texts = table.read(made_of).smiles
        records.open_folder(build.prepare(None, folder, 1, progress=False, count=20))
        one, clock, two, of_rdkit = [], {1: [], 2: []}, [], []
        for repeat in range(flags.repeats):
            for workers in (1, 2):
                start, first, others = time.perf_counter(), time.process_time(), of_workers()
                prepared = build.prepare(made_of, folder / f"{workers}-{repeat}", workers, progress=False)
                first = time.process_time() - first
                clock[workers].append(time.perf_counter() - start)
                one.append(first) if workers == 1 else two.append(first + (of_workers() - others) / 2)
            of_rdkit.append(in_rdkit(texts[:: max(1, len(texts) // SAMPLE)]) * len(texts))
        result = {
            "molecules": pathlib.Path(flags.source).name if flags.source else "simulated",
            "rows": len(texts),
            **read(prepared, flags.repeats),
            "build_s": round(min(one), 2),
            "share_in_rdkit": round(min(of_rdkit) / min(one), 2),
            "two_processes": round(min(one) / min(two), 2),
            "two_processes_by_the_clock": round(min(clock[1]) / min(clock[2]), 2) if len(command.cores()) > 1 else None,
            **encoder(records.open_folder(prepared).table["atoms"], flags.repeats),
            "rdkit": chemistry.version(),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(command.run(main))
