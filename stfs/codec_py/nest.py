"""What makes a tensor of nested lists: regular nesting, elements of one kind, numbers that the dtype holds.

Owns :class:`Nest`, which reads one tensor either quickly, from what the C scanner made of sound text, or exactly, from
the left. The cursor and the choice between the two ways are ``read.py``'s; the grammar is ``text.py``'s.
"""

from __future__ import annotations

import base64
import re
from itertools import chain
from typing import Any

import numpy as np

from stfs.codec_py.text import (
    PHRASES,
    ExactText,
    not_integer,
    out_of_range,
    too_few,
    too_many,
    unsupported_dtype,
    wrong_kind,
)
from stfs.errors import BadElement, MalformedJson
from stfs.signature import Array

MAX_TENSOR_DEPTH = 32

DTYPES = frozenset(np.dtype(c) for c in "efdbhilqBHILQ?O")
"""What a tensor may be read into, in native byte order."""

_BASE64 = re.compile(rb"([A-Za-z0-9+/_-]*)(={0,2})")


class Nest:
    """One tensor being read: its shape so far, its elements, its rows.

    ``rank`` and ``sizes`` are known from the first leaf, or first closed list, of each level on. With ``base`` 1 the
    first index counts rows that lie apart in the text; ``rank`` counts it, ``sizes`` does not hold it.
    """

    def __init__(
        self, dtype: np.dtype[Any], integral_floats: bool, base: int, nullable: bool = False, literals: bool = False
    ) -> None:
        if dtype not in DTYPES:
            raise unsupported_dtype(dtype)
        self.dtype = dtype
        self.integral_floats = integral_floats
        self.missing: Any = {"f": float("nan"), "O": b""}.get(dtype.kind) if nullable else None
        self.literals = literals
        self.base = base
        self.rank: int | None = None
        self.sizes: dict[int, int] = {}
        self.rows = 0
        self.leaves: list[Any] = []
        self.parts: list[Array] = []

    def array(self) -> Array:
        """The elements kept so far, in the shape found."""
        shape = [self.sizes[level] for level in range(self.base, self.rank or 0)]
        if self.base:
            shape.insert(0, self.rows)
        parts = self.parts or [np.empty(0, self.dtype)]
        return (parts[0] if len(parts) == 1 and not self.base else np.concatenate(parts)).reshape(shape)

    def keep(self) -> None:
        """Turn the leaves just read into an array."""
        part = np.empty(len(self.leaves), self.dtype)
        with np.errstate(over="ignore"):
            part[:] = self.leaves
        self.parts.append(part)
        self.leaves = []

    # The quick way: a value that the C scanner has made.

    def take(self, value: Any) -> bool:
        """Keep ``value`` if it is regular, fits, and has the shape of the rows before; else change nothing."""
        level, sizes, depth = [value], {}, self.base
        while level and set(map(type, level)) == {list}:
            lengths = set(map(len, level))
            if len(lengths) != 1 or depth == MAX_TENSOR_DEPTH:
                return False
            sizes[depth] = lengths.pop()
            depth += 1
            level = list(chain.from_iterable(level))
        if self.rank is not None and (depth, sizes) != (self.rank, self.sizes):
            return False
        if not self._fits(level):
            return False
        self.rank, self.sizes = depth, sizes
        return True

    def _fits(self, leaves: list[Any]) -> bool:
        kinds = set(map(type, leaves))
        if self.missing is not None:
            kinds.discard(type(None))
        if kinds - {{"f": float, "i": int, "u": int, "b": bool, "O": str}[self.dtype.kind]}:
            return False
        if self.dtype.kind == "O":
            leaves = [None if text is None else text.encode() for text in leaves]
        self.leaves = leaves if self.missing is None else [self.missing if x is None else x for x in leaves]
        try:
            self.keep()
        except OverflowError:
            return False
        if self.dtype.kind == "f" and np.isinf(self.parts[-1]).any():  # "Infinity" may be, 1e400 may not
            self.parts.pop()
            return False
        return True

    # The exact way, from the left.

    def read(self, text: ExactText, pos: int, path: tuple[int, ...]) -> int:
        """Read the value at ``pos``, which is element ``path``; its end."""
        depth = len(path)
        if not text.at(pos, b"["):
            if self.rank is not None and depth < self.rank:
                raise wrong_kind("a list", PHRASES[text.kind(pos)], pos, path)
            leaf, end = self._leaf(text, pos, path)
            self.leaves.append(leaf)
            self.rank = depth
            return end
        if depth == self.rank:
            raise wrong_kind(self._wanted(), "a list", pos, path)
        if depth == MAX_TENSOR_DEPTH:
            raise MalformedJson("a tensor nested deeper than 32", pos)
        start, size, count = pos, self.sizes.get(depth), 0
        pos = text.space(pos + 1)
        if text.at(pos, b"]"):
            if self.rank is None:
                self.rank = depth + 1
        else:
            while True:
                if count == size:
                    raise too_many(size, start, path)
                pos = text.space(self.read(text, pos, (*path, count)))
                count += 1
                if text.at(pos, b"]"):
                    break
                if not text.at(pos, b","):
                    raise text.unexpected("',' or ']'", pos)
                pos = text.space(pos + 1)
        if self.sizes.setdefault(depth, count) != count:
            raise too_few(count, self.sizes[depth], start, path)
        return pos + 1

    def _wanted(self) -> str:
        return {"f": "a number", "b": "true or false", "O": "a string"}.get(self.dtype.kind, "an integer")

    def _leaf(self, text: ExactText, pos: int, path: tuple[int, ...]) -> tuple[Any, int]:
        kind = text.kind(pos)
        if self.missing is not None and (kind == "null" or (self.dtype.kind == "O" and text.at(pos, b"N"))):
            return self.missing, text.literal(pos)[1]
        if kind == "object" and self.dtype.kind == "O":
            return self._b64(text, pos, path)
        if self.literals and self.dtype.kind == "O" and kind in ("number", "bool"):
            end = text.number(pos)[0] if kind == "number" and text.at_number(pos) else text.literal(pos)[1]
            return text.body[pos:end], end
        if kind != {"b": "bool", "O": "string"}.get(self.dtype.kind, "number"):
            raise wrong_kind(self._wanted(), PHRASES[kind], pos, path)
        if kind == "string":
            return text.string(pos)
        if kind == "bool":
            return text.literal(pos)
        return self._number(text, pos, path)

    def _number(self, text: ExactText, pos: int, path: tuple[int, ...]) -> tuple[Any, int]:
        if not text.at_number(pos):
            value, end = text.literal(pos)
            if self.dtype.kind != "f":
                raise not_integer(text.body[pos:end], pos, path)
            return value, end
        end, integral = text.number(pos)
        literal = text.body[pos:end]
        if self.dtype.kind == "f":
            value = float(literal)
            if np.isinf(self.dtype.type(value)):
                raise out_of_range(literal, self.dtype, pos, path)
            return value, end
        if integral:
            value = int(literal) if len(literal) <= 21 else None  # longer than any 64-bit integer
        else:
            number = float(literal) if self.integral_floats else 0.5
            if number % 1 and not np.isinf(number):
                raise not_integer(literal, pos, path)
            value = None if np.isinf(number) else int(number)
        limits = np.iinfo(self.dtype)
        if value is None or not limits.min <= value <= limits.max:
            raise out_of_range(literal, self.dtype, pos, path)
        return value, end

    def _b64(self, text: ExactText, pos: int, path: tuple[int, ...]) -> tuple[bytes, int]:
        inside = text.space(pos + 1)
        if text.at(inside, b"}"):
            raise wrong_kind("a string", "an object", pos, path)
        key, value_at = text.key(inside)
        if key != b"b64":
            raise wrong_kind("a string", "an object", pos, path)
        if not text.at(value_at, b'"'):
            raise wrong_kind("base64 text", PHRASES[text.kind(value_at)], value_at, path)
        encoded, end = text.string(value_at)
        end = text.space(end)
        if text.at(end, b","):
            raise BadElement('"b64" must be the object\'s only key', pos, path)
        if not text.at(end, b"}"):
            raise text.unexpected("',' or '}'", end)
        decoded = _base64_decode(encoded)
        if decoded is None:
            raise BadElement("the text is not base64", value_at, path)
        return decoded, end + 1


def _base64_decode(text: bytes) -> bytes | None:
    """RFC 4648 in either alphabet; padding may be left out, but if there is any it must be right."""
    match = _BASE64.fullmatch(text)
    if match is None or len(match[1]) % 4 == 1 or (match[2] and len(text) % 4):
        return None
    return base64.urlsafe_b64decode(match[1].translate(bytes.maketrans(b"+/", b"-_")) + b"=" * (-len(match[1]) % 4))
