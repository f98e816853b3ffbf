"""The page of a map in Chromium, by pointer and by keys; skipped without a browser."""

import json

import numpy as np
import pytest
from browser_tools import CONTRAST, watched

from rxrx_jax.maps import folder
from rxrx_jax.maps.benchmark import relations
from rxrx_jax.maps.benchmark.genome import Genome
from rxrx_jax.maps.show import page as pages
from rxrx_jax.maps.show import query

pytestmark = pytest.mark.slow
EVIL = "<script>alert('no')</script>"


@pytest.fixture(scope="module")
def shown(found, tmp_path_factory):
    """The map with everything that its page can show, of 16 x 16 cells, in which the gene G3 has another name."""
    path = tmp_path_factory.mktemp("browser")
    columns = {name: values.copy() for name, values in found.columns.items()}
    columns["gene"][columns["gene"] == "G3"] = EVIL
    by_arm = {arm: {"c": 0.5, "genes": 3, "before": 0.6, "after": 0.5} for arm in ("chr1p", "chr2q")}
    centred = {"how": "shrunk", "probability_before": 0.6, "probability_after": 0.5, "by_arm": by_arm}
    result = {
        "command": "scored so", "genes": 60, "guides": 61, "compound_rows": 6, "marks": "C", "retrieval": [],
        "replicates": {"null": "none", **{name: {"scored": 3} for name in ("consistency", "magnitude")}},
    }  # fmt: skip
    (path / folder.BENCHMARK).write_text(json.dumps(result))
    made = folder.Map(path, columns, found.features, {"marks": "", "arm_centring": centred})
    genes = np.array([f"G{i}" for i in range(50)], object)
    genome = Genome(genes, np.array(["chr1p", "chr2q"] * 25, object), np.arange(50), np.arange(50))
    known = [relations.make("CORUM", np.array([["G1", "G0"]]))]
    cells, pages.CELLS = pages.CELLS, 16
    pages.write(made, path / pages.NAME, known, genome, "made so")
    pages.CELLS = cells
    return made


@pytest.fixture
def opened(chromium, shown):
    with watched(chromium, shown.path / pages.NAME) as open_page:
        yield open_page


@pytest.fixture
def page(opened):
    return opened(viewport={"width": 1200, "height": 900})


def names(page) -> list[str]:
    return page.locator(".neighbours tbody th").all_text_contents()


def test_a_gene_is_searched_by_keys_and_its_neighbours_are_told(page, shown):
    entities = query.Entities(shown)
    page.locator("#find").focus()
    page.keyboard.type("g1")
    assert page.locator("#found option").first.get_attribute("value") == "G1"
    assert "Did you mean: G1, G10" in page.locator("output.found").inner_text()
    page.keyboard.press("Enter")  # not written as the map has it
    assert page.locator("#chosen").inner_text() == "G1" and page.locator("output.found").inner_text() == ""
    expected = [row["name"] for row in query.neighbours(entities, "G1", 50)]
    assert names(page)[:2] == expected[:2] and len(set(names(page)) - set(expected)) <= 1  # some are as far out
    assert page.locator("#about").inner_text() == (
        "Gene: 2 rows of the map, averaged; 8 replicates, in up to 2 batches; on chr2q."
    )
    row = page.locator(".neighbours tbody tr", has=page.locator("th", has_text="G0")).first
    assert "CORUM" in row.inner_text() and "-1.000" in row.inner_text()
    page.locator(".neighbours").get_by_role("button", name="G0", exact=True).focus()
    page.keyboard.press("Enter")
    assert page.locator("#chosen").inner_text() == "G0" and page.locator("#find").input_value() == "G0"
    page.locator("#find").fill("XYZ")
    assert page.locator("output.found").inner_text() == "XYZ is not a gene or compound of the map."
    page.locator("#find").fill(EVIL)
    assert page.locator("#chosen").inner_text() == EVIL


def test_a_compound_has_its_doses(page, shown):
    assert not page.locator("#curve").is_visible()
    page.locator("#find").fill("drug")
    page.locator("#curve .figures[data-drawn]").wait_for()
    curve = query.dose_response(query.Entities(shown), "drug", "G0")
    rows = page.locator(".doses tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["0.1", "1", "10"]
    assert float(rows[2].split()[2]) == pytest.approx(curve["length"][2], rel=1e-3)
    drawn = "Bokeh.documents.map(doc => doc.get_model_by_name('curve')).find(Boolean).data"
    assert page.evaluate(f"[...{drawn}.length]") == pytest.approx(curve["length"], rel=1e-3)
    page.locator("#find").fill("inert")
    assert page.evaluate(f"[...{drawn}.length]") != pytest.approx(curve["length"], rel=1e-3)
    assert "Spearman correlation with the dose" in page.locator("#along").inner_text()


def test_the_heat_map_tells_blocks_far_out_and_pairs_near(page, shown):
    entities = query.Entities(shown)
    root = page.locator(".heat-box [data-root]")
    root.scroll_into_view_if_needed()
    place = root.bounding_box()
    page.mouse.move(place["x"] + place["width"] * 0.3, place["y"] + place["height"] * 0.5)
    told = page.locator(".tip").inner_text()
    assert "mean cosine" in told and "of a block of 4 by 4" in told
    page.locator("#find").fill("G7")
    page.get_by_role("button", name="Go to the chosen one").click()
    page.locator(".heat-box").focus()
    for _ in range(2):
        page.keyboard.press("+")
    told = page.locator(".told")
    for _ in range(600):
        page.keyboard.press("ArrowRight")
        if "cosine" in told.inner_text() and "block" not in told.inner_text():
            break
    one, other = told.inner_text().partition(": cosine ")[0].split(" and ")
    value = entities.u[entities.find(one)[0]] @ entities.u[entities.find(other)[0]]
    assert one == "G7" and float(told.inner_text().split("cosine ")[1].split(",")[0]) == pytest.approx(value, abs=0.01)
    assert "percentile" in told.inner_text()
    page.keyboard.press("ArrowDown")
    below = told.inner_text().removesuffix(" with itself").split(" and ")[0]
    page.keyboard.press("Enter")
    assert page.locator("#chosen").inner_text() == below != "G7"
    page.keyboard.press("0")
    axis = "Bokeh.documents.map(doc => doc.get_model_by_name('heat-map')).find(Boolean)"
    assert page.evaluate(f"[{axis}.x_range.start, {axis}.x_range.end]") == [0, 60]
    page.locator("#view").select_option(index=1)
    assert page.evaluate(f"[...{axis}.left[0].major_label_overrides.values()]") == ["chr1p", "chr2q"]
    page.locator("#view").select_option(index=2)
    assert page.evaluate(f"{axis}.y_range.start") == 6  # three doses of two compounds


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_both_themes_and_fits_a_telephone(opened, scheme):
    page = opened(color_scheme=scheme, viewport={"width": 390, "height": 844})
    page.locator("#find").fill("drug")
    page.locator("#curve .figures[data-drawn]").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    assert page.locator("main").count() == 1 and page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("th:not([scope])").count() == 0
