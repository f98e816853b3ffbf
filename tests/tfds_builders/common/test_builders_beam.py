"""Apache Beam builds the same bytes as one process does: the direct runner, and a portable one with its job server."""

import pytest
from builders_tools import SCREEN_FIELDS, digests

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare
from tfds_builders.common import build

try:
    import apache_beam
except ImportError:
    apache_beam = None

# Beam's own, and those of the older protobuf that it needs, which TFDS meets
pytestmark = pytest.mark.filterwarnings("ignore")


def build_with(tmp_path, beam, out="out", **fields):
    return prepare.prepare("rxrx1", tmp_path / "tree", tmp_path / out, 1, progress=False, beam=beam, **fields)


@pytest.fixture
def expected(tmp_path):
    """A tree with a damaged site, and the digests of what one process makes of it."""
    simulate.write_published(simulate.Screen(**SCREEN_FIELDS), tmp_path / "tree")
    next((tmp_path / "tree").glob("images/SIMB-01/Plate2/*_s2_w4.png")).write_bytes(b"")
    return digests(prepare.prepare("rxrx1", tmp_path / "tree", tmp_path / "one", 1, progress=False))


@pytest.mark.skipif(apache_beam is None, reason="Apache Beam is not installed: pip install 'rxrx_jax[beam]'")
@pytest.mark.parametrize(
    "options",
    [
        ["--runner=DirectRunner", "--direct_running_mode=in_memory"],
        ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
    ],
    ids=["direct", "processes", "portable"],
)
def test_beam_makes_the_same_bytes(tmp_path, expected, options):
    assert digests(build_with(tmp_path, options)) == expected


@pytest.mark.skipif(apache_beam is None, reason="Apache Beam is not installed: pip install 'rxrx_jax[beam]'")
def test_beam_makes_the_same_tiles(tmp_path, expected):
    made = build_with(tmp_path, ["--runner=DirectRunner", "--direct_running_mode=in_memory"], tile=16)
    assert prepare.details(made)["grid"] == [2, 2]
    assert digests(made) == digests(build_with(tmp_path, None, "alone", tile=16)) != expected


@pytest.mark.skipif(apache_beam is not None, reason="Apache Beam is installed")
def test_without_beam_it_says_what_to_install(tmp_path, expected):
    with pytest.raises(UserError, match="pip install 'rxrx_jax\\[beam\\]'"):
        build_with(tmp_path, [])


def test_the_pipeline_asks_for_every_plate_once(tmp_path, expected, monkeypatch):
    """Whatever runs it: the plates that a pipeline would be given are those of the plan."""
    asked = []

    def run(task, names, options):
        asked.append((names, options))
        build.run(task, names, 1, "", False)

    monkeypatch.setattr(build, "run_on_beam", run)
    assert digests(build_with(tmp_path, ["--runner=X"])) == expected
    plates = [(experiment, plate) for experiment in ("SIMA-01", "SIMA-02", "SIMB-01", "SIMB-02") for plate in (1, 2)]
    assert asked == [(plates, ["--runner=X"])]
