"""How Sphinx makes the site of these pages: `make docs` builds it into build/site, and every warning is an error.

Sphinx with MyST (Markdown) and Furo: of the generators for Python projects it is the one that is kept and stable.
MkDocs has stood at 1.6 since 2024 while its 2.0 drops plugins and themes, Material for MkDocs calls itself inactive,
and Zensical, which follows it, is an alpha. Furo needs nothing from another server: no fonts, no scripts.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

project = "stfs"
author = "The stfs authors"
copyright = author  # noqa: A001 - the name that Sphinx wants
html_title = "stfs"
extensions = ["myst_parser"]
exclude_patterns: list[str] = []
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 3
nitpicky = True
# A command with what it prints is no valid source of its language, and a list may have a pattern that fits no page yet.
suppress_warnings = ["misc.highlighting_failure", "toc.empty_glob"]

OF_THE_CHECKOUT = {"architecture": "ARCHITECTURE.md", "changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
"""Pages whose text is a file beside this folder: it is read from there, so that there is one of it."""


FOLDERS = ("platforms", "protocols")
"""Their README lists them in words; the menu's list is made here, so that on GitHub there is but one."""


def read(app: object, name: str, source: list[str]) -> None:
    """Puts the file of the checkout in the place of the page that stands for it, with links as seen from here."""
    folder, _, page = name.partition("/")
    if folder in FOLDERS and page == "README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
    if name not in OF_THE_CHECKOUT:
        return
    text = (ROOT / OF_THE_CHECKOUT[name]).read_text().replace("](docs/", "](")
    for page, file in OF_THE_CHECKOUT.items():
        text = text.replace(f"]({file}", f"]({page}.md")
    source[0] = text


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read)  # type: ignore[attr-defined]
