"""Where a test writes its source."""

import pytest


@pytest.fixture
def root(tmp_path):
    return tmp_path / "source"
