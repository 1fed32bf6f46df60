"""Who a client counts as, where clients share what there is: a name for each, the same whatever way it comes by."""

from __future__ import annotations

from stfs.access.door import Door
from stfs.access.limiter import bucket_of


def client_of(share: str, door: Door | None, authorization: bytes | None, address: str | None) -> str | None:
    """The name; ``None`` if nobody asks. ``share`` is the option ``client_share``: ``off``, ``address`` or ``user``.

    With ``user`` it is that of the credentials, which have been looked at; of who shows none that are known, the
    address counts, as with ``address``: a whole IPv4 address, the /64 of IPv6. ``address`` is the peer's, ``None`` on a
    Unix socket; what a proxy says of whom it stands before is nobody's word.
    """
    if share == "off":
        return None
    if share == "user" and door is not None and (name := door.name_of(authorization)) is not None:
        return f"user {name}"
    return f"address {bucket_of(address)}"
