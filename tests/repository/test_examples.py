"""The examples of the pages train: a config that was forked, methods of one's own."""

import re

import pytest
import tiny
from paths import ROOT

from rxrx_jax.adapt.invariance.dann import Dann
from rxrx_jax.training import metrics, train


def example(page: str, name: str) -> str:
    """The Python code between the marks of that name."""
    part = (ROOT / page).read_text().partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    return re.search(r"```python\n(.*?)```", part, re.S)[1]


def test_the_forked_config_runs(tmp_path, folder):
    (tmp_path / "mine.py").write_text(example("docs/training.md", "config"))
    values = tiny.values(f"{tmp_path}/mine.py:transductive=True,weight=0.5", folder)
    last = train.run(values, tmp_path / "run")
    assert last["done"] and last["transductive"]
    changed = {key: value for key, value in values["adapt"].items() if value != getattr(Dann, key, None)}
    assert changed == {"name": "dann", "grl_weight": 0.5}


@pytest.mark.parametrize(
    "page, metric, streams, transductive",
    [("docs/methods.md", "discrepancy", 4, True), ("CONTRIBUTING.md", "largest_weight", 0, False)],
)
def test_a_method_runs(page, metric, streams, transductive, tmp_path, folder):
    """Named by its path, as the page's command does, with what it needs of the streams set by the config."""
    path = tmp_path / "mine.py"
    path.write_text(example(page, "method"))
    values = tiny.values(f"convnet.py:method={path},normalisation=image", folder, evaluators={"accuracy": {}})
    assert values["data"]["unlabelled_minibatch"] == streams
    last = train.run(values, tmp_path / "run")
    lines = metrics.read(tmp_path / "run" / metrics.NAME)
    assert last["done"] and last["transductive"] is transductive
    assert all(line[metric] > 0 for line in lines if "loss" in line)
    final = next(line for line in lines if line.get("final"))
    assert ("T" in final["marks/cross_batch"]) is transductive
