"""Fixtures for all tests, and what makes a run of them short."""

import builtins
import gc
import importlib.metadata
import os
import pathlib
import signal

import pytest

# Compiled programs are kept between tests, their subprocesses and test runs.
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Programs here are compiled once and run a few times: what takes long is XLA's compiler, and then tracing, whose many
# objects Python's garbage collector would walk through again and again.
FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # a flag that XLA has not ends the process
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
gc.set_threshold(200_000, 50, 100)
# In the background of a script and under nohup signals are ignored, by every process started from there.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

QUICK = "not slow and not full"  # the expression of pyproject.toml


def pytest_configure(config: pytest.Config) -> None:
    """A test that is named runs, however slow."""
    if config.option.markexpr == QUICK and _named(config):
        config.option.markexpr = ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Tests that are named run in this process; else two processes, as every one compiles and prepares for itself, and
    a third for slow ones, which wait for processes of their own."""
    if _named(config):
        return 0
    return min(2, len(os.sched_getaffinity(0))) + (config.option.markexpr in ("slow", "full", "slow or full"))


def _named(config: pytest.Config) -> bool:
    return any("::" in argument for argument in config.args)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Where a module's runs find their prepared datasets, which the first of them makes."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def chromium():
    """A browser, for `browser_tools.watched`; tests that ask for it are skipped where there is none."""
    import browser_tools

    with browser_tools.launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def small_models():
    """Models of two blocks of 16 features: they compile in half the time of the demo's four of 96."""
    import step_tools

    with step_tools.small_models():
        yield


@pytest.fixture
def without_rdkit(monkeypatch):
    """RDKit cannot be imported; what was kept of it before is forgotten, also afterwards."""
    from rxrx_jax.molecules import chemistry

    original = builtins.__import__

    def no_rdkit(name, *args, **kwargs):
        if name.partition(".")[0] == "rdkit":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    chemistry.chem.cache_clear()
    monkeypatch.setattr(builtins, "__import__", no_rdkit)
    yield
    monkeypatch.undo()
    chemistry.chem.cache_clear()


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real example files, which are never part of the project; skips where there are none."""
    default = pathlib.Path(__file__).parent.parent.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("RXRX_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real example data: {folder} is not a folder (set RXRX_SHARED_DATA)")
    return folder
