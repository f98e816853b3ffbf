"""Fixtures for all tests."""

import os
import pathlib

import pytest

# Compiled programs are kept between tests, their subprocesses and test runs: most of the time here is XLA's.
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real example files, which are never part of the project; skips where there are none."""
    default = pathlib.Path(__file__).parent.parent.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("RXRX_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real example data: {folder} is not a folder (set RXRX_SHARED_DATA)")
    return folder
