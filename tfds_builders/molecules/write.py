"""Writes the records of a build, and the files beside them."""

import csv
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from rxrx_jax.base import files
from rxrx_jax.molecules import records, vocabulary
from rxrx_jax.molecules.split import SPLITS, check_disjoint
from rxrx_jax.molecules.vocabulary import UNKNOWN_LABEL, Vocabulary
from tfds_builders.molecules import features
from tfds_builders.molecules.merge import Merged
from tfds_builders.molecules.table import Table

VOCABULARY = records.VOCABULARY
SHARD = 8192  # molecules
# One record per group: molecules are drawn one by one. Uncompressed, as they are a kilobyte and read in microseconds.
OPTIONS = "group_size:1,uncompressed"
ABOUT = {
    "description": "Molecules: canonical SMILES, InChIKey, Morgan environments of radius 0 and 2 of every atom, "
    "topological distances and targets, one string of bytes each that rxrx_jax.molecules.records.decode reads.",
    "license": "That of the source.",
}


class Shard(NamedTuple):
    """A file of records to write, of molecules that are in some chunks."""

    split: str
    path: pathlib.Path
    parts: list[tuple[pathlib.Path, list[int], list[tuple]]]  # chunk, places in it, (smiles, inchikey, row, targets)


class Counts(NamedTuple):
    """What a shard holds."""

    bytes: int
    atoms: int
    unknown_tokens: int
    unknown_labels: int
    molecules_with_unknown_tokens: int


def shards(folder: pathlib.Path, merged: Merged, chunks: list[pathlib.Path], sizes: np.ndarray) -> list[tuple[Shard]]:
    """The shards of every split, as arguments of `work`. Args: sizes, molecules in each chunk."""
    starts = np.cumsum([0, *sizes])
    found = []
    for split in SPLITS:
        places = merged.places[split]
        pieces = [places[at : at + SHARD] for at in range(0, len(places), SHARD)]
        for i, piece in enumerate(pieces):
            where = np.searchsorted(starts, piece, "right") - 1
            parts = []
            for chunk in np.unique(where).tolist():
                mine = piece[where == chunk]
                facts, within = merged.facts, (mine - starts[chunk]).tolist()
                texts = [
                    (facts.smiles[at], facts.inchikeys[at], facts.rows[at], merged.values[at]) for at in mine.tolist()
                ]
                parts.append((chunks[chunk], within, texts))
            name = records.shard_name("molecules", split, i, len(pieces))
            found.append((Shard(split, folder / name, parts),))
    return found


def work(known: Vocabulary, shard: Shard) -> Counts:
    """Writes a shard."""
    from array_record.python.array_record_module import ArrayRecordWriter

    atoms = unknown_tokens = unknown_labels = with_unknown = 0
    partial = shard.path.with_name(f"{shard.path.name}.partial")
    writer = ArrayRecordWriter(str(partial), OPTIONS)
    for path, places, texts in shard.parts:
        found = features.read(path)
        found = found._replace(tokens=known.encode_tokens(found.tokens), labels=known.encode_labels(found.labels))
        molecules = list(found.molecules())
        for place, (smiles, inchikey, row, targets) in zip(places, texts):
            tokens, labels, distances = molecules[place]
            molecule = records.Molecule(smiles, inchikey, row, tokens, labels, distances, targets)
            writer.write(records.encode(molecule))
            unknown = int((tokens == known.unknown).sum())
            atoms, unknown_tokens = atoms + len(tokens), unknown_tokens + unknown
            unknown_labels += int((labels == UNKNOWN_LABEL).sum())
            with_unknown += unknown > 0
    writer.close()
    partial.replace(shard.path)
    return Counts(shard.path.stat().st_size, atoms, unknown_tokens, unknown_labels, with_unknown)


def finish(folder: pathlib.Path, name: tuple[str, str, str], about: dict[str, Any], rows: Table, merged: Merged,
           known: Vocabulary, written: list[tuple[Shard]], counts: list[Counts]) -> None:  # fmt: skip
    """Writes the tables, the vocabulary, the metadata and the report of a folder whose records are there.

    Args: name, of the dataset, its config and version; about, for metadata.json; counts, of each of `written`.
    """
    keys = merged.facts.inchikeys
    check_disjoint({split: [keys[place] for place in merged.places[split].tolist()] for split in SPLITS})
    vocabulary.save(folder / VOCABULARY, known)
    _write_csv(folder / records.TABLE, ("split", "row", "atoms", "inchikey", "scaffold", "smiles"), _lines(merged))
    _write_csv(folder / "set_aside.csv", ("row", "reason", "smiles"),
               ((row, why, rows.smiles[row]) for row, why in merged.set_aside))  # fmt: skip
    _write_csv(folder / "duplicates.csv", ("kept_row", "row", "inchikey", "targets_that_differ"), merged.duplicates)
    _write_csv(folder / "stereoisomers.csv", ("smiles", "rows", "target", "values"), merged.stereoisomers)
    splits = {}
    for split in SPLITS:
        mine = [count for (shard,), count in zip(written, counts) if shard.split == split]
        sums = Counts(*map(sum, zip(*mine))) if mine else Counts(0, 0, 0, 0, 0)
        splits[split] = {"records": len(merged.places[split]), **sums._asdict()}
    about |= {
        "targets": list(rows.targets),
        "kinds": list(rows.kinds),
        "vocabulary": {
            "hash": known.digest,
            "tokens": known.size,
            "ordinary": len(known.tokens),
            "mask": known.mask,
            "unknown": known.unknown,
            "cls": known.cls,
            "labels": known.label_size,
        },
        "splits": splits,
        "set_aside": len(merged.set_aside),
        "duplicates": len(merged.duplicates),
        "stereoisomers": len({line[0] for line in merged.stereoisomers}),
        "notes": merged.notes + _unknown(splits),
        "sums": files.SUMS,
    }
    about["problems"] = about["set_aside"] + about["duplicates"] + about["stereoisomers"]
    _write_info(folder, name, about, written, counts)
    from tfds_builders.molecules import report

    report.write(folder)
    files.write_sums(folder, (path.name for path in folder.iterdir()))


def _unknown(splits: dict[str, dict]) -> list[str]:
    found = []
    for split, one in splits.items():
        if one["unknown_tokens"]:
            found.append(
                f"{one['unknown_tokens']:,} atoms of {one['molecules_with_unknown_tokens']:,} molecules in {split} are "
                "of a kind that the vocabulary has not got"
            )
    of = {split: one["unknown_labels"] / one["atoms"] for split, one in splits.items() if one["atoms"]}
    shares = ", ".join(f"{split} {100 * share:.1f} %" for split, share in of.items())
    return [*found, f"environments too rare for a label, which a loss leaves out: {shares} of the atoms"]


def _lines(merged: Merged) -> Iterable[tuple]:
    facts = merged.facts
    for split in SPLITS:
        for at in merged.places[split].tolist():
            yield split, facts.rows[at], facts.atoms[at], facts.inchikeys[at], facts.scaffolds[at], facts.smiles[at]


def _write_csv(path: pathlib.Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_info(folder: pathlib.Path, name: tuple[str, str, str], about: dict[str, Any], written: list[tuple[Shard]],
                counts: list[Counts]) -> None:  # fmt: skip
    """dataset_info.json, features.json and metadata.json, by which TFDS opens the folder."""
    import tensorflow_datasets as tfds

    dataset, config, version = name
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=dataset, version=tfds.core.Version(version), data_dir=str(folder), module_name=__name__, config_name=config
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=tfds.features.FeaturesDict({records.FEATURE: tfds.features.Tensor(shape=(), dtype=np.object_)}),
        metadata=tfds.core.MetadataDict(about),
        **ABOUT,
    )
    info.set_file_format("array_record")
    found = []
    for split in SPLITS:
        mine = [(shard, count) for (shard,), count in zip(written, counts) if shard.split == split]
        if not mine:
            continue
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=dataset, split=split, filetype_suffix="array_record"
        )
        lengths = [sum(len(places) for _, places, _ in shard.parts) for shard, _ in mine]
        size = sum(count.bytes for _, count in mine)
        found.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template))
    info.set_splits(tfds.core.SplitDict(found))
    info.write_to_directory(str(folder))
