"""Pages in Chromium, as people use them; skipped without a browser."""

import contextlib
import os
import shutil

import pytest

BROWSER = os.environ.get("RXRX_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome") or ""
# The lowest ratio of contrast (WCAG 2) of text that is seen, and where; 4.5 is enough.
CONTRAST = """() => {
  const rgb = text => text.match(/[0-9.]+/g).map(Number);
  const light = colour => colour.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return rgb(getComputedStyle(document.documentElement).backgroundColor);
  };
  const texts = [...document.querySelectorAll("main *")].filter(e => e.checkVisibility() &&
    [...e.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()) && !e.closest("script, option"));
  return texts.map(e => {
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.tagName + " " + e.textContent.slice(0, 40)];
  }).reduce((low, one) => one[0] < low[0] ? one : low);
}"""


@contextlib.contextmanager
def launched():
    """A browser."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if not BROWSER:
        pytest.skip("no chromium or google-chrome on the path (or in RXRX_CHROMIUM)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def watched(browser, path):
    """A function that opens a page with settings of the browser and draws all figures that are not hidden. At the end
    the console has no error, and nothing was asked of the network."""
    said, asked = [], []

    def open_page(**settings):
        page = browser.new_page(**settings)
        page.set_default_timeout(60_000)
        page.on("console", lambda message: message.type in ("error", "warning") and said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        for group in page.query_selector_all(".figures"):
            if group.is_visible():
                group.scroll_into_view_if_needed()
        page.locator(".figures:not([data-drawn]):visible").first.wait_for(state="detached")
        return page

    yield open_page
    # Of a browser without a graphics card, whose driver says that it is slow.
    assert [text for text in said if "GL Driver Message" not in text] == []
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
