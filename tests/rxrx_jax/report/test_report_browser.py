"""The page of a run in Chromium, as people use it; skipped without a browser."""

import io

import numpy as np
import pytest
from browser_tools import CONTRAST, watched
from PIL import Image

from rxrx_jax.report import wells

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(chromium, explored):
    """A function that opens the page with settings of the browser and draws all figures. At the end of the test the
    console has no error, and nothing was asked of the network."""
    with watched(chromium, explored.page) as open_page:
        yield open_page


@pytest.fixture
def page(opened):
    return opened()


def selected(page):
    return page.evaluate("Bokeh.documents.map(doc => doc.get_model_by_name('points')).find(Boolean).selected.indices")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_themes_and_a_telephone_need_not_scroll_sideways(opened, scheme):
    page = opened(color_scheme=scheme, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    # Rows are cards, one below the other; many of them keep to a box that is scrolled.
    lengths = page.eval_on_selector(
        "table.cards",
        """table => {
      const body = table.tBodies[0], n = body.rows.length, box = table.parentElement;
      const few = [box.clientHeight, box.scrollHeight];
      while (body.rows.length < 40) body.append(body.rows[0].cloneNode(true));
      const many = [box.clientHeight, box.scrollHeight];
      [...body.rows].slice(n).forEach(row => row.remove());
      return [few, many];
    }""",
    )
    (few, of_few), (many, of_many) = lengths
    assert few == of_few and many < 700 < of_many
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    axis = "Bokeh.documents[0].roots()[0].below[0].major_label_text_color"
    assert page.evaluate(axis) == {"light": "#1d2127", "dark": "#e6e8eb"}[scheme]
    page.emulate_media(color_scheme="light")
    # The page hears of it some frames later.
    frames = f"for (let i = 0; i < 600 && {axis} !== '#1d2127'; i++) await new Promise(requestAnimationFrame)"
    page.evaluate(f"async () => {{ {frames} }}")
    assert page.evaluate(axis) == "#1d2127"
    page.set_viewport_size({"width": 1000, "height": 800})
    table = page.eval_on_selector("table.cards", "table => [table.scrollWidth, table.parentElement.clientWidth]")
    assert table[0] <= table[1]


def test_tables_are_sorted_and_filtered(page):
    table = page.locator("table", has_text="Accuracy per site in every experiment")
    rows = lambda: table.locator("tbody tr:not([hidden]) td:nth-child(3)").all_text_contents()  # noqa: E731
    assert rows() == ["SIMB-01", "SIMB-02"]
    heading = table.get_by_role("button", name="accuracy")
    heading.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert rows() == ["SIMB-02", "SIMB-01"]
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("accuracy")
    confused = page.locator("section", has=page.get_by_role("heading", name="Confusions"))
    before = confused.locator("tbody tr:not([hidden])").count()
    confused.locator("input.filter").fill("script")
    assert 0 < confused.locator("tbody tr:not([hidden])").count() < before
    assert "of" in confused.locator("output").inner_text()


def test_wells_are_found_selected_coloured_and_told(page, explored):
    evil = explored.evil
    points = "Bokeh.documents.map(doc => doc.get_model_by_name('points')).find(Boolean)"
    page.locator(".explorer .search").fill(evil)
    perturbations = page.evaluate(f"{points}.data.about1")
    assert selected(page) == [i for i, name in enumerate(perturbations) if name == evil]
    assert evil in page.locator(".chosen").inner_text()
    page.locator(".explorer .clear").click()
    assert selected(page) == [] and page.locator(".chosen").inner_text() == ""

    page.locator(".explorer .colouring").select_option("right or wrong")
    page.locator(".groups button", has_text="wrong").click()
    chosen = selected(page)
    colours = page.evaluate(f"{points}.data.colour0")
    assert chosen and len({colours[i] for i in chosen}) == 1 < len(set(colours))

    # A click on a point, at its place on the canvas, chooses it alone and lists its neighbours.
    page.locator(".explorer .figures").scroll_into_view_if_needed()
    alone = next(i for i, name in enumerate(perturbations) if name != evil)  # wells of the other are in one place
    place = page.evaluate(
        """at => {
          const doc = Bokeh.documents.find(doc => doc.get_model_by_name("points")), plot = doc.roots()[0];
          const view = Bokeh.index.find_one(plot), source = doc.get_model_by_name("points");
          const {x0, y0} = source.data, box = view.canvas_view.el.getBoundingClientRect();
          return [box.x + view.frame.x_scale.compute(x0[at]), box.y + view.frame.y_scale.compute(y0[at])];
        }""",
        alone,
    )
    page.mouse.move(*place)
    page.locator(".bk-tooltip img, .bk-Tooltip img").first.wait_for(state="attached")
    page.mouse.click(*place)
    page.locator(".chosen", has_text="Nearest in").wait_for()
    assert selected(page) == [alone] and page.locator(".chosen img").count() > 1
    read = wells.read(explored.run)
    cards = page.locator(".chosen ol").nth(1).locator("li").all_inner_texts()
    ids, cosines = (of[read.columns["well_id"].tolist().index(page.evaluate(f"{points}.data.about0")[alone])]
                    for of in read.neighbours)  # fmt: skip
    for card, i, cosine in zip(cards, ids, cosines, strict=True):
        assert read.columns["well_id"][i] in card and float(card.rpartition("cosine ")[2]) == pytest.approx(
            cosine, abs=1e-3
        )


def test_points_are_drawn_by_webgl_and_a_lasso_chooses_them(page):
    page.locator(".explorer .figures").scroll_into_view_if_needed()
    x, y, width, height, has, uses = page.evaluate(
        """() => {
          const plot = Bokeh.documents.find(doc => doc.get_model_by_name("points")).roots()[0];
          const view = Bokeh.index.find_one(plot), canvas = view.canvas_view.el.getBoundingClientRect();
          const {left, top, width, height} = view.frame.bbox;
          return [canvas.x + left, canvas.y + top, width, height, document.createElement("canvas").getContext("webgl")
                  !== null, view.views.find_one(plot.renderers[0]).glyph.has_webgl()];
        }"""
    )
    shot = page.screenshot(clip={"x": x, "y": y, "width": width, "height": height})
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    coloured = pixels[np.ptp(pixels, axis=2) > 90]
    assert uses == has and len(np.unique(coloured // 64, axis=0)) > 1  # of two experiments; axes and titles are grey
    page.mouse.move(x + 3, y + 3)
    page.mouse.down()
    for right, down in ((width - 3, 3), (width - 3, height - 3), (3, height - 3), (3, 3)):
        page.mouse.move(x + right, y + down, steps=3)
    page.mouse.up()
    page.locator(".chosen", has_text="selected").wait_for()
    assert len(selected(page)) > 1


def test_the_plate_map_shows_what_is_chosen(page):
    value = "Bokeh.documents.map(doc => doc.get_model_by_name('plate')).find(Boolean).data.value"
    right = page.evaluate(f"{value}.filter(v => !isNaN(v))")
    assert right and all(0 <= one <= 1 for one in right)
    page.locator(".quantity").select_option(label="intensity, w1 nucleus")
    shown = page.evaluate(f"{value}.filter(v => !isNaN(v))")
    assert min(shown) < 0 < max(shown)
    page.locator(".experiment").select_option("SIMB-02")
    assert page.evaluate(f"{value}.filter(v => !isNaN(v))") != shown
