"""TFDS's own command builds every folder of builders too; it needs TensorFlow, Apache Beam and mlcroissant."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
from builders_tools import SCREEN, digests
from paths import ROOT

from rxrx_jax.simulate import layouts
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare

NEEDS = ("tensorflow", "apache_beam", "mlcroissant")
MISSING = [name for name in NEEDS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"`tfds build` needs {', '.join(MISSING)}"),
    pytest.mark.filterwarnings("ignore"),  # TensorFlow's and Beam's
    pytest.mark.slow,
]
WRITERS = {
    "rxrx1": simulate.write_published,
    "rxrx2": layouts.write_rxrx2,
    "rxrx19a": layouts.write_rxrx19a,
    "rxrx19b": layouts.write_rxrx19b,
    "rxrx3": layouts.write_rxrx3,
    "rxrx3_core": layouts.write_rxrx3_core,
    "rxrx_sim": None,
}


@pytest.mark.parametrize("name", prepare.names())
def test_tfds_build_makes_the_same_bytes(tmp_path, name):
    arguments = [f"--data_dir={tmp_path}/out"]
    source = None
    if WRITERS[name]:
        source = tmp_path / "tree"
        WRITERS[name](SCREEN, source)
        arguments.append(f"--manual_dir={source}")
    command = pathlib.Path(sys.executable).with_name("tfds")
    done = subprocess.run(
        [command, "build", *arguments], cwd=ROOT / "tfds_builders" / "rxrx" / name, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    expected = digests(prepare.prepare(name, source, tmp_path / "expected", 1, progress=False))
    (made,) = (tmp_path / "out" / name / "default").iterdir()
    assert digests(made) == expected
