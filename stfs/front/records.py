"""What goes through a ring: requests and their withdrawal one way, answers the other. Owns the layout of a record.

A record is a head, a few bytes of JSON for what is rare (names, places in shared memory, errors, journeys), and
tensors. Each part begins at a multiple of 16 bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any

from stfs import errors
from stfs.front import tensors
from stfs.front.ring import UNIT_BYTES, Ring
from stfs.signature import Array

REQUEST = 1
CANCEL = 2
"""The request of this number is not waited for any more."""
FREED = 3
"""The segment of this number may be used again by the side that made it."""
FORGET = 4
"""The segment of this number will not be used again by the side that made it."""
OUTPUTS = 5
ERROR = 6

# size in bytes, kind, number, model, signature, deadline, tensors, bytes of JSON, priority
_HEAD = Struct("=IIQIIdIIQ")
assert _HEAD.size % UNIT_BYTES == 0


@dataclass(slots=True)
class Record:
    """One record as it was read. ``number`` is the request's, or a segment's; see the constants above.

    ``model`` and ``signature`` are numbers that both sides know; ``deadline_s`` is of ``time.monotonic``, the same
    clock in every process of a machine; infinite if there is none. ``priority`` is the level asked for.
    ``told`` is the JSON, ``None`` if there is none.
    """

    kind: int
    number: int
    model: int
    signature: int
    deadline_s: float
    arrays: list[Array]
    told: Any
    priority: int = 0


def write(
    ring: Ring,
    kind: int,
    number: int,
    arrays: Iterable[Array] = (),
    *,
    model: int = 0,
    signature: int = 0,
    deadline_s: float = math.inf,
    told: Any = None,
    priority: int = 0,
) -> bool:
    """Put a record into the ring; ``False``, and nothing is done, if it is too large for one.

    Raises :class:`TypeError` for a dtype that cannot be told.
    """
    pieces: list[Any] = [b""]
    json_bytes = 0
    size = _HEAD.size
    if told is not None:
        text = json.dumps(told, separators=(",", ":")).encode()
        json_bytes = len(text)
        padded = json_bytes + -json_bytes % UNIT_BYTES
        pieces.append(text.ljust(padded))
        size += padded
    count = 0
    if arrays:
        arrays = list(arrays)
        count = len(arrays)
        size += tensors.pack(arrays, pieces)
    if not ring.fits(size):
        return False
    pieces[0] = _HEAD.pack(size, kind, number, model, signature, deadline_s, count, json_bytes, priority)
    ring.put(size, pieces)
    return True


def read(data: bytearray) -> Iterator[Record]:
    """The records in ``data``, which the arrays are views of from then on.

    Raises :class:`ValueError`, or what numpy or :mod:`struct` raise, for what is no record.
    """
    at, end = 0, len(data)
    while at < end:
        size, kind, number, model, signature, deadline_s, count, json_bytes, priority = _HEAD.unpack_from(data, at)
        if not _HEAD.size <= size <= end - at:
            raise ValueError(f"a record of {size} bytes where {end - at} are left")
        start = at + _HEAD.size
        told = None
        if json_bytes:
            told = json.loads(data[start : start + json_bytes])
            start += json_bytes + -json_bytes % UNIT_BYTES
        arrays: list[Array] = []
        if count:
            arrays, _ = tensors.unpack(data, start, count)
        yield Record(kind, number, model, signature, deadline_s, arrays, told, priority)
        at += size


def encode_error(error: errors.RequestError) -> dict[str, Any]:
    """An error as JSON: its type, text and plain fields."""
    fields = {key: value for key, value in vars(error).items() if isinstance(value, str | int | float | tuple | None)}
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return {"type": kind.__name__, "text": str(error), "fields": fields}


def decode_error(told: dict[str, Any]) -> errors.RequestError:
    """The error that :func:`encode_error` was given."""
    kind = getattr(errors, told["type"])
    error: errors.RequestError = kind.__new__(kind)  # its __init__ makes the text from parts, and here is the text
    error.args = (told["text"],)
    for key, value in told["fields"].items():
        setattr(error, key, tuple(value) if isinstance(value, list) else value)
    return error
