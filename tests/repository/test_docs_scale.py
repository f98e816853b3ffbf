"""docs/scale.md says what the benchmarks wrote to docs/, digit by digit, and their arithmetic is what it says it is."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT

from rxrx_jax import aot

PAGE = (ROOT / "docs/scale.md").read_text()
sys.path.insert(0, str(ROOT / "benchmarks"))

import scale  # noqa: E402
import scaling  # noqa: E402
from common import roofline  # noqa: E402


def shown(name: str) -> list[str]:
    return PAGE.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0].strip().splitlines()


def test_the_page_shows_what_the_benchmarks_wrote():
    plans = scale.read("scale")
    assert shown("steps") == scale.table_of_steps(plans) and len(shown("steps")) == 2 + 4
    assert shown("runs") == scale.table_of_runs(plans) and len(shown("runs")) == 2 + 4 * 6
    assert shown("records") == scale.table_of_records(scale.read("scale_records"))
    assert shown("scale") == scale.table(scale.read("aot"))
    assert shown("growth") == scaling.table(scale.read("scaling"))


def test_the_plan_is_what_the_other_files_make_it():
    made = scale.plans(*(scale.read(name) for name in ("aot", "scale_records")))
    assert scale.read("scale") == json.loads(json.dumps(made))
    assert "real sites" in scale.read("scale_records")["sites"]


def test_what_the_page_says_of_systems_and_assumptions():
    text, v5e, h200 = " ".join(PAGE.split()), roofline.SYSTEMS["v5e"], roofline.SYSTEMS["h200"]
    for phrase in (
        f"at {100 * roofline.UTILISATION:.0f} % of the chip's peak",
        f"at {v5e.link / 1e9:g} GB/s per chip on v5e",
        f"at {h200.link / 1e9:g} GB/s per host on H200",
        f"{v5e.network / 1e9:g} GB/s on v5e",
        f"{h200.network / 1e9:g} GB/s on H200",
        f"{v5e.cores} of a v5e host",
        f"and {h200.cores} of an H200 host",
        f"256 v5e are {v5e.hosts} hosts of {256 // v5e.hosts} chips",
        f"64 H200 are {h200.hosts} hosts of {64 // h200.hosts}",
    ):
        assert phrase in text, phrase
    raw, delta = (scale.read("scale_records")["encodings"][name]["MB"] for name in ("raw", "delta"))
    assert f"{raw:.0f} MB are moved for a crop of {256 * 256 * 6 / 1e6:.1f} MB" in text
    assert 2.2 * delta < 8 * 3.84 < 2.2 * raw  # TB, a copy on the disks of a host
    crop = scale.read("scale")[0]
    assert crop["minibatch"] == 16_384 and crop["total_steps"] == round(100 * 2_200_000 / 16_384)


def test_every_number_of_the_plan_fits_its_chip():
    for plan in scale.read("scale"):
        assert plan["total_bytes"] < plan["hbm_bytes"] and sum(k["count"] for k in plan["collectives"].values())


# The arithmetic, by hand.

ROW = {
    "flops_per_image": 1e12,
    "minibatch": 512,
    "chips": 16,
    "total_bytes": 5e9,
    "collectives": {"all-reduce": {"count": 3, "bytes": 1e9}, "all-gather": {"count": 1, "bytes": 5e8}},
}
SYSTEM = roofline.System("x", "TPU v4", hosts=4, cores=10, memory=1e12, link=1e11, network=1e9)
WAY = roofline.Way("w", bytes_per_image=1e6, images_per_core=100.0)


def test_seconds_of_a_step():
    found = roofline.step_seconds(ROW, "dots", SYSTEM)
    assert found["compute"] == pytest.approx(1e12 * 32 / (275e12 * 0.4))
    assert found["memory"] == pytest.approx(0.01) and found["network"] == pytest.approx(0.025)
    full = roofline.step_seconds(ROW, "full", SYSTEM)["compute"]
    assert full == pytest.approx(found["compute"] * 4 / 3)


def test_seconds_of_reading_and_the_run():
    reading = roofline.reading_seconds(ROW, WAY, SYSTEM)
    assert reading == pytest.approx({"fetching": 0.128, "decoding": 0.128})
    run = roofline.plan(ROW, "dots", 3600, WAY, SYSTEM)
    busy = sum(roofline.step_seconds(ROW, "dots", SYSTEM).values())
    assert (run["step_seconds"], run["hours"]) == pytest.approx((busy, busy)) and run["bottleneck"] == "compute"
    assert run["images_per_second"] == pytest.approx(128 / busy)
    assert run["bytes_per_second"] == pytest.approx(128e6 / busy) and run["cores"] == pytest.approx(1.28 / busy)
    slow = roofline.plan(ROW, "dots", 3600, roofline.Way("w", 1e8, 100.0), SYSTEM)
    assert slow["bottleneck"] == "fetching" and slow["step_seconds"] == pytest.approx(12.8)
    assert slow["images_per_second"] == run["images_per_second"]
    starved = roofline.plan(ROW, "dots", 3600, roofline.Way("w", 1e6, 1.0), SYSTEM)
    assert starved["bottleneck"] == "decoding" and starved["step_seconds"] == pytest.approx(12.8)


def test_arguments_of_a_row_become_its_config():
    values = scale.values_of("--topology=cpu:1 --config=mae_vit.py:variant=S/8 --config.mesh.fsdp=4 --config.measure=x")
    assert (values["model"]["variant"], values["mesh"]["fsdp"], values["measure"]) == ("S/8", 4, "x")


def test_rows_without_their_compiler_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(scale, "read", lambda name: [])
    monkeypatch.setattr(scale, "ROWS", [("--topology=cpu:1x1 --config=mae_vit.py", "")])
    assert scale.steps() == [] and "left out: --topology=cpu:1x1" in capsys.readouterr().out


def test_a_row_is_compiled_and_kept(monkeypatch):
    kept, chips = [], object()
    monkeypatch.setattr(scale, "read", lambda name: [{"arguments": ["--topology=cpu:1", "a"], "without": ""}])
    monkeypatch.setattr(scale, "ROWS", [("--topology=cpu:1 a", ""), ("--topology=cpu:1 --config=mae_vit.py", "")])
    monkeypatch.setattr(scale, "write", lambda name, rows: kept.append((name, rows)))
    monkeypatch.setattr(aot, "devices", lambda topology: (topology, chips))
    monkeypatch.setattr(aot, "compile_step", lambda values, found: {"data": values["data"]["name"], "found": found})
    rows = scale.steps()
    assert kept == [("aot", rows)] and len(rows) == 2
    made = {"without": "", "data": "rxrx_sim", "found": ("cpu:1", chips)}
    assert rows[1] == {"arguments": ["--topology=cpu:1", "--config=mae_vit.py"]} | made


def test_the_mosaics_are_what_the_builder_maps_back():
    from common import rxrx3_records

    from tfds_builders.common import reading

    image = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(8, 0)
    wide = rxrx3_records.sixteen_bits(image, np.random.default_rng(0))
    assert wide.dtype == np.uint16 and (reading.to_8_bits(wide) == image).all()
    assert len(np.unique(wide)) > 1500  # noise below the 8 bits


def test_the_share_of_tiles_that_crops_touch_is_that_of_all_places():
    from common import rxrx3_records

    assert rxrx3_records.touched(0) == 1
    for side in rxrx3_records.TILES:
        places = range(0, 2048 - 256 + 1)
        along = [len({pixel // side for pixel in (place, place + 127, place + 128, place + 255)}) for place in places]
        assert rxrx3_records.touched(side) == pytest.approx((np.mean(along) / (2048 // side)) ** 2)


def test_tiles_are_worth_it():
    """Bytes and crops per second over whole records, and no host of a v5e pod that waits for data."""
    records = scale.read("scale_records")
    whole, tiles = records["encodings"]["delta"], records["tiles"]["256"]
    assert whole["kB_per_image"] / tiles["kB_per_image"] > 12
    assert tiles["images_per_second_per_core"] / whole["images_per_second_per_core"] > 12
    from tfds_builders.common import encodings

    assert encodings.tile_side(None, (2048, 2048), "delta") == 256
    (small,) = (p for p in scale.read("scale") if p["system"] == "v5e-256" and "S/16" in p["arguments"][1])
    (way,) = (way for way in small["ways"] if "tiles of 256" in way["way"])
    assert way["bottleneck"] not in ("fetching", "decoding")


# Growth.


def test_no_cost_grew_faster_than_it_should():
    result = scale.read("scaling")
    assert result["axes"].keys() == scaling.LIMITS.keys() and not result["quick"]
    for axis, found in result["axes"].items():
        assert found["exponents"] == pytest.approx(scaling.exponents(axis, found["measured"]))
        assert found["exponents"].keys() == scaling.LIMITS[axis].keys()
        assert scaling.passed(axis, found["exponents"]) == []
    sizes = {axis: next(iter(found["measured"].values())) for axis, found in result["axes"].items()}
    ends = {axis: (of[0], of[-1]) for axis, of in sizes.items()}
    assert ends["records"] == (34_375, 2_200_000) and ends["devices"] == (1, 64) and ends["experiments"] == (1, 512)


def test_an_exponent_is_the_slope_of_the_last_sizes():
    sizes = [1, 2, 4, 8, 16, 32]
    found = {"records": sizes, "open_seconds": [9, 9, 4, 8, 16, 32], "epoch_seconds": [0, 0, 16, 64, 256, 1024]}
    found |= {"minibatch_seconds": [5] * 6, "held_MB": sizes}
    slopes = scaling.exponents("records", found)
    assert slopes == pytest.approx(
        {"open_seconds": 1, "epoch_seconds": 2, "minibatch_seconds": 0, "held_MB": 1}, abs=1e-9
    )
    assert scaling.passed("records", slopes) == ["records: epoch_seconds grows with exponent 2.00, limit 1.35"]


def test_a_models_costs_are_held_against_flops_and_parameters():
    found = {"variant": ["a", "b"], "flops": [1, 10], "parameters": [1, 100]}
    slopes = scaling.exponents("models", found | {"step_seconds": [1, 10], "memory_MB": [1, 10]})
    assert slopes == pytest.approx({"step_seconds": 1, "memory_MB": 0.5})
    found = {"devices": [1, 2, 4], "split": [1, 2, 2]} | dict.fromkeys(scaling.LIMITS["devices"], [8, 4, 4])
    assert scaling.exponents("devices", found)["split_state_MB"] == pytest.approx(-1)


@pytest.mark.slow
def test_the_growth_benchmark_prints_one_json_object_last():
    command = [sys.executable, ROOT / "benchmarks/scaling.py", "--quick", "--axes=experiments,records"]
    result = subprocess.run(command, capture_output=True, text=True)
    *lines, last = result.stdout.splitlines()
    found = json.loads(last)
    assert found["quick"] and list(found["axes"]) == ["experiments", "records"], result.stderr
    table = [line for line in lines if line.startswith("|")]
    assert table == scaling.table(found)
    faster = [line for axis, of in found["axes"].items() for line in scaling.passed(axis, of["exponents"])]
    assert lines[len(table) :] == faster and result.returncode == bool(faster)
    assert 0.9 < found["axes"]["records"]["exponents"]["held_MB"] < 1.1


# Devices that are not there.


@pytest.mark.slow
def test_a_v5e_pod_has_as_many_hosts_as_the_plan_says():
    pytest.importorskip("libtpu")
    chips = aot.devices("v5e:16x16")
    assert len(chips) == 256 and len({chip.process_index for chip in chips}) == roofline.SYSTEMS["v5e"].hosts


def test_the_256_chip_step_of_the_plan_is_among_the_compiled_ones():
    rows = {tuple(row["arguments"]): row for row in scale.read("aot") if not row["without"]}
    pod = [row for arguments, row in rows.items() if arguments[0] == "--topology=v5e:16x16" and "rxrx3" in arguments[1]]
    assert len(pod) == 3 and all(row["chips"] == 256 and row["fits"] for row in pod)
    assert re.search(r"^\| v5e:16x16 \| `mae_vit.py:rxrx3,variant=L/8 ", PAGE, re.M)
