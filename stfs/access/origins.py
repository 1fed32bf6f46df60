"""Pages of other origins: which may call (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol). Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

METHODS = "GET, POST, OPTIONS"
HEADERS = "Authorization, Content-Type, Content-Encoding, Inference-Header-Content-Length, X-Request-Id"
"""What a preflight is told if it does not say which headers it wants."""

MAX_AGE_S = 600
"""For so long a browser need not ask again; Chromium takes no more than twice that."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Who may call. No ``listed`` origins mean every one, if it is ``enabled``."""

    enabled: bool
    listed: tuple[str, ...] = ()

    def fixed(self) -> dict[str, str]:
        """Headers of every answer, whoever asks. With a list, caches are told that answers differ."""
        if not self.enabled:
            return {}
        return {"Vary": "Origin"} if self.listed else {"Access-Control-Allow-Origin": "*"}

    def allowing(self, origin: str | None) -> dict[str, str]:
        """Headers of an answer to a page of that origin, beside :meth:`fixed`."""
        return {"Access-Control-Allow-Origin": origin} if self.enabled and origin in self.listed and origin else {}

    def preflight(self, origin: str | None, asked_headers: str | None) -> dict[str, str]:
        """Headers of the answer to a preflight, beside the other two; none for an origin that may not call."""
        if self.listed and origin not in self.listed:
            return {}
        return {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": asked_headers or HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }

    def is_foreign(self, headers: Mapping[str, str]) -> bool:
        """Whether a browser sends this for a page of an origin that is not the server's own, nor listed.

        Such pages may not change what is served: a browser sends what it knows of credentials along, and reaches a
        server that listens for its own machine only. ``Sec-Fetch-Site`` (W3C Fetch Metadata) tells, or else ``Origin``
        beside ``Host``. What is no browser sends neither. ``headers`` takes names in any case.
        """
        origin = headers.get("Origin")
        if origin is not None and origin in self.listed:
            return False
        site = headers.get("Sec-Fetch-Site")
        if site is not None:
            return site not in ("same-origin", "none")
        return origin is not None and origin.partition("://")[2].lower() != headers.get("Host", "").lower()
