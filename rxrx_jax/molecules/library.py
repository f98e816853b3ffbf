"""A simulated library: molecules that RDKit joins from fragments, the same for the same seed. None is of a real screen.

A molecule is a ring system with one to three groups on it, directly or over a linker, one of which may carry another
ring system. Frequent fragments are frequent as in real libraries: scaffolds and environments have a long tail.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules.chemistry import chem, quiet

# Open bonds are written @1, @2 and @3 and become ring closures of SMILES (%10 and up), which join what a dot parts.
CORES = (
    "c1cc@1cc@2c1@3", "c1c@1cc@2nc1@3", "c1c@1ncnc1@2", "n1c@1ccc2c1cc@2cc2@3", "c1c@1c2ccc@2cc2n1@3",
    "C1CN@1CCN1@2", "C1CC@1CCN1@2", "c1c@1sc@2n1", "c1c@1oc@2c1@3", "c1c@1nn@2c1@3", "c1c@1nc2ccc@2cc2n1",
    "C1CC@1CCC1@2", "O=C1NC@1CN1@2", "c1c@1c2c(cc1@2)OCO2", "C1OCCN@1C1@2", "c1c@1cnc2n@2ccc12", "c1c@1c2cc@2oc2cc1@3",
    "c1nc@1nc(n1)@2", "O=c1cc@1oc2cc@2ccc12", "c1c@1onc1@2", "C1CC2CC@1C1N2@2", "c1c@1sc2ccc@2cc12", "n1nc@1sc1@2",
    "C1Cc2cc@1ccc2N1@2", "O=C1c2cc@1ccc2C(=O)N1@2", "c1c@1ccc2c1ccc1cc@2ccc12", "C1CC@1C1@2", "O=C1CC@1CN1@2",
)  # fmt: skip
LINKERS = (
    "C@1(=O)N@2", "C@1C@2", "O@1C@2", "N@1C@2", "S@1(=O)(=O)N@2", "C@1(=O)O@2", "N@1C(=O)N@2", "C@1(=O)@2", "C@1O@2",
    "C@1C(=O)N@2", "C@1=C@2", "C@1CCN@2", "S@1C@2", "C@1C(O)C@2",
)  # fmt: skip
GROUPS = (
    "C@1", "F@1", "Cl@1", "O@1C", "C@1(F)(F)F", "N@1(C)C", "O@1", "C@1#N", "C@1(=O)N", "N@1", "Br@1", "C@1C",
    "C@1(C)C", "C@1(=O)O", "N@1CCO", "C@1O", "S@1(=O)(=O)C", "N@1C(C)=O", "O@1C(F)F", "C@1(C)(C)C", "N@1CCCOC",
    "C@1(=O)OCC", "S@1C", "[N+]@1(=O)[O-]", "C@1CN(C)C", "C@1CCCC", "I@1", "O@1CCN(CC)CC", "S@1(N)(=O)=O", "C@1#C",
    "P@1(=O)(OC)OC", "B@1(O)O",
)  # fmt: skip
ENDS = (
    "c1@1ccccc1", "c1@1ccncc1", "c1@1ccc(F)cc1", "C1@1CCCC1", "N1@1CCOCC1", "N1@1CCN(C)CC1", "c1@1cccs1", "C1@1CC1",
    "N1@1CCCC1", "c1@1ccc(OC)cc1", "c1@1ccc(Cl)cc1Cl", "n1@1ccnc1", "c1@1ccco1", "N1@1CCC(O)CC1", "C1@1CCNCC1",
    "c1@1cnn(C)c1", "c1@1cccc2ccccc12", "c1@1nc2ccccc2s1", "C1@1CCOCC1", "c1@1ccc(C(F)(F)F)cc1",
)  # fmt: skip
TARGETS = ("logp", "tpsa", "basic")  # computed by RDKit, not measured
KINDS = ("regression", "regression", "classification")
TAIL = 0.9  # the k-th of a list of fragments is drawn as often as (k + 1) ** -TAIL
TRIES = 200  # draws for each molecule that is wanted


def simulated(count: int, seed: int = 0) -> list[str]:
    """`count` different molecules, as canonical SMILES; a shorter library is the beginning of a longer one.

    Raises UserError for more than can be drawn.
    """
    if count < 1:
        raise UserError(f"count={count}: use 1 or more")
    found: dict[str, None] = {}
    with quiet():
        for place, text in enumerate(_drawn(seed)):
            mol = chem().MolFromSmiles(text)
            if mol is not None:  # some joints give no valid molecule
                found.setdefault(chem().MolToSmiles(mol))
            if len(found) == count:
                return list(found)
            if place > 1000 + TRIES * count:
                raise UserError(f"count={count}: {len(found):,} different molecules is all that these fragments gave")
    raise AssertionError


def _drawn(seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    weights = {}
    for names in (CORES, LINKERS, GROUPS, ENDS):
        weight = np.arange(1, len(names) + 1) ** -TAIL
        weights[names] = weight / weight.sum()

    def one(names: tuple[str, ...]) -> str:
        return names[rng.choice(len(names), p=weights[names])]

    while True:
        joints, parts = 10, []
        core = one(CORES)
        for slot in ("@1", "@2", "@3"):
            if slot not in core:
                continue
            if slot != "@1" and rng.random() < 0.25:
                core = core.replace(slot, "")
                continue
            core, joint = core.replace(slot, f"%{joints}"), f"%{joints}"
            joints += 1
            if slot != "@1" and rng.random() < 0.6:
                parts.append(one(GROUPS).replace("@1", joint))
                continue
            if rng.random() < 0.7:
                linker = one(LINKERS).replace("@1", joint).replace("@2", f"%{joints}")
                parts.append(linker)
                joint = f"%{joints}"
                joints += 1
            parts.append(one(ENDS if rng.random() < 0.8 else GROUPS).replace("@1", joint))
        yield ".".join((core, *parts))


def properties(mol: Any) -> tuple[float, ...]:
    """What TARGETS names, of RDKit's molecule: Crippen's logP, the topological polar surface area in square angstroms,
    and 1 if it has an amine that is a base, else 0."""
    from rdkit.Chem import Crippen, rdMolDescriptors

    return Crippen.MolLogP(mol), rdMolDescriptors.CalcTPSA(mol), float(mol.HasSubstructMatch(_amine()))


def _amine():
    return chem().MolFromSmarts("[NX3;H2,H1,H0;!$(N-[C,S,P]=[O,N,S]);!$(N-[c,n,a]);!$(N-C#N);!$(N-N)]")
