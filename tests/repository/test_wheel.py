"""The wheel holds all that the commands need, and works where no clone is near; .ci/wheel trains from it."""

import os
import subprocess
import sys
import zipfile

import pytest
from paths import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files, unpacked into an empty folder."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def python(installed, cwd, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(installed)!r}]; sys.argv[1:] = {arguments[1:]!r}\n"
         f"import runpy; runpy.run_module({arguments[0]!r}, run_name='__main__', alter_sys=True)"],
        cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_it_holds_all_source_files_and_the_configs_and_nothing_else(installed):
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    expected = {f"rxrx_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    for package in ("rxrx_jax", "tfds_builders", "launch"):
        files = [path for ending in ("py", "html", "css", "js") for path in (ROOT / package).rglob(f"*.{ending}")]
        expected |= {path.relative_to(ROOT).as_posix() for path in files}
    expected |= {"launch/Dockerfile", "rxrx_jax/py.typed"}
    assert {name for name in found if ".dist-info/" not in name} == expected
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "[rxrx_jax.builders]\ntfds_builders = tfds_builders.prepare" in points.read_text()
    assert "[console_scripts]\nrxrx = rxrx_jax.cli:main" in points.read_text()


def test_its_configs_are_found_in_an_empty_folder(installed, tmp_path):
    done = python(installed, tmp_path, "rxrx_jax.main", "--config=nowhere.py")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"in {installed}/rxrx_jax/configs" in done.stderr and "mae_vit.py" in done.stderr


@pytest.mark.slow
def test_its_launchers_start_there_or_say_what_they_need(installed, tmp_path):
    trainer = ("--workdir=/run", "--dry-run", "--", "--config=mae_vit.py")
    done = python(installed, tmp_path, "launch.local", "--processes=2", "--devices=1", *trainer)
    assert done.returncode == 0 and done.stdout.count("-m rxrx_jax.main") == 2, done.stderr
    for name in ("slurm", "host"):
        more = ("--ssh=me@server",) if name == "host" else ()
        done = python(installed, tmp_path, f"launch.{name}", *more, *trainer)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert "clone the repository" in done.stderr


def test_a_missing_extra_is_one_line_that_names_it():
    code = (
        "import sys, importlib.util\nfrom launch import gke\nfrom rxrx_jax import reproduce\n"
        "from rxrx_jax.base import command\nsys.modules['yaml'] = None\n"
        "importlib.util.find_spec = lambda name: None\n"
        "run = '--image=a --gpu=b --workdir=gs://b/c --commit=HEAD --dry-run -- --config=mae_vit.py'.split()\n"
        "print(command.run(reproduce.main, ['demo', '--out=demo']), command.run(gke.main, run))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "2 2" and done.stderr.splitlines() == [
        "error: bokeh is not installed; it comes with the extra [report]: pip install 'rxrx_jax[report]'",
        "error: PyYAML is not installed; it comes with the extra [launch]: pip install 'rxrx_jax[launch]'",
    ], done.stderr
