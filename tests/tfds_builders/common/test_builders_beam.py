"""Apache Beam builds the same bytes as one process does: the direct runner, and a portable one with its job server."""

import pytest
import store_tools
from builders_tools import SCREEN_FIELDS, digests

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import stores
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare
from tfds_builders.common import build

try:
    import apache_beam
except ImportError:
    apache_beam = None

# Beam's own, and those of the older protobuf that it needs, which TFDS meets
pytestmark = pytest.mark.filterwarnings("ignore")


def build_with(tree, out, beam, **fields):
    return prepare.prepare("rxrx1", tree, out, 1, progress=False, beam=beam, **fields)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree with a damaged site."""
    tree = tmp_path_factory.mktemp("published") / "tree"
    simulate.write_published(simulate.Screen(**SCREEN_FIELDS), tree)
    next(tree.glob("images/SIMB-01/Plate2/*_s2_w4.png")).write_bytes(b"")
    return tree


@pytest.fixture(scope="module")
def expected(tree):
    """The digests of what one process makes of the tree."""
    return digests(prepare.prepare("rxrx1", tree, tree.parent / "one", 1, progress=False))


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
def test_beam_makes_the_same_bytes(tree, tmp_path, expected, options):
    assert digests(build_with(tree, tmp_path, options)) == expected


@pytest.mark.skipif(apache_beam is None, reason="Apache Beam is not installed: pip install 'rxrx_jax[beam]'")
def test_beam_makes_the_same_tiles(tree, tmp_path, expected):
    options = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]
    made = build_with(tree, tmp_path / "tiles", options, tile=16)
    assert prepare.details(made)["grid"] == [2, 2]
    assert digests(made) == digests(build_with(tree, tmp_path / "alone", None, tile=16)) != expected


@pytest.mark.skipif(apache_beam is None, reason="Apache Beam is not installed: pip install 'rxrx_jax[beam]'")
def test_beam_builds_for_a_store(tree, tmp_path, expected):
    pytest.importorskip("moto", reason="pip needs minutes for Beam and a bucket's emulator together")
    options = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]
    with store_tools.emulated("s3"):
        made = build_with(tree, "s3://bucket/data", options, staging=tmp_path / "staging")
        for name in stores.listed(str(made)):
            stores.download(f"{made}/{name}", tmp_path / name)
    assert digests(tmp_path) == expected


@pytest.mark.skipif(apache_beam is not None, reason="Apache Beam is installed")
def test_without_beam_it_says_what_to_install(tree, tmp_path):
    with pytest.raises(UserError, match="pip install 'rxrx_jax\\[beam\\]'"):
        build_with(tree, tmp_path, [])


def test_the_pipeline_asks_for_every_plate_once(tree, tmp_path, expected, monkeypatch):
    """Whatever runs it: the plates that a pipeline would be given are those of the plan."""
    asked = []

    def run(task, names, options):
        asked.append((names, options))
        build.run(task, names, 1, "", False)

    monkeypatch.setattr(build, "run_on_beam", run)
    assert digests(build_with(tree, tmp_path, ["--runner=X"])) == expected
    plates = [(experiment, plate) for experiment in ("SIMA-01", "SIMA-02", "SIMB-01", "SIMB-02") for plate in (1, 2)]
    assert asked == [(plates, ["--runner=X"])]
