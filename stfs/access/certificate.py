"""Until when a certificate is valid: the two dates of X.509 (RFC 5280, 4.1.2.5), read from DER. Pure functions."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)

_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when, both included."""

    begins: datetime
    ends: datetime

    def problem(self, now: datetime) -> str | None:
        """What is wrong with it now, with the date; ``None`` if nothing is."""
        if now > self.ends:
            return f"it expired on {self.ends:%Y-%m-%d %H:%M} UTC"
        if now < self.begins:
            return f"it is not valid before {self.begins:%Y-%m-%d %H:%M} UTC"
        return None


def validity(pem: bytes) -> Validity | None:
    """Of the first certificate of a PEM file, which is the server's own; ``None`` if it cannot be read."""
    match = _PEM.search(pem)
    try:
        return None if match is None else _validity(base64.b64decode(match[1]))
    except (ValueError, IndexError, UnicodeDecodeError):
        return None


def _validity(der: bytes) -> Validity:
    """``SEQUENCE { tbsCertificate SEQUENCE { [0] version?, serialNumber, signature, issuer, validity ...``."""
    _, body, _ = _element(der, 0, _SEQUENCE)
    _, at, _ = _element(der, body, _SEQUENCE)
    tag, _, after = _element(der, at)
    if tag == _VERSION:
        at = after
    for _ in ("serialNumber", "signature", "issuer"):
        at = _element(der, at)[2]
    _, first, _ = _element(der, at, _SEQUENCE)
    begins, second = _time(der, first)
    ends, _ = _time(der, second)
    return Validity(begins, ends)


def _element(der: bytes, at: int, wanted: int | None = None) -> tuple[int, int, int]:
    """Tag, where the contents begin and where they end, of the element at ``at``."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(der[at + 2 : begin], "big")
    if begin + length > len(der) or (wanted is not None and tag != wanted):
        raise ValueError("not the DER of a certificate")
    return tag, begin, begin + length


def _time(der: bytes, at: int) -> tuple[datetime, int]:
    tag, begin, end = _element(der, at)
    text = der[begin:end].decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), end
