"""What holds of the runs of every table, before anything is trained."""

import crops_tools
import pytest

from rxrx_jax import tables
from rxrx_jax.adapt import method_class
from rxrx_jax.base.config import flatten
from rxrx_jax.report import runs
from rxrx_jax.tables import FINAL
from rxrx_jax.training import describe

LENGTHS = ("steps", "epochs", "examples")


def load(name, folder):
    return tables.load(name, folder if name == "real_cells" else None)


def warm_up(values) -> float:
    """Its share of the run."""
    found = {key.removeprefix("warmup_"): value for key, value in values["optim"].items() if key.startswith("warmup_")}
    if not found:
        return 0.0
    ((unit, length),) = found.items()
    if unit == "percent":
        return length / 100
    return length / (values[f"total_{unit}"] if f"total_{unit}" in values else describe.steps(values))


@pytest.mark.parametrize("name", tables.names())
def test_every_run_can_start(name, tmp_path):
    crops_tools.write(tmp_path / "drugs", per=24)
    made = load(name, tmp_path)
    used = {run.name for run in tables.chain(made, made.rows)}
    assert used == {run.name for run in made.runs}
    for run in made.runs:
        values = runs.values(run, tmp_path, seed := made.choose()[0])
        if run.module:
            continue
        assert values["seed"] == seed and sum(f"total_{unit}" in values for unit in LENGTHS) == 1
        assert warm_up(values) < 0.5, run.name
        steps = values.get("total_steps")
        if steps and "adapt" in values:
            method = {key: value for key, value in values["adapt"].items() if key != "name"}
            assert method_class(values["adapt"]["name"])(**method).needs.steps < steps


@pytest.mark.parametrize("name", tables.names())
def test_the_worlds_of_the_final_comparison_are_of_tables_that_say_so(name, tmp_path):
    crops_tools.write(tmp_path / "drugs", per=24)
    made = load(name, tmp_path)
    assert made.final or not {*made.worlds} & {*FINAL}
    for run in made.runs:  # nor by a key of their configs
        seeds = {value for key, value in flatten(runs.values(run, tmp_path, 0)).items() if key.endswith("seed")}
        assert not seeds & {*FINAL}
