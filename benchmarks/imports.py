"""Which room imports which, by reading the source: a picture in Mermaid and lines by room, of one or more commits.

    python benchmarks/imports.py c1ffdc1 HEAD > docs/house.md

What counts as an import: statements anywhere in a file, also within functions, and strings that are the path of one of
our modules, as importlib, runpy and `python -m` take them.
"""

import ast
import collections
import io
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator

from rxrx_jax.base import command

PACKAGES = ("rxrx_jax", "tfds_builders", "launch", "configs")
PATH = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)*\.?")


def files(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Dotted name -> file of every module of ours below `root`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: pathlib.Path, known: dict[str, pathlib.Path]) -> Iterator[tuple[int, str]]:
    """(line, dotted name of a module in `known`) for every import of ours in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and PATH.fullmatch(node.value):
            names = [node.value.rstrip(".")] if "." in node.value else []
        else:
            continue
        for name in names:
            if name not in known:  # a name in a module
                name = name.rpartition(".")[0]
            if name in known:
                yield node.lineno, name


def room(module: str, known: dict[str, pathlib.Path]) -> str:
    """`rxrx_jax.data` for what is in a folder of a package, `rxrx_jax` for what is at its top."""
    parts = module.split(".")
    inside = len(parts) > 2 or known[module].name == "__init__.py"
    return ".".join(parts[:2]) if inside else parts[0]


def edges(root: pathlib.Path) -> dict[tuple[str, str], int]:
    """(room, room that it imports) -> number of imports."""
    known, found = files(root), collections.Counter()
    for module, path in known.items():
        for _, name in imports(path, known):
            one, other = room(module, known), room(name, known)
            if one != other and name != "rxrx_jax":  # the version
                found[one, other] += 1
    return found


def lines(root: pathlib.Path) -> dict[str, tuple[int, int, int]]:
    """Room -> (files, lines, lines of the longest file)."""
    known, found = files(root), collections.defaultdict(list)
    for module, path in known.items():
        found[room(module, known)].append(len(path.read_text().splitlines()))
    return {name: (len(n), sum(n), max(n)) for name, n in sorted(found.items())}


def mermaid(found: dict[tuple[str, str], int]) -> str:
    """The rooms as a graph; an arrow points at what is imported, and `cycle` marks those that go both ways."""
    text = ["```mermaid", "graph TD"]
    rooms = sorted({name for edge in found for name in edge})
    for package in PACKAGES:
        inside = [name for name in rooms if name.partition(".")[0] == package]
        boxes = [f'    {name.replace(".", "_")}["{name.partition(".")[2] or "top"}"]' for name in inside]
        text += [f"  subgraph {package}_[{package}]", *boxes, "  end"]
    for one, other in sorted(found):
        both = (other, one) in found
        text.append(f"  {one.replace('.', '_')} {'-->|cycle|' if both else '-->'} {other.replace('.', '_')}")
    return "\n".join([*text, "```"])


def checkout(revision: str, folder: pathlib.Path) -> str:
    """Writes the files of a commit into `folder`; its short hash."""
    archive = subprocess.run(["git", "archive", revision], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    done = subprocess.run(["git", "rev-parse", "--short", revision], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main(argv: list[str] | None = None) -> None:
    """The command line: commits, oldest first."""
    revisions = sys.argv[1:] if argv is None else argv
    counts, text = {}, []
    for revision in revisions:
        with tempfile.TemporaryDirectory() as folder:
            commit, found = checkout(revision, pathlib.Path(folder)), edges(pathlib.Path(folder))
            counts[commit] = lines(pathlib.Path(folder))
        cycles = sum((other, one) in found for one, other in found) // 2
        arrows = f"{len(found)} arrows between rooms, {cycles} pairs that go both ways."
        text.append(f"\n## Imports at {commit}\n\n{arrows}\n\n{mermaid(found)}")
    print(f"# The house\n\nWritten by `python benchmarks/imports.py {' '.join(counts)}`, which reads the source.")
    print("\n".join(text))
    print("\n## Lines by room\n\nFiles, lines, lines of the longest file.\n")
    print("| room | " + " | ".join(counts) + " |\n| --- |" + " ---: |" * len(counts))
    for name in sorted({name for of_commit in counts.values() for name in of_commit}):
        cells = [" / ".join(f"{n:,}" for n in found[name]) if name in found else "" for found in counts.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(command.run(main))
