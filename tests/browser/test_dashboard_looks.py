"""Every page, wide and narrow, light and dark: fits its screen, has no barriers, and is kept as a picture to look at.

The pictures lie in ``build/screenshots``. Barriers are axe-core's to find (https://github.com/dequelabs/axe-core).
"""

import sys
from pathlib import Path

import pytest
from browser_parts import SCREENSHOTS
from playwright.sync_api import expect

pytestmark = pytest.mark.slow  # drives a browser

PAGES = {
    "overview": "/",
    "model": "/dashboard/models/linear",
    "json": "/json_inference",
    "images": "/image_inference",
    "clients": "/generate_clients",
}

AXE = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_pages_fit_their_screen_and_have_no_barriers(server, open_page, scheme, width, height):
    for number in range(30):
        server.post("/", {"model_name": "linear", "data": [[1, 2, 3]] * (1 + number % 9)})
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page = open_page("about:blank", color_scheme=scheme, viewport={"width": width, "height": height})
    found = []
    for name, path in PAGES.items():
        page.goto(server.url + path)
        if name in ("overview", "model"):
            expect(page.locator("#connection")).to_have_text("Live")
            expect(page.locator("#chart-rate canvas")).to_be_visible()
        elif name == "json":
            page.locator("#console-text").press("Control+Enter")
            expect(page.locator("#console-status .badge")).to_be_visible()
        elif name == "clients":
            expect(page.locator("#clients-code")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{scheme}.png", full_page=True)
        if AXE.exists():
            page.evaluate(AXE.read_text())
            told = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
            found += [
                (name, violation["id"], [node["target"] for node in violation["nodes"]][:3])
                for violation in told["violations"]
                if violation["impact"] in ("serious", "critical")
            ]
    assert found == []
    if not AXE.exists():
        pytest.skip("the pages fit; axe-core is not there to look for barriers: make test installs it where npm is")
