"""`python -m tfds_builders.prepare images`: plates of your own to a prepared dataset (docs/own_plates.md)."""

import argparse
import pathlib

from rxrx_jax.base.errors import UserError
from tfds_builders import prepare
from tfds_builders.own import builder
from tfds_builders.own.spec import Spec

DESCRIPTION = """\
Prepares plates of your own. The table is a csv file with a row per well, or per site; columns named as pycytominer and
JUMP name them (Metadata_Plate, Metadata_Well, Metadata_Batch, ...) are found by themselves."""
NEEDED = {
    "metadata": "the table, a csv file, plain or gzipped; a relative path may also be one below --source",
    "name": "of the dataset, for --config.data.name",
    "pattern": "of the files' names below --source: '{plate}/r{row}c{column}f{site}-ch{channel}*.tiff'. Fields are "
    "experiment, plate, well or row and column, site and channel; * is any text; without {channel} a file holds all",
    "channels": "those to read, in this order, as KEY:NAME,...: 5:DNA,4:ER; others are counted and left",
}
OPTIONAL = {
    "experiment": "column of the biological batch",
    "plate": "column of the plate",
    "well": "column of the well, as A1 or A01; or ROW,COLUMN, two columns",
    "site": "column of the site; without one a row stands for all sites of its well",
    "perturbation": "column of the label",
    "cell-type": "column of the cell type",
    "splits": "a csv file with the columns experiment,split (train, val or test); default: splits.csv in --source",
    "range": "16-bit values that become 0 and 255, LOW-HIGH or NAME:LOW-HIGH,...; default: the 0.1st and 99.9th "
    "percentile of each channel in the training experiments",
    "license": "of the data, which is yours to state",
    "citation": "of the data",
}


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.prepare images", description=DESCRIPTION, allow_abbrev=False
    )
    for name, text in NEEDED.items():
        parser.add_argument(f"--{name}", default="", help=text)
    for name, text in OPTIONAL.items():
        parser.add_argument(f"--{name}", default=Spec.__dataclass_fields__[name.replace("-", "_")].default, help=text)
    parser.add_argument(
        "--negative-control", action="append", default=[], metavar="COLUMN:VALUE",
        help="rows that are untreated; VALUE may be empty; may be repeated",
    )  # fmt: skip
    parser.add_argument("--held-out", default="", metavar="EXPERIMENTS", help="to test on: BATCH3,BATCH4")
    parser.add_argument("--experiments", default="", help="build these only")
    parser.add_argument("--plates", default="", help="build these only")
    prepare.add_common(parser)
    flags = parser.parse_args(argv)
    for name in ("source", "metadata", "name", "pattern"):
        if not getattr(flags, name):
            raise UserError(f"--{name} is needed: {NEEDED.get(name, 'the folder of the images')}")
    if flags.name in prepare.names() or flags.name == "images":
        raise UserError(f"--name={flags.name}: that is the name of another dataset; use one of your own")
    fields = {name.replace("-", "_"): getattr(flags, name.replace("-", "_")) for name in (*NEEDED, *OPTIONAL)}
    fields["metadata"] = _below(flags.metadata, pathlib.Path(flags.source))
    fields |= {"negative_control": tuple(flags.negative_control), "held_out": _names(flags.held_out)}
    chosen = {key: _names(getattr(flags, key)) for key in ("experiments", "plates") if getattr(flags, key)}
    chosen |= {"encoding": flags.encoding} if flags.encoding else {}
    chosen |= {} if flags.tile is None else {"tile": flags.tile}
    prepare.run(builder.builder_class(Spec(**fields)), flags, chosen)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _below(name: str, source: pathlib.Path) -> str:
    """Returns the path of a file in the source folder as it is below it: where that lies does not matter later."""
    path, root = pathlib.Path(name).expanduser().resolve(), source.expanduser().resolve()
    return str(path.relative_to(root)) if path.is_file() and path.is_relative_to(root) else name
