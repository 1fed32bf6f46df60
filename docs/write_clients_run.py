"""Writes the table at the end of languages.md, of what ``make test-clients`` has kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RUN = DOCS.parent / "build" / "clients-run.json"
BEGIN, END = "<!-- clients run -->\n", "<!-- end of clients run -->\n"
KINDS = {"scalar": "number", "matrix": "rows", "string": "text", "image": "image", "image file": "a file"}


def table(run: Mapping[str, Any]) -> str:
    """A row for each language: what ran it, and on which models; or why it could not be had."""
    lines = ["| language | run by | " + " | ".join(KINDS.values()) + " |", "|---|---|" + "---|" * len(KINDS)]
    for language, told in run.items():
        by = f"not to be had: `{told['lacking']}` fails" if told["lacking"] else told["by"]
        cells = [told["models"].get(kind, "") for kind in KINDS]
        lines.append(f"| {language} | {by} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def put(page: str, rows: str) -> str:
    """The page with these rows in the place of those that it has."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + rows + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    where = DOCS / "languages.md"
    where.write_text(put(where.read_text(), table(json.loads(RUN.read_text()))))
