"""The files that the pages are made of: our own scripts and styles, and uPlot's, which draws the charts.

They lie under an address that changes with their contents, so that a browser keeps them for good and never mixes those
of two releases. Nothing comes from another server. uPlot (https://github.com/leeoniya/uPlot) is found in the installed
package ``youplot``, which holds its files as their author released them; the package itself is never imported.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from aiohttp import web

CHARTS = "uplot.js"
"""There only if the package is installed."""

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

_CHART_FILES = {CHARTS: "uplot.iife.min.js", "uplot.css": "uplot.min.css"}


class Assets:
    """Names and contents, read once: they are small, and a file that changed under its address would be wrong."""

    def __init__(self, own: Path) -> None:
        files = {path.name: path for path in sorted(own.iterdir()) if path.suffix in _TYPES} | _chart_files()
        self._contents = {name: path.read_bytes() for name, path in files.items()}
        digest = hashlib.sha256()
        for name, content in self._contents.items():
            digest.update(f"{name} {len(content)} ".encode() + content)
        self.key = digest.hexdigest()[:12]

    def __contains__(self, name: str) -> bool:
        return name in self._contents

    def address(self, name: str) -> str:
        """Where the pages find the file."""
        return f"/dashboard/assets/{self.key}/{name}"

    async def handle(self, request: web.Request) -> web.Response:
        """The file. 404 for one that is not there, and for those of another release."""
        name = request.match_info["name"]
        if name not in self._contents or request.match_info["key"] != self.key:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return web.Response(
            body=self._contents[name], content_type=_TYPES[Path(name).suffix], charset="utf-8", headers=headers
        )


ASSETS = web.AppKey("stfs_assets", Assets)


def _chart_files() -> dict[str, Path]:
    """UPlot's files by the names they have here; none where the package is not installed, which is not imported."""
    spec = find_spec("youplot")
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        return {}
    folder = Path(next(iter(places))) / "vendor"
    files = {name: folder / theirs for name, theirs in _CHART_FILES.items()}
    return files if all(path.is_file() for path in files.values()) else {}
