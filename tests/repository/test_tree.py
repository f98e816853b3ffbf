"""The sentences of the design about the tree: which room may import which, and how full rooms and files may be.

Imports are read from the source as `benchmarks/imports.py` reads them: also within functions, and strings that
importlib, runpy or `python -m` take.
"""

import ast
import graphlib
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest
from paths import ROOT

SPEC = importlib.util.spec_from_file_location("imports", ROOT / "benchmarks" / "imports.py")
tree = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tree)
KNOWN = tree.files(ROOT)

# Parts of a room that stand elsewhere in the order than the rest of it.
PARTS = {
    "rxrx_jax.report.markup": "drawing",
    "rxrx_jax.report.pictures": "drawing",
    "rxrx_jax.weights.export": "publishing",
    "rxrx_jax.weights.card": "publishing",
}
# What each room may import besides itself, lowest first: nothing imports upwards.
ALLOWED = {
    "base": "",
    "drawing": "base",
    "simulate": "base drawing",
    "molecules": "base",
    "generate": "base molecules models",
    "data": "base simulate molecules",
    "models": "base",
    "adapt": "base data models",
    "tasks": "base data models adapt generate",
    "weights": "base models",
    "maps": "base adapt",
    "evaluate": "base drawing molecules data models adapt maps generate",
    "training": "base data models adapt tasks weights evaluate",
    "publishing": "base data models weights training",
    "embedding": "base data evaluate training",
    "tables": "base",
    "report": "base drawing data evaluate tables training",
    "commands": "base simulate molecules data models adapt tasks weights evaluate training publishing embedding tables "
    "report maps generate",
    "a table": "base data weights maps tables report commands",
    "tfds_builders": "base drawing simulate molecules",
    "launch": "base commands",
    "configs": "base training",
}
FRONT = {"rxrx_jax.datasets", "rxrx_jax.runs", "rxrx_jax.weights"}  # attributes of the package, imported when asked for
STARTED = {("report/runs/__init__.py", "rxrx_jax.main")}  # a run of a table is a process of its own
STARTS = ("subprocess.", "os.system", "os.exec", "os.spawn", "runpy.", "importlib.", "__import__")
MOST_ENTRIES, MOST_LINES = 14, 350
FULLER = {"docs", "tests/rxrx_jax"}  # the latter as the package's top


def place(module: str) -> str:
    """The row of ALLOWED that a module belongs to."""
    package, *rest = module.split(".")
    if package != "rxrx_jax":
        return package
    if module in PARTS:
        return PARTS[module]
    if not rest:
        return "base"  # the version
    if rest[0] == "tables" and len(rest) > 1:
        return "a table"
    return rest[0] if len(rest) > 1 or KNOWN[module].name == "__init__.py" else "commands"


def upward() -> list[str]:
    """Imports that ALLOWED does not know."""
    found = []
    for module, path in KNOWN.items():
        one = place(module)
        for line, name in tree.imports(path, KNOWN):
            other = place(name)
            if module == "rxrx_jax" and name in FRONT:
                continue
            if (path.relative_to(ROOT / "rxrx_jax").as_posix() if one in ("report",) else "", name) in STARTED:
                continue
            if one != other and other not in ALLOWED[one].split():
                found.append(f"{path.relative_to(ROOT)}:{line}: {one} imports {name} ({other})")
    return found


def test_nothing_imports_upwards():
    assert {place(module) for module in KNOWN} == set(ALLOWED)
    assert not (found := upward()), "\n".join(found)
    tuple(graphlib.TopologicalSorter({row: rooms.split() for row, rooms in ALLOWED.items()}).static_order())  # no cycle


def test_the_sentences_of_the_design_are_in_the_table():
    allowed = {row: set(rooms.split()) for row, rooms in ALLOWED.items()}
    assert not allowed["base"]
    assert not allowed["data"] & {"models", "adapt", "tasks", "training", "evaluate"}
    assert not allowed["models"] & {"adapt", "tasks", "training", "evaluate", "data"}
    assert not allowed["weights"] & {"adapt", "tasks", "training"}
    assert not allowed["tfds_builders"] & {"models", "adapt", "tasks", "training", "evaluate", "commands"}
    assert not any("tfds_builders" in rooms or "launch" in rooms or "configs" in rooms for rooms in allowed.values())


def ours(package: str) -> list[tuple[pathlib.Path, ast.Module]]:
    return [(p, ast.parse(p.read_text())) for p in sorted((ROOT / package).rglob("*.py"))]


def test_no_string_and_no_subprocess_leads_to_the_builders():
    found = []
    for path, module in ours("rxrx_jax"):
        for node in ast.walk(module):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if text.partition(".")[0] == "tfds_builders" and text.replace(".", "").isidentifier():
                found.append(f"{path.relative_to(ROOT)}: {text}")
            function = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if function.startswith(STARTS) and "tfds_builders" in ast.unparse(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {function}")
    assert found == []


def test_the_one_seam_is_an_entry_point_read_in_one_place():
    readers = [
        path.relative_to(ROOT).as_posix()
        for package in ("rxrx_jax", "tfds_builders", "launch")
        for path, module in ours(package)
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("entry_points")
    ]
    assert readers == ["rxrx_jax/data/builders.py"]
    assert 'entry-points."rxrx_jax.builders"' in (ROOT / "pyproject.toml").read_text()


def test_what_the_builders_share_knows_no_dataset():
    for room in ("common", "downloads", "embeddings", "report"):
        for path in (ROOT / "tfds_builders" / room).rglob("*.py"):
            names = [name for _, name in tree.imports(path, KNOWN)]
            assert not [name for name in names if name.startswith("tfds_builders.rxrx.")], path


def test_every_way_of_importing_is_seen(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        "import rxrx_jax.embed\nfrom rxrx_jax.data import sites as s\ndef f(x):\n    import tfds_builders.prepare\n"
        "    importlib.import_module('rxrx_jax.models.vit')\n    run([python, '-m', 'rxrx_jax.main'])\n"
        "    import_module(f'rxrx_jax.tables.{x}')\n    raise UserError('see rxrx_jax.aot')\n"
    )
    found = {name for _, name in tree.imports(path, KNOWN)}
    assert found == {
        *("rxrx_jax.embed", "rxrx_jax.data.sites", "tfds_builders.prepare", "rxrx_jax.models.vit", "rxrx_jax.main"),
        "rxrx_jax.tables",
    }


def test_the_picture_of_the_house_is_what_the_source_says(capsys):
    page = (ROOT / "docs" / "house.md").read_text()
    commits = re.search(r"`python benchmarks/imports.py ([\w ]+)`", page)[1].split()
    for commit in commits:
        if subprocess.run(["git", "cat-file", "-e", commit], cwd=ROOT, capture_output=True).returncode:
            pytest.skip(f"no commit {commit} here")
    tree.main(commits)
    assert capsys.readouterr().out == page and len(commits) == 2


def test_the_picture_of_the_house_is_of_today():
    """Else print it again, with the newest commit as its second."""
    page = (ROOT / "docs" / "house.md").read_text()
    assert page.count("```mermaid") == 2 and tree.mermaid(tree.edges(ROOT)) in page


def tracked() -> list[pathlib.PurePosixPath]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git repository")
    return [pathlib.PurePosixPath(name) for name in done.stdout.splitlines() if (ROOT / name).exists()]


def test_rooms_are_not_too_full():
    entries = {}
    for path in tracked():
        for part, folder in zip((path, *path.parents), path.parents):
            entries.setdefault(str(folder), set()).add(str(part))
    entries = {name: len(inside) for name, inside in entries.items() if name not in (".", "rxrx_jax")}
    fuller = {name for name, n in entries.items() if n > MOST_ENTRIES}
    assert fuller <= FULLER, {name: entries[name] for name in fuller - FULLER}


def test_files_are_not_too_long():
    code = [path for path in tracked() if path.suffix == ".py"]
    longer = [str(path) for path in code if len((ROOT / path).read_text().splitlines()) > MOST_LINES]
    assert longer == []


@pytest.mark.parametrize(
    "module",
    [
        "training.train",
        "embed",
        "reproduce",
        "probe_embeddings",
        "batch_metrics",
        "weights.export",
        "aot",
        "maps.__main__",
    ],
)
def test_starting_a_command_imports_nothing_that_its_help_does_not_need(module):
    """yaml comes with ml_collections. That takes CPU time at every start."""
    heavy = ["sklearn", "scipy", "bokeh", "pandas", "jinja2", "tensorflow", "torch", "tfds_builders",
             "tensorflow_datasets", "grain", "orbax.checkpoint"]  # fmt: skip
    code = f"import sys, rxrx_jax.{module}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
