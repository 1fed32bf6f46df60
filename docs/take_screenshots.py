"""Takes the pictures of these pages from a real server: ``make screenshots`` writes docs/images/*.png.

It serves the models of ``make demo``, asks them for a while so that there is something to see, and opens the pages in
Debian's Chromium. It runs from the checkout, with the tests' parts on the path.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from running import Running, running  # noqa: E402

IMAGES = ROOT / "docs" / "images"
PAGES = {
    "dashboard": "/",
    "model": "/dashboard/models/digits",
    "clients": "/generate_clients",
}
SECONDS_OF_LOAD = 20


def ask(server: Running, body: str, enough: threading.Event) -> None:
    """Asks both models in turn until it is enough."""
    for count in itertools.count():
        if enough.is_set():
            return
        server.post(f"/v1/models/{'digits' if count % 3 else 'digits_forest'}:predict", body)
        enough.wait(0.01)


def main(demo: Path) -> None:
    """Writes the pictures; ``demo`` is the folder that examples/make_demo_models.py wrote."""
    IMAGES.mkdir(exist_ok=True)
    body = json.dumps(json.loads((demo / "example.json").read_text()))
    enough = threading.Event()
    with running(f"--model_config_file={demo / 'models.json'}") as server, sync_playwright() as started:
        clients = [threading.Thread(target=ask, args=(server, body, enough)) for _ in range(4)]
        for client in clients:
            client.start()
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(server.url)
            page.wait_for_timeout(SECONDS_OF_LOAD * 1000)
            for name, path in PAGES.items():
                page.goto(server.url + path)
                page.wait_for_timeout(3000)
                file = IMAGES / f"{name}.png"
                page.screenshot(path=file)
                Image.open(file).convert("RGB").save(file, optimize=True)
                print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")
        finally:
            browser.close()
            enough.set()
            for client in clients:
                client.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
