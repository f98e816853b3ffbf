"""The step compiled for H200s that are not here, where XLA's compiler for GPUs is installed."""

import importlib.util
import json
import types

import pytest
from jax.experimental import topologies
from paths import ROOT

from rxrx_jax import aot
from rxrx_jax.base import config
from rxrx_jax.base.errors import UserError

COMPILER = importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda13")


@pytest.mark.parametrize("topology", ["h200:64", "h200:1x8x8", "h200:x8", "cpu:2x2"])
def test_a_shape_that_means_nothing_is_a_mistake(topology):
    with pytest.raises(UserError, match=f"--topology={topology}: expected v5e:4x4.*h200:8x8"):
        aot.devices(topology)


def test_hosts_and_gpus_of_each_are_described_to_xla(monkeypatch):
    asked = {}
    answer = types.SimpleNamespace(devices=["chip"])
    monkeypatch.setattr(topologies, "get_topology_desc", lambda **given: asked.update(given) or answer)
    assert aot.devices("h200:4x8") == ["chip"]
    assert asked == {"platform": "cuda", "topology": "1x4x8", "target_config": aot.H200}
    assert "NVIDIA H200" in aot.H200 and aot.HBM["NVIDIA H200"] == 141_000_000_000 // 2**30


@pytest.mark.skipif(bool(COMPILER), reason="XLA's compiler for GPUs is installed")
def test_a_missing_compiler_is_named():
    with pytest.raises(UserError, match="compiler for GPUs is missing: pip install -e '.\\[gpu\\]'"):
        aot.devices("h200:8x8")


def test_the_table_does_without_a_count_that_the_compiler_does_not_give():
    result = json.loads((ROOT / "docs/aot.json").read_text())[-1] | {"compiler_flops_per_chip": None}
    assert not any("compiler's FLOPs" in line for line in aot.table(result))
    assert any("compiler's FLOPs   2.000 T" in line for line in aot.table(result | {"compiler_flops_per_chip": 2e12}))


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="needs pip install -e '.[gpu]'; no GPU")
def test_the_step_compiles_for_64_gpus():
    """A class token makes an odd number of rows, which cuDNN's attention must take."""
    values = config.load("mae_vit.py:rxrx3,variant=S/16")
    chips = aot.devices("h200:8x8")
    assert len({chip.process_index for chip in chips}) == 8
    found = aot.compile_step(values, chips)
    assert (found["chips"], found["device_kind"], found["fits"]) == (64, "NVIDIA H200", True)
    gradients = 4 * found["parameters"]  # float32, summed over all
    assert gradients <= found["collectives"]["all-reduce"]["bytes"] < 1.01 * gradients
