"""Fixtures for all tests."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real example files, which are never part of the project; skips where there are none."""
    default = pathlib.Path(__file__).parent.parent.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("RXRX_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real example data: {folder} is not a folder (set RXRX_SHARED_DATA)")
    return folder
