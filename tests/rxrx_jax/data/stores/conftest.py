"""An emulated store of each kind, whose retries do not wait."""

import types

import pytest
from store_tools import emulated

from rxrx_jax.base.files import mirror, staging, stores


@pytest.fixture(scope="module", params=["s3", pytest.param("gs", marks=pytest.mark.slow)])
def store(request):
    with emulated(request.param) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def quick(store, monkeypatch, tmp_path):
    store.reset()
    monkeypatch.setattr(stores, "time", types.SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(mirror, "DEFAULT", f"{tmp_path}/usual,1GB")
    monkeypatch.setattr(staging, "STAGING", f"{tmp_path}/staging")
