"""`python -m tfds_builders.prepare molecules`: a csv file of SMILES to a prepared dataset (docs/molecules.md)."""

import argparse

from rxrx_jax.base import files
from rxrx_jax.base.files import mirror, staging
from tfds_builders.molecules import build

DESCRIPTION = "Prepares molecules: a csv file of SMILES, or without --source the simulated library."
OPTIONS = {
    "name": "of the molecules (default: that of the file)",
    "smiles": "column of SMILES or CXSMILES (default: smiles, in any case)",
    "split": "column that says train, validation or test (default: none, and a scaffold split)",
    "salts": "of several fragments: largest, keep or refuse (default: largest)",
    "seed": "of the scaffold split and of the simulated library (default: 0)",
    "count": f"molecules of the simulated library (default: {build.Settings().count:,})",
    "vocabulary": "folder of prepared molecules whose vocabulary these get, as to fine-tune what was trained on those",
}


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.prepare molecules", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("--source", help="a csv file, plain or gzipped")
    out = "folder of all prepared datasets, or gs://, s3:// (default: TFDS_DATA_DIR or ~/tensorflow_datasets)"
    parser.add_argument("--out", help=out)
    parser.add_argument("--staging", help=staging.HELP)
    parser.add_argument(
        "--target", action="append", default=[], metavar="COLUMN",
        help="column of numbers to predict; may be repeated; '*' is every column that holds numbers alone",
    )  # fmt: skip
    for name, text in OPTIONS.items():
        parser.add_argument(f"--{name}", help=text)
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    strict = "refuse rows that would be set aside or merged, and stereoisomers that differ"
    parser.add_argument("--strict", action="store_true", help=strict)
    flags = parser.parse_args(argv)
    fields = {name: getattr(flags, name) for name in OPTIONS if getattr(flags, name) is not None}
    fields |= {"targets": tuple(flags.target)} if flags.target else {}
    folder = build.find(flags.source, flags.out, **fields)
    print(f"{folder} exists and is left as it is" if mirror.exists(folder) else f"preparing {folder}", flush=True)
    build.prepare(flags.source, flags.out, flags.workers, True, flags.strict, flags.staging, **fields)
    about = files.read_json(
        mirror.local(folder) / "metadata.json", "delete the folder and run the same command to rebuild it"
    )
    print(f"source     {about['source']} ({about['source_kind']}), {about['rows']:,} rows")
    print("records    " + ", ".join(f"{split} {one['records']:,}" for split, one in about["splits"].items()))
    words = about["vocabulary"]
    print(f"vocabulary {words['hash'][:12]}, {words['tokens']:,} tokens, {words['labels']:,} labels")
    print(f"targets    {', '.join(about['targets'][:20]) or 'none'}{' ...' if len(about['targets']) > 20 else ''}")
    print(f"set aside  {about['set_aside']:,}; merged {about['duplicates']:,}")
    for note in about["notes"]:
        print(f"note       {note}")
    print(f"report     {folder / 'report.html'}")
