"""Runs of all methods are of one tiny dataset."""

import pathlib

import jax
import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> pathlib.Path:
    """As for a module elsewhere: where runs find their prepared datasets, which the first of them makes."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def double():
    """Everything in float64."""
    with jax.enable_x64(True):
        yield
