"""Points of six classes that overlap, for probes."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def points():
    """(fitted float32 [300, 8], their labels int [300], queries float32 [100, 8])"""
    random = np.random.default_rng(0)
    labels = random.integers(0, 6, 400)
    x = random.normal(size=(6, 8))[labels] + random.normal(size=(400, 8))
    return x[:300].astype(np.float32), labels[:300], x[300:].astype(np.float32)
