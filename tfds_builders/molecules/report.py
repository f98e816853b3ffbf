"""report.html of a folder of molecules: what a build kept, what it set aside and why. It reads the folder's files."""

import collections
import pathlib

from rxrx_jax.base import files, page
from rxrx_jax.base.page import Cell

SHOWN = 500  # rows of a table; the csv files have all
AGAIN = "delete the folder and prepare it again"


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes report.html and returns its path. Raises UserError for a file that is missing or damaged."""
    about = files.read_json(folder / "metadata.json", AGAIN)
    tables = {name: files.read_csv(folder / f"{name}.csv") for name in ("set_aside", "duplicates", "stereoisomers")}
    reasons = collections.defaultdict(list)
    for line in tables["set_aside"]:
        reasons[line["reason"]].append(int(line["row"]))
    vocabulary, made_of = about["vocabulary"], about["made_of"]
    text = page.templates(pathlib.Path(__file__).parent).get_template("report.html").render(
        title=f"Molecules: {made_of['name']}",
        simulated=about["source_kind"] == "simulated",
        notes=about["notes"],
        about=[
            ["source", about["source"]], ["rows", _number(about["rows"])], ["RDKit", about["rdkit"]],
            ["salts", made_of["salts"]], ["seed of the split", str(made_of["seed"])],
            ["vocabulary", vocabulary["hash"]], ["tokens, special ones among them", _number(vocabulary["tokens"])],
            ["labels, the unknown one among them", _number(vocabulary["labels"])],
            ["targets", ", ".join(f"{a} ({b})" for a, b in list(zip(about["targets"], about["kinds"]))[:50]) or "none"],
        ],
        splits=[
            [name, *(_number(one[key]) for key in ("records", "atoms", "unknown_tokens", "unknown_labels"))]
            for name, one in about["splits"].items()
        ],
        reasons=[
            [why, _number(len(rows)), _listed(rows)] for why, rows in sorted(reasons.items(), key=lambda x: -len(x[1]))
        ],
        shown={name: [list(line.values()) for line in lines[:SHOWN]] for name, lines in tables.items()},
        counts={name: len(lines) for name, lines in tables.items()},
        columns={name: list(lines[0]) if lines else [] for name, lines in tables.items()},
    )  # fmt: skip
    path = folder / "report.html"
    files.write(path, text)
    return path


def _number(value: int) -> Cell:
    return Cell(f"{value:,}", value)


def _listed(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:20]))
    return f"{shown}, and {len(rows) - 20:,} more" if len(rows) > 20 else shown
