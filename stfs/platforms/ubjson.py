"""Reads Universal Binary JSON as XGBoost writes it, and finds files that end too soon. Knows nothing of trees.

The format: https://ubjson.org, draft 12, with the optimised arrays of one type. XGBoost's own reader trusts the lengths
that it reads: a file cut short can take the whole process down, so it is walked through here first.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_MOST_DEPTH = 64
_NUMBERS = {
    ord(mark): (struct.Struct(f">{code}"), np.dtype(f">{code}").newbyteorder(">"))
    for mark, code in {"i": "b", "U": "B", "I": "h", "l": "i", "L": "q", "d": "f", "D": "d"}.items()
}
_CONSTANTS = {ord("T"): True, ord("F"): False, ord("Z"): None}
_ARRAY, _ARRAY_END, _OBJECT, _OBJECT_END, _TEXT = (ord(mark) for mark in "[]{}S")


def loads(data: bytes) -> Any:
    """The value in ``data``: dicts, lists, text, numbers; arrays of one numeric type as big-endian numpy arrays.

    The arrays are views of ``data``. Raises :class:`ValueError` with the byte offset if it ends too soon, goes on
    behind the value, or is not UBJSON.
    """
    reader = _Reader(data)
    value = reader.value(reader.mark(), 0)
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes follow the end at byte {reader.at}")
    return value


class _Reader:
    """A cursor over the bytes; ``at`` is the offset of the next one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def mark(self) -> int:
        return self._take(1)[0]

    def value(self, mark: int, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise ValueError(f"nested too deep at byte {self.at}")
        if mark in _NUMBERS:
            number = _NUMBERS[mark][0]
            return number.unpack(self._take(number.size))[0]
        if mark == _TEXT:
            return self._text(self.mark())
        if mark == _ARRAY:
            return self._array(depth)
        if mark == _OBJECT:
            return self._object(depth)
        if mark in _CONSTANTS:
            return _CONSTANTS[mark]
        raise ValueError(f"unknown mark {bytes([mark])!r} at byte {self.at - 1}")

    def _array(self, depth: int) -> Any:
        mark = self.mark()
        if mark == ord("$"):
            kind = self.mark()
            if kind not in _NUMBERS or self.mark() != ord("#"):
                raise ValueError(f"unknown kind of array at byte {self.at}")
            dtype = _NUMBERS[kind][1]
            return np.frombuffer(self._take(self._length(self.mark()) * dtype.itemsize), dtype)
        if mark == ord("#"):
            count = self._length(self.mark())
            if count > len(self._data) - self.at:
                raise self._ends_too_soon(count)
            return [self.value(self.mark(), depth + 1) for _ in range(count)]
        items = []
        while mark != _ARRAY_END:
            items.append(self.value(mark, depth + 1))
            mark = self.mark()
        return items

    def _object(self, depth: int) -> dict[str, Any]:
        members = {}
        while (mark := self.mark()) != _OBJECT_END:
            key = self._text(mark)
            members[key] = self.value(self.mark(), depth + 1)
        return members

    def _text(self, mark: int) -> str:
        return bytes(self._take(self._length(mark))).decode("utf-8", "replace")

    def _length(self, mark: int) -> int:
        if mark not in _NUMBERS or mark in b"dD":
            raise ValueError(f"a length was expected at byte {self.at - 1}")
        length = int(self.value(mark, 0))
        if length < 0:
            raise ValueError(f"a negative length at byte {self.at}")
        return length

    def _take(self, count: int) -> memoryview:
        start, self.at = self.at, self.at + count
        if self.at > len(self._data):
            self.at = start
            raise self._ends_too_soon(count)
        return memoryview(self._data)[start : self.at]

    def _ends_too_soon(self, count: int) -> ValueError:
        missing = self.at + count - len(self._data)
        return ValueError(f"it ends at byte {len(self._data)}, at least {missing} bytes too soon")
