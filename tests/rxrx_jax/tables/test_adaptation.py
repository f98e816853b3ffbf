"""The comparison of adaptation methods: one recipe, the worlds that each table may see, and what its rows read."""

import collections
import json
import re

import pytest
import tiny
from paths import ROOT

from rxrx_jax import reproduce, tables
from rxrx_jax.adapt import method_class
from rxrx_jax.base.config import load
from rxrx_jax.base.errors import UserError
from rxrx_jax.report import runs
from rxrx_jax.simulate.design import Screen
from rxrx_jax.tables import FINAL
from rxrx_jax.tables.comparison import adaptation, adaptation_search, adaptation_small, screen
from rxrx_jax.training import metrics, train

VALIDATION = adaptation_search.VALIDATION
WEIGHTED = ("coral", "mmd", "irm", "vrex", "ib_erm", "fishr", "arcface", "fixmatch", "mean_teacher", "dann", "cdan")


def values_of(run, folder, seed=7):
    return runs.values(run, folder, seed)


@pytest.mark.parametrize("table", [adaptation, adaptation_search, adaptation_small])
def test_every_method_is_trained_alike(table, tmp_path):
    """Optimiser, steps, minibatch, augmentation, screen and, of a network, its size."""
    recipes = collections.defaultdict(set)
    for run in table.RUNS:
        values = values_of(run, tmp_path)
        if values["task"]["name"] == "classify":
            alike = {
                key: values[key] for key in ("total_steps", "task", "augment", "protocol", "selection", "evaluators")
            }
            optim = {key: value for key, value in values["optim"].items() if key != "ema_decay"}
            world = {key: values["data"]["builder"][key] for key in ("version", "size", "seed")}
            recipes[values["model"]["name"]].add(
                str([alike, optim, world, values["data"]["minibatch"], values["model"]])
            )
    assert {len(of) for of in recipes.values()} == {1}


def test_the_rows_are_of_every_method_and_every_key_row_of_every_setting(tmp_path):
    known = {path.stem for path in (ROOT / "rxrx_jax" / "adapt").glob("*/[a-z]*.py") if path.parent.name != "correct"}
    trained = {values_of(run, tmp_path).get("adapt", {}).get("name") for run in adaptation.RUNS}
    read = {name for run in adaptation.RUNS for name in values_of(run, tmp_path).get("post_hoc", {})}
    assert known - {"batch_statistics"} <= trained | read
    count = collections.Counter(row.labels[2] for row in adaptation.ROWS)
    assert {count[setting] for setting in adaptation.SETTINGS if setting != "fixed"} == {8} and count["fixed"] > 60
    assert len(adaptation_small.ROWS) == 8
    fixed = {(row.labels[0], row.labels[1]) for row in adaptation.ROWS if row.labels[2] == "fixed"}
    assert {(row.labels[0], row.labels[1]) for row in adaptation.ROWS} == fixed
    named = {row.name: row for row in adaptation.ROWS if row.name}
    for row in adaptation.ROWS:  # what a row is compared with is ERM of its setting
        base = named[row.baseline] if row.baseline else row
        assert base.labels[2] == row.labels[2] and base.labels[0].endswith("ERM") and not base.prefix
        assert row.baseline or row.labels[:2] == ("ERM", "image")


def test_settings_change_the_held_out_experiments_alone():
    fixed, reshuffled, cell_type, imbalanced = (load(adaptation.config(of)) for of in adaptation.SETTINGS.values())
    builder = cell_type["data"]["builder"]
    assert not any(name.startswith("SIMC") for name in builder["train"] + builder["val"])
    assert all(name.startswith("SIMC") for name in builder["test"]) and len(builder["train"]) == 12
    assert reshuffled["data"]["builder"] == fixed["data"]["builder"] | {"layout": "reshuffled"}
    assert imbalanced["data"]["builder"] == fixed["data"]["builder"] | {"imbalance": 0.3}
    design = Screen(**fixed["data"]["builder"]).splits
    untested = load("adaptation.py:tested=False")["data"]["builder"]
    for held_out, of in (("SIMC", builder), ("none", untested)):  # what is trained on and validated on is the design's
        for split in ("train", "val"):
            assert Screen(**of).splits[split] == tuple(x for x in design[split] if not x.startswith(held_out))
    assert Screen(**untested).splits["test"] == ()
    assert {*builder["test"]} == {x for of in design.values() for x in of if x.startswith("SIMC")}
    with pytest.raises(UserError, match="cell_type=HUVEC: expected SIMA, SIMB, SIMC"):
        load("adaptation.py:cell_type=HUVEC")


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weight_is_times_its_default(name):
    key = "grl_weight" if name in ("dann", "cdan") else "weight"
    default = getattr(method_class(name)(), key)
    assert load(f"adaptation.py:method={name}")["adapt"][key] == default
    assert load(f"adaptation.py:method={name},weight=0.1")["adapt"][key] == pytest.approx(default / 10)
    assert load(f"adaptation.py:method={name},weight=0")["adapt"][key] == 0


def test_what_has_no_weight_says_so():
    with pytest.raises(UserError, match="config argument weight=10: the method lisa has no weight"):
        load("adaptation.py:method=lisa,weight=10")
    with pytest.raises(UserError, match="stage=map: expected convnet, vit, mae, probe"):
        load("adaptation.py:stage=map")


def test_weights_by_validation_are_the_best_of_the_search():
    archived = [json.loads(line) for line in (ROOT / "docs" / "adaptation" / "runs.jsonl").read_text().splitlines()]
    found = collections.defaultdict(dict)
    for line in archived:
        scored = [value[VALIDATION] for value in line["metrics"] if VALIDATION in value]
        found[line["run"]][line["seed"]] = scored[-1] if scored else None
    for words, weight in adaptation.TUNED.items():
        of = {w: found[adaptation.slug(words, w)] for w in adaptation_search.WEIGHTS}
        assert all(seeds.keys() == {100, 101, 102} for seeds in of.values())
        assert max(of, key=lambda w: sum(of[w].values())) == weight
    assert adaptation.TUNED.keys() == adaptation_search.METHODS.keys()


@pytest.mark.parametrize("name", ["adaptation_search", "screen"])
def test_what_is_chosen_has_no_test_experiments_and_never_the_final_worlds(name, tmp_path):
    made = tables.load(name)
    assert tuple(made.worlds) == (100, 101, 102) and not made.final
    for run in made.runs:
        values = values_of(run, tmp_path, 100)
        assert values["data"]["builder"]["test"] == () and values["data"]["unlabelled_roles"] == ("validation",)
    assert not [column for column in made.columns if "cross_batch" in column.metric]
    for world in FINAL:
        with pytest.raises(UserError, match=f"world {world} is kept for the final comparison") as error:
            reproduce.main([name, f"--out={tmp_path}", f"--worlds=100,{world}"])
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_final_worlds_are_in_no_config_demo_or_test():
    assert adaptation.TABLE.worlds == tuple(FINAL) and adaptation.TABLE.final
    others = [
        table for name in tables.names() if name not in ("real_cells", "adaptation") and (table := tables.load(name))
    ]
    assert not any(table.final for table in others)
    used = re.compile(r"seed[\"']?[=:]\s*20[0-4]\b")
    folders = ("configs", "docs", "benchmarks", "rxrx_jax", "tests", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", "")]
    found = [path for path in [*files, ROOT / "README.md"] if path.is_file() and used.search(path.read_text())]
    assert [path.name for path in found] == []


@pytest.mark.slow
@pytest.mark.usefixtures("small_models")
def test_rows_are_read_from_runs(folder, tmp_path):
    """Of ERM with all readings, and of what neither sees a test experiment nor scores one."""
    (erm,) = (run for run in adaptation.RUNS if run.name == "erm-plate")
    train.run(tiny.values(erm.config, folder, **{"data.builder.untreated_wells": 2}), tmp_path / "erm")
    final = next(line for line in metrics.read(tmp_path / "erm" / metrics.NAME) if line.get("final"))
    for row in adaptation.ROWS:
        if row.run == erm.name:
            shown = [column.metric for column in adaptation.COLUMNS if "/" in column.metric]
            assert len(shown) == 7
            for metric in shown:
                assert 0 <= final[row.prefix + metric] <= 1
    without = {"data.builder.test": (), "data.unlabelled_minibatch": 4}
    search = adaptation_search.RUNS[0]
    train.run(tiny.values(search.config, folder, **without), tmp_path / "search")
    final = next(line for line in metrics.read(tmp_path / "search" / metrics.NAME) if line.get("final"))
    assert final["marks/validation"] == "T" and not [name for name in final if "cross_batch" in name]
    run = screen.RUNS[2]
    changes = {"data.builder.test": (), "evaluators.probe.corrections": tuple(screen.CORRECTIONS)}
    train.run(tiny.values(run.config, folder, **changes), tmp_path / "probe")
    final = next(line for line in metrics.read(tmp_path / "probe" / metrics.NAME) if line.get("final"))
    for row in screen.ROWS[2:]:
        assert 0 <= final[f"{row.prefix}validation/site_accuracy"] <= 1
    assert not [name for name in final if "cross_batch" in name]
