"""What the README, CONTRIBUTING.md and docs/ name exists: links, files, modules, configs with their arguments, keys."""

import dataclasses
import functools
import importlib.util
import re
import shlex

import pytest
from paths import ROOT

from rxrx_jax.adapt import Method, Needs
from rxrx_jax.adapt.correct import CORRECTIONS
from rxrx_jax.base import config, config_flag
from rxrx_jax.evaluate import protocols
from rxrx_jax.tables import names as tables

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md"))]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))
FOLDERS = "rxrx_jax|tfds_builders|launch|configs|benchmarks|tests|docs"


def text(page: str) -> str:
    return (ROOT / page).read_text()


def commands(page: str) -> list[list[str]]:
    """The words of every `python -m ...` and `python benchmarks/...` of a page, in code or in a sentence."""
    lines = text(page).replace("\\\n", " ")
    found = re.findall(r"(?:^|&& |`)(python (?:-m |benchmarks/)[^`\n]*)", lines, re.M)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_exists(page):
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text(page)):
        assert (folder / link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page):
    named = re.findall(rf"`((?:{FOLDERS})/[\w/.-]*)`", text(page))
    for path in named:
        assert (ROOT / path).exists(), path


@functools.cache
def flat(argument: str) -> dict:
    """A config's keys by their dotted names."""
    found, todo = {}, list(config.load(argument).items())
    while todo:
        key, value = todo.pop()
        found[key] = value
        todo += [(f"{key}.{name}", inner) for name, inner in value.items()] if isinstance(value, dict) else []
    return found


def loads(argument: str) -> dict:
    """The keys of a config of a command; of the placeholder path/to/mine.py only that it is one."""
    name, _, arguments = argument.partition(":")
    if name in ("path/to/mine.py", "mine.py"):
        return flat("dann_vit.py:transductive=True")
    kept = [one for one in arguments.split(",") if one and "path/to/" not in one]
    return flat(f"{name}:{','.join(kept)}")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_names_a_module_a_config_and_keys_that_exist(page):
    for words in commands(page):
        if words[1] != "-m":
            assert (ROOT / words[1]).exists(), words
            continue
        module = words[2].rstrip(".,;:")
        if module.partition(".")[0] in FOLDERS.split("|"):
            assert importlib.util.find_spec(module), words
        if module == "rxrx_jax.reproduce" and words[3:]:
            assert words[3] in (*tables(), "mine.py", "TABLE"), words
        configs = [word.partition("=")[2] for word in words if word.startswith("--config=")]
        known = {key for argument in configs if not argument.isupper() for key in loads(argument)}
        for word in words:
            if word.startswith("--config.") and known:
                assert word.removeprefix("--config.").partition("=")[0] in known, word


@pytest.mark.parametrize("page", PAGES)
def test_every_key_is_one_of_a_config(page):
    known = {key for name in CONFIGS for key in flat(name)}
    for key in re.findall(r"--config\.([a-z_.]+)", text(page)):
        if key not in known:
            config_flag.prepare(config.make("convnet.py"), [f"--config.{key}=1"])  # raises for one that nothing reads


@pytest.mark.parametrize("page", PAGES)
def test_every_protocol_exists(page):
    for name in re.findall(r"protocol\.name=(\w+)", text(page)):
        assert protocols.find(name)


def rows(page: str, heading: str = "") -> set[str]:
    """The names that begin the rows of the tables in a section, before the first heading for ""."""
    part = text(page).partition(heading)[2] if heading else text(page)
    cells = re.findall(r"^\| (`[^|]+) \|", part.partition("\n## ")[0], re.M)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_there_is_a_row_for_every_method_and_protocol():
    there = {path for path in (ROOT / "rxrx_jax/adapt").glob("*/[a-z]*.py") if path.parent.name != "correct"}
    assert rows("docs/methods.md") == {path.stem for path in there} | {"erm"}
    assert rows("docs/methods.md", "## Corrections of embeddings") == CORRECTIONS.keys() - {"none"}
    there = {path.stem for path in (ROOT / "rxrx_jax/evaluate/protocols").glob("[a-z]*.py")}
    assert rows("docs/protocols.md", "## What is trained on and what is scored") == there


def test_there_is_a_row_for_every_need_and_hook_of_a_method():
    assert rows("docs/methods.md", "## What a method declares") == {field.name for field in dataclasses.fields(Needs)}
    hooks = {name for name in vars(Method) if not name.startswith("_")} - {f.name for f in dataclasses.fields(Method)}
    assert rows("docs/methods.md", "## Writing one") == hooks
