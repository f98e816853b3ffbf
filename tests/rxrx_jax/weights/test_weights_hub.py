"""hf://owner/name: from the cache of huggingface_hub, which these tests fill by hand, and without it."""

import shutil
import sys

import jax
import numpy as np
import pytest
from paths import REFERENCE
from weights_tools import TIMM

from rxrx_jax import embed, weights
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import checkpoint
from rxrx_jax.training.provenance import former
from rxrx_jax.weights import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """cache(repository, {name: file}) fills the folder where huggingface_hub keeps what it has fetched; no network."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def fill(repository, files):
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        for name, file in files.items():
            path = folder / "snapshots" / COMMIT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)

    return fill


def test_the_files_of_a_repository_are_loaded(cache):
    cache("someone/vit", {"model.safetensors": TIMM})
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a.params, b.params)  # noqa: E731
    for address in ("hf://someone/vit", "hf://someone/vit@main", "hf://someone/vit/model.safetensors"):
        same(weights.load(address), weights.load(TIMM))
    model = embed.open_model("hf://someone/vit", 6)
    assert not checkpoint.is_run("hf://someone/vit") and model.crop == 12
    assert model.seen.unknown == former.seen_by("hf://someone/vit").unknown == ("hf://someone/vit",)


def test_other_names_of_files(cache):
    cache("someone/old", {"pytorch_model.bin": REFERENCE / "weights" / "weights_openphenom.bin", "sub/a.pth": TIMM})
    assert weights.load("hf://someone/old").decoder and weights.load("hf://someone/old/sub/a.pth").crop == 12
    with pytest.raises(UserError, match=r"hf://someone/old/b.pth has no b.pth; name a file: hf://someone/old/FILE"):
        weights.load("hf://someone/old/b.pth")


def test_what_is_not_there_says_how_to_fetch_it_by_hand(cache):
    with pytest.raises(
        UserError, match="hf://no/one cannot be fetched .*; or fetch the files with `git clone"
    ) as caught:
        weights.load("hf://no/one")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b@c@d", "hf://a b/c"])
def test_addresses_of_another_form(address):
    with pytest.raises(UserError, match="expected hf://owner/name"):
        hub.fetch(address)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'rxrx_jax\[hub\]'; or fetch the files with `git clone"):
        weights.load("hf://someone/vit")
