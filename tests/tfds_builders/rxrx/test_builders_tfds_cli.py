"""TFDS's own command builds every folder of builders too: live where TensorFlow, Apache Beam and mlcroissant are
installed, and by what it wrote where they were, which `python tests/reference/make_tfds_build.py` stored."""

import importlib.util
import json

import pytest
import tfds_cli_tools
from builders_tools import digests

from tfds_builders import prepare

MISSING = [name for name in ("tensorflow", "apache_beam", "mlcroissant") if importlib.util.find_spec(name) is None]


@pytest.mark.filterwarnings("ignore:label:DeprecationWarning")  # of TFDS, where TensorFlow holds protobuf back
@pytest.mark.parametrize(  # the simulated screen is whole
    "name", [pytest.param(name, marks=[pytest.mark.full] * (name == "rxrx_sim")) for name in prepare.names()]
)
def test_the_same_shards_records_and_tables_as_tfds_build_wrote(tmp_path, name):
    stored = json.loads(tfds_cli_tools.STORED.read_text())[name]
    assert tfds_cli_tools.contents(tfds_cli_tools.prepared(name, tmp_path)) == stored


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"`tfds build` needs {', '.join(MISSING)}")
@pytest.mark.filterwarnings("ignore")  # TensorFlow's and Beam's
@pytest.mark.parametrize("name", prepare.names())
def test_tfds_build_makes_the_same_bytes(tmp_path, name):
    made = tfds_cli_tools.tfds_build(name, tmp_path)
    assert digests(made) == digests(tfds_cli_tools.prepared(name, tmp_path))
    assert tfds_cli_tools.contents(made) == json.loads(tfds_cli_tools.STORED.read_text())[name]
