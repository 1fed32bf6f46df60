"""How often an address may be wrong: a token bucket each, in a table that cannot grow without end. Has no clock."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict

MAX_ADDRESSES = 10_000
"""Remembered; the one that has been wrong longest ago is forgotten first."""


class FailureLimiter:
    """A token less for each failure, ``per_minute`` more a minute, up to as many. Times are seconds of one clock.

    Failures that came in while others were still being looked at may push a bucket below nothing, by as much again, so
    that asking many at once is no way round. With ``per_minute`` 0 nobody is ever made to wait.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._per_s = per_minute / 60
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when there were so many
        self.blocked_until_s = -math.inf
        """From then on nobody has to wait, unless more failures come."""

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, address: str, now_s: float) -> float:
        """How long until this address may try again; 0.0 if now."""
        if not self._most or (found := self._buckets.get(address)) is None:
            return 0.0
        return max(0.0, (1.0 - self._tokens(found, now_s)) / self._per_s)

    def failed(self, address: str, now_s: float) -> bool:
        """Count a failure; whether it is the one after which the address has to wait."""
        if not self._most:
            return False
        found = self._buckets.pop(address, (self._most, now_s))
        before = self._tokens(found, now_s)
        after = max(-self._most, before - 1.0)
        self._buckets[address] = (after, now_s)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if after < 1.0:
            self.blocked_until_s = max(self.blocked_until_s, now_s + (1.0 - after) / self._per_s)
        return before >= 1.0 > after

    def _tokens(self, bucket: tuple[float, float], now_s: float) -> float:
        tokens, since_s = bucket
        return min(self._most, tokens + max(0.0, now_s - since_s) * self._per_s)


def bucket_of(address: str | None) -> str:
    """What of an address failures are counted by: a whole IPv4 address, the /64 that one subscriber has of IPv6.

    ``None``, or what is no IP address, is somebody on this machine.
    """
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "this machine"
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, 64), strict=False))
