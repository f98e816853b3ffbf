"""rxrx_jax.base.page.figures and .explorer: the JSON of figures, and maps of points."""

import base64
import json

import numpy as np
import pytest

from rxrx_jax.base import errors
from rxrx_jax.base.page import explorer, figures


def scatter(names):
    one = figures.figure(100)
    one.scatter("x", "y", source={"x": [1, 2], "y": [3, 4], "name": names})
    return figures.group({"two points": one})


def test_the_same_figures_have_the_same_json_and_data_of_users_stays():
    first, again = scatter(["p1001", 'p1 "id"']), scatter(["p1001", 'p1 "id"'])
    assert first == again and "p1001" in json.dumps(first)
    ((words, root, height),) = first["roots"]
    assert (words, height) == ("two points", 100) and first["document"]["roots"][0]["id"] == root
    assert scatter(["p1001", "other"]) != first


def test_without_bokeh_it_is_one_line(monkeypatch):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match="bokeh is not installed; it comes with the extra"):
        figures.check()


def test_a_map_has_the_groups_of_each_point_and_panels_share_them():
    places = np.array([[0, 0], [1, 1], [np.nan, np.nan]])
    about = {"well": ["a", "b", "c"], "gene": ["x", "y", ""]}
    near = {"one": (np.array([[1], [0], [-1]]), np.array([[0.51234], [0.5], [0]]))}
    panels = [explorer.Panel("PCA", "one", places), explorer.Panel("PCA", "two", places)]
    colourings = {"gene": about["gene"], "right": {"one": ["yes", "no", ""], "two": ["no", "no", "no"]}}
    made = explorer.explore(about, panels, colourings, near, "gene", [b"1", b"2", b""], "gene")
    data = made["data"]
    assert data["colourings"]["gene"] == {"names": ["x", "y"], "codes": [[0, 1, -1]]}
    assert data["colourings"]["right"] == {"names": ["no", "yes"], "codes": [[1, 0, -1], [0, 0, 0]]}
    number, rows, thousandths = data["neighbours"]["one"]
    assert number == 1 and np.frombuffer(base64.b64decode(rows), "<i4").tolist() == [1, 0, -1]
    assert np.frombuffer(base64.b64decode(thousandths), "<i2").tolist() == [512, 500, 0]
    assert made["words"] == ["x", "y"]
    assert [words for words, *_ in made["figures"]["roots"]] == [
        "one: PCA, map of 3 points",
        "two: PCA, map of 3 points",
    ]
    assert "MQ==" in json.dumps(made["figures"]) and json.dumps(made).count("data:image/webp") == 2
    json.dumps(made, allow_nan=False)
