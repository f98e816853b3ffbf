"""The step compiled for devices that are not here: emulated ones, and TPU slices where TPUs' compiler is installed."""

import json

import numpy as np
import pytest
from commands import python
from jax.experimental import mesh_utils
from paths import ROOT

from rxrx_jax import aot
from rxrx_jax.base import config, sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.models import vit
from rxrx_jax.training.speed import hlo

# As TPUs' compiler writes it: a reduce-scatter as an all-reduce of that name, one gather in two places of one channel.
PROGRAM = """\
HloModule jit_update

%add.1 (x.1: bf16[], y.1: bf16[]) -> bf16[] {
  ROOT %sum = bf16[] add(%x.1, %y.1)
}

%all-reduce-scatter.5.clone (input.1: bf16[384,1152]) -> bf16[96,1152] {
  %input.1 = bf16[384,1152]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-reduce.100 = bf16[384,1152]{1,0:T(8,128)(2,1)} all-reduce(%input.1), channel_id=63, to_apply=%add.1
  ROOT %slice = bf16[96,1152]{1,0} slice(%all-reduce.100)
}

%body.1 (state.1: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %gather.1 = bf16[1,384,1536]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.1), channel_id=99, dimensions={1}
  %gather.2 = bf16[1,384,1536]{2,1,0:T(8,128)(2,1)} all-gather(%param_0.2), channel_id=99, dimensions={1}
  %fusion.1 = bf16[96,1152]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.5.clone
}

%condition.1 (state.2: (s32[], bf16[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main.1 (param.1: f32[8,2048]) -> f32[] {
  %while.1 = (s32[]{:T(128)}, /*index=1*/bf16[8]{0}) while(%state), condition=%condition.1, body=%body.1
  %pair = (f32[8,512]{1,0:T(8,128)S(1)}, pred[16]) all-reduce(%a, %b), channel_id=78, to_apply=%add.1
  %small = f32[4]{0} constant({1,2,3,4})
  %start = (f32[4]{0}, f32[16]{0}) all-gather-start(%small), channel_id=7, dimensions={0}
  ROOT %done = f32[16]{0} all-gather-done(%start)
}
"""


def test_collectives_of_a_program():
    assert hlo.collectives(PROGRAM) == {
        "all-gather": {"count": 12 + 1, "bytes": 12 * 384 * 1536 * 2 + 16 * 4},
        "all-reduce": {"count": 1, "bytes": 8 * 512 * 4 + 16},
        "reduce-scatter": {"count": 12, "bytes": 12 * 384 * 1152 * 2},
    }
    known = PROGRAM.replace("body=%body.1", 'body=%body.1, backend_config={"known_trip_count":{"n":"3"}}')
    assert hlo.collectives(known)["reduce-scatter"]["count"] == 3
    unknown = PROGRAM.replace("constant(12)", "parameter(1)")
    assert hlo.collectives(unknown)["reduce-scatter"]["count"] == 1


# A product whose kernel's 16 parts are sent round while it is made, both ways and two rounds at a time.
WINDOWED = """\
%windowed_body (state.1: (bf16[1,48,2304], u32[])) -> (bf16[1,48,2304], u32[]) {
  %part = bf16[1,48,2304]{2,1,0} get-tuple-element(%state.1), index=0
  %i = u32[] get-tuple-element(%state.1), index=1
  %one = bf16[1,48,2304]{2,1,0} collective-permute(%part), channel_id=1
  %other = bf16[1,48,2304]{2,1,0} collective-permute(%one), channel_id=2
  %two = u32[] constant(2)
  %next = u32[] add(%i, %two)
  ROOT %state.3 = (bf16[1,48,2304]{2,1,0}, u32[]) tuple(%other, %next)
}

%windowed_condition (state.2: (bf16[1,48,2304], u32[])) -> pred[] {
  %i.2 = u32[] get-tuple-element(%state.2), index=1
  %limit = u32[] constant(8)
  ROOT %lt = pred[] compare(%i.2, %limit), direction=LT
}

ENTRY %main.1 (param.1: bf16[1,48,2304]) -> bf16[1,48,2304] {
  %while.1 = (bf16[1,48,2304]{2,1,0}, u32[]) while(%state), condition=%windowed_condition, body=%windowed_body
  ROOT %done = bf16[1,48,2304]{2,1,0} get-tuple-element(%while.1), index=0
}
"""


def test_a_loop_that_counts_by_twos_runs_half_as_often():
    part = 48 * 2304 * 2
    assert hlo.collectives(WINDOWED) == {"collective-permute": {"count": 2 * 4, "bytes": 2 * 4 * part}}
    odd = WINDOWED.replace("constant(8)", "constant(7)")
    assert hlo.collectives(odd)["collective-permute"]["count"] == 2 * 4
    by_one = WINDOWED.replace("constant(2)", "constant(1)")
    assert hlo.collectives(by_one)["collective-permute"]["count"] == 2 * 8
    hidden = WINDOWED.replace("add(%i, %two)", "convert(%other.2)")
    assert hlo.collectives(hidden)["collective-permute"]["count"] == 2 * 8  # at most


# As TPUs' compiler hands what one slice sends another to its runtime, at one place in a loop and one after it.
BETWEEN = """\
%body.1 (state.1: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %part = f32[3,8,128]{2,1,0:T(8,128)} bitcast(%x)
  %send.1 = (f32[3,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%part, %after), channel_id=4, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
}

%condition.1 (state.2: (s32[], bf16[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main.1 (param.1: f32[8,2048]) -> f32[] {
  %while.1 = (s32[], bf16[8]) while(%state), condition=%condition.1, body=%body.1
  %one = f32[1,128]{1,0} copy(%y)
  %send.2 = (f32[1,128]{1,0}, u32[], token[]) send(%one, %after), channel_id=6, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
  %host = (f32[1,128]{1,0}, u32[], token[]) send(%one, %after), channel_id=8, is_host_transfer=true
  ROOT %sum = f32[4]{0} all-reduce(%z), channel_id=9
}
"""


def test_what_slices_send_each_other():
    size = 5 * 3 * 8 * 128 * 4 + 128 * 4
    assert hlo.between_slices(BETWEEN) == {"all-reduce": {"count": 5 + 1, "bytes": size}}
    assert hlo.collectives(BETWEEN) == {"all-reduce": {"count": 1, "bytes": 16}}
    assert hlo.between_slices(PROGRAM) == {}


def command(*arguments, cwd=ROOT):
    return python("-m", "rxrx_jax.aot", *arguments, cwd=cwd)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=mae_vit.py"], "--topology=None: expected v5e:4x4"),
        (["--topology=cpu:8", "--config=mae_vit.py", "--config.data.minibatch=12"], "use a multiple of 8"),
        (["--topology=cpu:8", "--config=mae_vit.py", "--workdir=x"], "Unknown command line flag 'workdir'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and not result.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize("topology", ["", "v5e", "v5e:", "v5e:4x", ":8", "0xv5e:4x4", "2xcpu:8", "2xh200:8x8"])
def test_a_topology_has_a_kind_and_a_shape(topology):
    with pytest.raises(UserError, match=f"^--topology={topology}: expected v5e:4x4"):
        aot.devices(topology)


def test_the_command_compiles_for_emulated_devices(tmp_path):
    arguments = ["--topology=cpu:8", "--config=mae_vit.py:variant=XXS/16", "--config.mesh.fsdp=2"]
    arguments += ["--config.task.decoder=(16,1,4)"]
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    found = json.loads(last)
    assert found["arguments"] == arguments and found["topology"] == "cpu:8"
    assert (found["chips"], found["mesh"]) == (8, {"data": 4, "fsdp": 2, "tensor": 1})
    assert (found["minibatch"], found["minibatch_per_chip"]) == (32, 4)
    assert found["fits"] is None and found["total_bytes"] >= found["temporary_bytes"] > 0
    assert found["collectives"]["all-reduce"]["count"] > 0 and found["collectives"]["all-gather"]["bytes"] > 0
    assert 0 < found["compiler_flops_per_chip"] and 0 < found["flops_per_image"]
    text = "\n".join(lines)
    assert "8 x cpu" in text and "loop bodies once" in text and "not run" in text


def test_the_table_says_what_does_not_fit():
    result = json.loads((ROOT / "docs/aot.json").read_text())[0] | {"hbm_bytes": 2**30, "fits": False}
    assert any("per chip of 1.00 GiB: DOES NOT FIT" in line for line in aot.table({"compile_seconds": 1} | result))


# TPU slices.


def slice_of(data, variant, topology, fsdp, minibatch, **model):
    pytest.importorskip("libtpu")
    values = config.load(f"mae_vit.py:{data}variant={variant}")
    values["mesh"]["fsdp"], values["data"]["minibatch"] = fsdp, minibatch
    values["model"] |= {"dtype": "bfloat16"} | model
    return aot.compile_step(values, aot.devices(topology))


# The compiler takes four times as long for images of 256 pixels as for the screen's of 64.
@pytest.mark.parametrize(
    "data", [pytest.param("", marks=pytest.mark.slow, id="screen"), pytest.param("rxrx1,", marks=pytest.mark.full)]
)
def test_the_step_compiles_for_a_tpu_slice(data):
    found = slice_of(data, "S/16", "v5e:4x4", 4, 128)
    assert (found["chips"], found["device_kind"], found["fits"]) == (16, "TPU v5 lite", True)
    assert found["collectives"].keys() >= {"all-gather", "reduce-scatter", "all-reduce"}
    # Every block's four kernels are gathered forward and backward, in encoder (12 blocks) and decoder (8).
    assert found["collectives"]["all-gather"]["count"] >= 2 * 4 * (12 + 8)
    per_chip = found["flops_per_image"] * found["minibatch_per_chip"]
    assert 0.02 < found["compiler_flops_per_chip"] / per_chip < 0.5  # loop bodies once


@pytest.mark.slow
def test_two_slices_are_a_hybrid_mesh_and_sum_gradients_between_them():
    pytest.importorskip("libtpu")
    chips = aot.devices("2xv5e:4x4")
    for fsdp in (1, 4):
        hybrid = mesh_utils.create_hybrid_device_mesh((16 // fsdp, fsdp, 1), (2, 1, 1), devices=chips)
        np.testing.assert_array_equal(sharding.make_mesh(fsdp, 1, chips).devices, hybrid)
    found = slice_of("", "XXS/16", "2xv5e:4x4", 4, 128)
    assert (found["chips"], found["slices"], found["mesh"]["data"]) == (32, 2, 8)
    assert found["between_slices"].keys() == {"all-reduce"}  # no kernel is gathered between slices
    # Each chip's share of the gradients, in float32, and little else.
    assert 1 < found["between_slices"]["all-reduce"]["bytes"] / (4 * found["parameters"] / 16) < 1.5
    assert "between slices" in "\n".join(aot.table(found | {"compile_seconds": 1}))


@pytest.mark.full
def test_the_step_of_molecules_compiles_for_a_tpu_slice():
    """MolE's released size, of the largest of the four sizes of a minibatch."""
    pytest.importorskip("libtpu")
    values = config.load("mole.py:full")
    values["mesh"]["fsdp"] = 16
    found = aot.compile_step(values, aot.devices("v5e:4x4"))
    assert (found["chips"], found["minibatch"], found["fits"]) == (16, 1024, True)
    assert 180e6 < found["parameters"] < 190e6  # 85 M in the layers, 100 M of the 130,505 labels


@pytest.mark.full
def test_without_the_constraint_on_tokens_a_pod_runs_out_of_memory(monkeypatch):
    """With it, 256 chips share parameters and minibatch; without, their chips gather activations (and run out)."""
    held = slice_of("rxrx1,", "S/16", "v5e:16x16", 16, 4096)["temporary_bytes"]
    monkeypatch.setattr(vit, "constrain_tokens", lambda x: x)
    try:
        free = slice_of("rxrx1,", "S/16", "v5e:16x16", 16, 4096)["temporary_bytes"]
    except UserError as e:
        assert "does not fit the chip's memory" in str(e)
    else:
        assert free > 3 * held


@pytest.mark.slow
def test_a_topology_that_does_not_exist_is_one_line():
    pytest.importorskip("libtpu")
    for topology in ("v9x:4x4", "v5e:3x5"):
        result = command(f"--topology={topology}", "--config=mae_vit.py")
        assert result.returncode == 2 and f"error: --topology={topology}: " in result.stderr, result.stderr
