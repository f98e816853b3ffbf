"""What surrounds the code is true: classifiers, citation, changes, the workflow of a public forge, types."""

import importlib.util
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from paths import ROOT

import rxrx_jax

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_classifiers_exist_and_name_the_pythons():
    known = pytest.importorskip("trove_classifiers", reason="trove_classifiers is not installed").classifiers
    assert set(PROJECT["classifiers"]) <= set(known)
    assert (
        f"Programming Language :: Python :: {PROJECT['requires-python'].removeprefix('>=')}" in PROJECT["classifiers"]
    )


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == rxrx_jax.__version__ == citation["version"]
    assert citation["license"] == PROJECT["license"] and citation["cff-version"] == "1.2.0"
    assert {"title", "authors", "message", "date-released"} <= citation.keys()


def test_the_changes_name_the_version_and_its_date():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    versions = re.findall(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert (PROJECT["version"], str(citation["date-released"])) == versions[0]
    assert versions == sorted(versions, reverse=True)


def test_the_workflow_runs_the_commands_of_the_readme_on_every_python():
    (path,) = (ROOT / ".github" / "workflows").glob("*.yml")
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language")]
    assert job["strategy"]["matrix"]["python"] == named
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == re.findall(r"^pip install .* && python -m (?:rxrx_jax.main|pytest).*$", README, re.M)


def test_every_extra_that_a_message_names_exists():
    texts = [path.read_text() for folder in ("rxrx_jax", "launch") for path in (ROOT / folder).rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"rxrx_jax\[(\w+)\]", text)}
    named |= {name for text in texts for name in re.findall(r'missing_extra\("\w+", "(\w+)"\)', text)}
    assert named and named <= PROJECT["optional-dependencies"].keys()


@pytest.mark.slow
def test_the_public_modules_are_typed():
    if not importlib.util.find_spec("pyright"):
        pytest.skip("pyright is not installed")
    argv = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    if "error" in done.stderr.lower() and not done.stdout.strip():
        pytest.skip("pyright cannot be started: it needs Node.js")
    assert done.returncode == 0 and "0 errors" in done.stdout, done.stdout
