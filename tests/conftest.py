"""Fixtures for all tests, and what makes a run of them short."""

import os
import pathlib
import pickle

import pytest

# Compiled programs are kept between tests, their subprocesses and test runs. A folder for each process of pytest-xdist:
# jax writes these files in place, so that another process could read half of one.
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "compiled" / os.environ.get("PYTEST_XDIST_WORKER", "")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Programs here are compiled once and run a few times: what takes long is XLA's compiler.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Tests that are named run in this process; else two processes, as every one compiles and prepares for itself."""
    named = any("::" in argument for argument in config.args)
    return 0 if named else min(2, len(os.sched_getaffinity(0)))


@pytest.fixture(scope="session", autouse=True)
def drawn_once():
    """The report of a tiny folder is mostly histograms; those of the same numbers are drawn once a process."""
    from tfds_builders.report import pictures

    draw, drawn = pictures.histogram, {}

    def draw_once(*args):
        key = pickle.dumps(args)
        if key not in drawn:
            drawn[key] = draw(*args)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "histogram", draw_once)
        yield


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real example files, which are never part of the project; skips where there are none."""
    default = pathlib.Path(__file__).parent.parent.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("RXRX_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real example data: {folder} is not a folder (set RXRX_SHARED_DATA)")
    return folder
