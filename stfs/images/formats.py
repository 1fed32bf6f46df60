"""What a file says of itself in its first bytes: its format, the size of a WebP, which way up the camera was held.

Sources: the formats' own specifications; Exif 2.3 (JEITA CP-3451C), 4.6. Pure functions of bytes.
"""

from __future__ import annotations

import struct

FORMATS = ("JPEG", "PNG", "WebP", "BMP", "GIF")

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "BMP": ".bmp", "GIF": ".gif"}

_ORIENTATION = 0x0112
_SHORT = 3


def sniff(data: bytes) -> str | None:
    """One of :data:`FORMATS`; ``None`` if it is none of them."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return "BMP" if data.startswith(b"BM") else None


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas (RFC 9649), which libwebp allocates as soon as a file is opened."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def png_exif(data: bytes) -> bytes:
    """The ``eXIf`` chunk of a PNG (PNG 3rd edition, 11.3.3.8), wherever it stands; empty if there is none."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return b""


def orientation(exif: bytes) -> int:
    """The tag of that name, 1 to 8, of a block of EXIF; 1, as the sensor saw it, if it is missing or broken."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
