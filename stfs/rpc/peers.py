"""Who is at the other end of a call, as gRPC tells it."""

from __future__ import annotations

from urllib.parse import unquote


def address_of(peer: str) -> str | None:
    """The address in what gRPC calls a peer: ``ipv4:10.0.0.7:4711``, ``ipv6:%5B::1%5D:4711``; ``None`` for others."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return None
    return unquote(rest).rpartition(":")[0].strip("[]")
