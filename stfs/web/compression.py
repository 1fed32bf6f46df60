"""Compressed bodies (RFC 9110, 8.4): in with a bound on what they become, out as the client accepts.

Blocking functions of bytes, to be called off the event loop; which answers are worth it is the caller's to say.
"""

from __future__ import annotations

import gzip
import zlib

import zstandard

from stfs.errors import InvalidRequest, TooLarge, UnsupportedEncoding

CODINGS = ("zstd", "gzip", "deflate")
"""What is understood, the best first: it decides where a client likes several equally."""

ACCEPTED = ", ".join(CODINGS)

COMPRESSIBLE = "application/json"
"""Raw tensors hardly become smaller, and trying would take longer than everything else."""

_BITE_BYTES = 512
_GZIP_LEVEL = 1  # numbers as text: higher levels take several times as long for a few per cent


def decompress(coding: str, body: bytes | memoryview, limit_bytes: int) -> bytes | memoryview:
    """What was compressed with ``coding``, at most ``limit_bytes`` of it.

    Raises :class:`UnsupportedEncoding`, :class:`TooLarge` before more than that has been made, and
    :class:`InvalidRequest` for a body that is broken, cut short, or followed by something else.
    """
    name = coding.strip().lower()
    if name == "identity":
        return body
    if name not in CODINGS and name != "x-gzip":
        raise UnsupportedEncoding(f"Content-Encoding {coding!r} is not understood here: send {ACCEPTED}, or plain")
    try:
        return _unzstd(body, limit_bytes) if name == "zstd" else _inflate(name, body, limit_bytes)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise InvalidRequest(f"the body is not {name}: {error}") from None


def compress(coding: str, body: bytes) -> bytes:
    """``body`` in one of :data:`CODINGS`."""
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(body)
    return gzip.compress(body, _GZIP_LEVEL, mtime=0) if coding == "gzip" else zlib.compress(body, _GZIP_LEVEL)


def choose(accept: str) -> str | None:
    """The coding for an ``Accept-Encoding`` (RFC 9110, 12.5.3); ``None`` to send the answer as it is."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, _, parameter = part.partition(";")
        key, _, value = parameter.strip().partition("=")
        try:
            weights[name.strip()] = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    rest = weights.get("*", 0.0)
    liked = {coding: weights.get(coding, rest) for coding in CODINGS}
    best = max(CODINGS, key=lambda coding: liked[coding])
    # Not compressed is what the client gets unless it likes something at least as much.
    return best if liked[best] > 0 and liked[best] >= weights.get("identity", 0.0) else None


def _inflate(name: str, body: bytes | memoryview, limit_bytes: int) -> bytes:
    # "deflate" is the zlib format; some clients send the bare stream all the same.
    bare = name == "deflate" and not _is_zlib(body)
    stream = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | (0 if name == "deflate" else 16))
    plain = stream.decompress(body, limit_bytes + 1)
    _check(len(plain), limit_bytes)
    if not stream.eof:
        raise EOFError("it is cut short")
    if stream.unused_data:
        raise InvalidRequest(f"{len(stream.unused_data)} bytes follow the {name} body")
    return plain


def _is_zlib(body: bytes | memoryview) -> bool:
    """RFC 1950: the method is 8 and the first two bytes are a multiple of 31."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def _unzstd(body: bytes | memoryview, limit_bytes: int) -> bytes:
    # Frames need not say how large their content is, and only this interface tells whether a frame has ended. It has
    # no bound on what one call makes, but a block of 128 KiB takes 4 bytes at least: small bites bound it for us.
    stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    plain: list[bytes] = []
    size = 0
    for at in range(0, len(body), _BITE_BYTES):
        if stream.eof:
            break
        plain.append(stream.decompress(body[at : at + _BITE_BYTES]))
        size += len(plain[-1])
        _check(size, limit_bytes)
    if not stream.eof:
        raise EOFError("it is cut short")
    if stream.unused_data or at + _BITE_BYTES < len(body):
        raise InvalidRequest("something follows the zstd body")
    return b"".join(plain)


def _check(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise TooLarge(
            f"the body is over the limit of {limit_bytes} bytes once decompressed; "
            "send less at a time or raise --max_request_bytes"
        )
