"""Molecules: SMILES to what an encoder reads (tokens and labels of atoms, distances), vocabularies, scaffold splits,
metrics, records and a simulated library. Pure functions; RDKit is imported when the first of them needs it.

    standardise.py   SMILES -> canonical SMILES, InChIKey, one molecule of the salts that it may have
    environments.py  molecule -> Morgan identifiers of its atoms and distances between them
    vocabulary.py    identifiers -> tokens and labels
    fingerprints.py  SMILES -> Morgan fingerprints, and how alike two are
    split.py         scaffolds, the scaffold split of TDC, what two splits share
    metrics.py       metrics of properties, and those of the 22 ADMET tasks by name
    library.py       a simulated library
    records.py       a molecule's record, and the records of a prepared folder
"""
