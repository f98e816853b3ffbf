"""What docs/ say of records, encodings, builds and speed is what the benchmarks printed and the code does."""

import json
import re
import sys

import pytest
from builders_tools import SCREEN_FIELDS
from paths import ROOT

from rxrx_jax.simulate import layouts
from tfds_builders import prepare
from tfds_builders.common.types import SITE_COLUMNS

DATASETS = (ROOT / "docs/datasets.md").read_text()
RECORDS = (ROOT / "docs/records.md").read_text()


def test_the_table_of_encodings_is_what_the_benchmark_printed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import records as benchmark

    shown = RECORDS.partition("<!-- encodings -->\n")[2].partition("<!-- /encodings -->")[0].strip().splitlines()
    result = json.loads((ROOT / "docs/encodings.json").read_text())
    assert shown == benchmark.table(result) and "real sites" in result["sites"]
    figures = result["encodings"]
    assert figures["delta"]["over_png"] < 1
    assert 5 < figures["source"]["read_ms"] / figures["delta"]["read_ms"] < 7  # "six times faster"
    assert min(figures, key=lambda name: figures[name]["read_ms"]) == "raw"
    assert round(figures["raw"]["over_png"]) == 3


def test_the_table_of_tpu_slices_is_what_the_benchmark_printed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scale as benchmark

    rows = json.loads((ROOT / "docs/aot.json").read_text())
    shown = (ROOT / "docs/scale.md").read_text().partition("<!-- scale -->\n")[2].partition("<!-- /scale -->")[0]
    assert shown.strip().splitlines() == benchmark.table(rows)
    for row in rows:
        assert (" ".join(row["arguments"]), row["without"]) in benchmark.ROWS


def test_the_figures_of_builds_are_what_the_benchmark_printed():
    result = json.loads((ROOT / "docs/build.json").read_text())
    text = " ".join(DATASETS.split())
    for phrase in (
        f"records {result['record_over_png']:.2f} times the bytes of the PNG files",
        f"{result['over_tfds']:.1f} times the sites per second",
        f"two processes {result['two_processes']:.2f} times one",
        f"and {result['peak_mb_rxrx1']:.0f} MB of memory per worker",
    ):
        assert phrase in text, phrase
    assert "real sites" in result["sites"]


def test_the_figures_of_speed_are_what_the_benchmarks_printed():
    loader, step = (json.loads((ROOT / f"docs/{name}.json").read_text()) for name in ("loader", "step"))
    text = " ".join((ROOT / "docs/speed.md").read_text().split())
    over, reading = loader["over_torch"], loader["over_reading"]
    for phrase in (
        f"are ready {over['delta']:.1f} times as fast as from a PyTorch DataLoader",
        f"{over['raw']:.1f} times with `--encoding=raw`; at {reading['delta']:.2f} and {reading['raw']:.2f}",
        f"waits for data {100 * loader['data_wait']:.2f} % of its time",
        f"takes {step['supervised_over_pytorch_eager']:.2f} times as long as in eager",
        f"and {step['supervised_over_pytorch_compiled']:.2f} times as compiled",
        f"{step['mae_over_pytorch_eager']:.2f} and {step['mae_over_pytorch_compiled']:.2f} times as masked autoencoder",
        f"it costs {step['mae_over_supervised']:.2f} of the supervised step",
        f"its encoder alone {step['encoder_over_supervised']:.2f}",
    ):
        assert phrase in text, phrase
    assert "real sites" in loader["sites"] and (step["variant"], step["dtype"]) == ("S/16", "float32")


def test_the_parts_of_a_block_are_what_the_benchmark_printed():
    found, page = json.loads((ROOT / "docs/kernels.json").read_text())["milliseconds"], ROOT / "docs/speed.md"
    rows = [f"| {name} | {a:.2f} | {b:.2f} | {a / b:.2f} |" for name, (a, b) in found.items()]
    assert "\n".join(rows) in page.read_text()
    products = sum(found[name][0] for name in ("qkv", "out", "mlp1", "mlp2"))
    assert f"are {100 * products / found['block'][0]:.0f} % of a block" in " ".join(page.read_text().split())


def test_the_figures_of_intervals_are_what_the_benchmark_printed():
    cases = json.loads((ROOT / "docs/coverage.json").read_text())["cases"]
    text = " ".join((ROOT / "docs/protocols.md").read_text().split())
    ours = [case["printed"] for case in cases]
    as_one = [case["t, experiments of all worlds as one"] for case in cases if "worlds" in case["case"]]
    for phrase, found in (("in simulation: {} to {} %", ours), ("covers {} to {} %", as_one)):
        assert phrase.format(*(round(100 * end(found)) for end in (min, max))) in text


def test_the_figures_of_the_probe_are_what_the_benchmark_printed():
    found = json.loads((ROOT / "docs/probe.json").read_text())
    ours, other = found["rxrx_jax"], found["scikit-learn float32"]
    first = other["cpu_seconds"] / ours["first_cpu_seconds"]
    text = " ".join((ROOT / "docs/protocols.md").read_text().split())
    for phrase in (
        f"{ours['steps']} step to scikit-learn's {other['steps']}, which took "
        f"{found['ratio_cpu']['scikit-learn float32']} times the processor time ({first:.1f} times that of a first fit",
        f"in float64 {found['ratio_cpu']['scikit-learn float64']} times",
        f"and {ours['peak_mib']} MiB at most",
    ):
        assert phrase in text, phrase
    assert [found[key] for key in ("rows", "features", "classes")] == [40_612, 384, 1_139]


def test_the_files_and_columns_of_records_md_are_those_of_a_folder(tmp_path):
    layouts.write_rxrx3(layouts.Screen(**{**SCREEN_FIELDS, "treatments": 2, "plates": 1}), tmp_path / "tree")
    folder = prepare.prepare("rxrx3", tmp_path / "tree", tmp_path, 1, progress=False)
    cells = re.findall(r"^\| (`.*?) \| ", RECORDS.partition("## The columns")[0], re.M)
    described = {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}
    assert described == {path.name for path in folder.iterdir() if "array_record" not in path.name}
    section = RECORDS.partition("## The columns")[2].partition("## ")[0]
    columns = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", section, re.M)
    named = {name for cell in columns for name in re.findall(r"`(\w+)`", cell)}
    extra = {name for builder in prepare.names() for name in prepare.builder_class(builder).extra_columns}
    assert named == {*SITE_COLUMNS[1:], *extra}


@pytest.mark.parametrize("name", sorted(set(prepare.names()) - {"rxrx_sim"}))
def test_the_table_of_datasets(name):
    builder = prepare.builder_class(name)
    (row,) = re.findall(rf"^\| `{name}` \|.*$", DATASETS, re.M)
    _, _, reads, channels, licence, _ = (cell.strip() for cell in row.split("|"))
    assert channels.startswith(f"{len(builder.channels)} of ")
    assert ("16-bit" in reads) == (builder.bits == 16)
    words = licence.replace("non-commercial", "Non-Commercial").split()
    assert all(word in builder.about["license"] for word in words), builder.about["license"]


def test_every_option_of_preparing_exists(capsys):
    with pytest.raises(SystemExit):
        prepare.main(["--help"])
    text = capsys.readouterr().out
    for option in ("--experiments", "--plates", "--cell-types", "--workers", "--encoding", "--beam", "--strict"):
        assert option in DATASETS and option in text
    assert sys.modules.get("tensorflow") is None


def test_the_figures_of_batch_metrics_are_what_the_benchmark_printed():
    found = json.loads((ROOT / "docs/batch_metrics.json").read_text())
    text = " ".join((ROOT / "docs/batch_metrics.md").read_text().split())
    ours, theirs, every = found["average_precision"], found["copairs"], found["all"]
    for phrase in (
        f"{found['wells']:,} wells of {found['features']} features",
        f"{every['cpu_seconds']:.0f} processor seconds and {every['peak_mb']:.0f} MB",
        f"{ours['cpu_seconds']:.2f} of them, where copairs 0.5.5 takes {theirs['cpu_seconds']:.1f} in the same run, "
        f"{found['times_fewer_cpu_seconds']:.0f} times as many ({found['times_fewer_seconds']:.0f} times as long",
    ):
        assert phrase in text, phrase
    assert ours["mean_average_precision"] == pytest.approx(theirs["mean_average_precision"], abs=1e-6)
    assert every["peak_mb"] < 2000 and found["threads"] == 1


def test_the_figures_of_molecules_are_what_the_benchmark_printed():
    found = json.loads((ROOT / "docs/molecules.json").read_text())
    text = " ".join((ROOT / "docs/molecules.md").read_text().split())
    for phrase in (
        f"{found['rows']:,} molecules of {found['molecules']}",
        f"{found['times_faster']:.0f} times as fast as to make its arrays with RDKit ({found['read_us']:.0f} and "
        f"{found['featurise_us']:.0f} microseconds)",
        f"two processes are {found['two_processes']:.2f} times as fast as one",
        f"of whose time RDKit's functions take {100 * found['share_in_rdkit']:.0f} %",
        f"A molecule takes {found['buckets_times_faster']:.1f} times as long",
    ):
        assert phrase in text, phrase
