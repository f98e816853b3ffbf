"""The stored weights of other projects, and what PyTorch makes of them."""

import numpy as np
import pytest
from paths import REFERENCE
from weights_tools import OPENPHENOM, TIMM

from rxrx_jax.weights.read import read_tensors


@pytest.fixture(scope="module")
def stored():
    with np.load(REFERENCE / "weights" / "weights.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def phenom():
    return read_tensors(OPENPHENOM)


@pytest.fixture(scope="module")
def vit():
    return read_tensors(TIMM)
