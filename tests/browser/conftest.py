"""A real browser (Debian's Chromium, driven by Playwright) on a real server. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_parts import write_models
from running import Running, running

CHROMIUM = shutil.which("chromium")

# Chromium says these of every request that is refused, whatever the page makes of it.
EXPECTED = ("Failed to load resource",)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """A browser for one file of tests: Playwright keeps a loop running in this thread, so it must end before others."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: install Debian's package chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    playwright.expect.set_options(timeout=30_000)  # what is expected comes in a second or two, on an idle machine
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Running]:
    flags = ("--model_control=explicit", "--model_poll_interval_s=0.05", "--max_load_retries=0")
    with running(f"--model_config_file={write_models(folder)}", *flags) as server:
        yield server


@pytest.fixture
def open_page(browser):
    """``open_page(url, **context)``: a page in a context of its own. It must not complain by the end of the test."""
    complaints: list[str] = []
    with contextlib.ExitStack() as contexts:

        def opened(url: str, **options):
            context = contexts.enter_context(contextlib.closing(browser.new_context(**options)))
            context.set_default_timeout(30_000)
            page = context.new_page()
            page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(url)
            return page

        yield opened
    assert [text for text in complaints if not text.startswith(EXPECTED)] == []
