"""JSON's grammar over bytes, exactly and slowly, and the words for every fault that either twin finds.

Owns :class:`ExactText`, which reads one production at a time, and the functions that phrase an error; the compiled twin
finds the same faults by itself and phrases them here. What makes a tensor is ``nest.py``'s to say.

The grammar is RFC 8259 with three more literals, ``NaN``, ``Infinity`` and ``-Infinity``. Stricter than
:func:`json.loads` in two places: half a surrogate pair is refused (it has no UTF-8), and so is a byte order mark.
The first fault from the left is the one that is told.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from stfs.errors import BadElement, MalformedJson

MAX_VALUE_DEPTH = 128
MAX_INTEGER_DIGITS = 4300
"""Python's own limit for ``int(text)``, and for its reason: the conversion takes quadratic time."""

PHRASES = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "number": "a number",
    "bool": "a boolean",
    "null": "null",
}

_ESCAPES = {b'"': b'"', b"\\": b"\\", b"/": b"/", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_DIGITS = re.compile(rb"[0-9]*")
_SPACE = re.compile(rb"[ \n\r\t]*")
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")
_LOW_SURROGATE = re.compile(rb"\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def unexpected(wanted: str, head: bytes, offset: int) -> MalformedJson:
    """``wanted`` should be where ``head`` (three bytes, fewer at the end of the body) begins."""
    if not head:
        found = "the end of the body"
    elif head == b"\xef\xbb\xbf":
        found = "a UTF-8 byte order mark"
    else:
        found = f"'{chr(head[0])}'" if 0x20 < head[0] < 0x7F else f"byte 0x{head[0]:02X}"
    return MalformedJson(f"expected {wanted}, found {found}", offset)


def wrong_kind(wanted: str, found: str, offset: int, path: tuple[int, ...]) -> BadElement:
    """A list where a number should be, and the like."""
    return BadElement(f"expected {wanted}, found {found}", offset, path)


def not_integer(literal: bytes, offset: int, path: tuple[int, ...]) -> BadElement:
    """A number with a fraction, an exponent or no value where an integer is wanted."""
    return BadElement(f"{_excerpt(literal)} is not an integer", offset, path)


def out_of_range(literal: bytes, dtype: np.dtype[Any], offset: int, path: tuple[int, ...]) -> BadElement:
    """A number that the dtype cannot hold."""
    return BadElement(f"{_excerpt(literal)} is out of range for {dtype.name}", offset, path)


def too_few(have: int, want: int, offset: int, path: tuple[int, ...]) -> BadElement:
    """A list shorter than its neighbours."""
    return BadElement(f"has {_elements(have)} where the ones before have {want}", offset, path)


def too_many(want: int, offset: int, path: tuple[int, ...]) -> BadElement:
    """A list longer than its neighbours."""
    return BadElement(f"has more than {_elements(want)} where the ones before have {want}", offset, path)


def unsupported_dtype(dtype: np.dtype[Any]) -> TypeError:
    """A dtype that JSON has no reading for: the programmer's fault, not the client's."""
    return TypeError(f"JSON cannot be read as dtype {dtype}")


def _elements(n: int) -> str:
    return "1 element" if n == 1 else f"{n} elements"


def _excerpt(literal: bytes) -> str:
    return literal.decode() if len(literal) <= 40 else literal[:37].decode() + "..."


class ExactText:
    """The grammar, one function a production. Each takes a byte offset and gives the next; none keeps state.

    All raise :class:`MalformedJson`; none of them a Python error, whatever the bytes.
    """

    def __init__(self, body: bytes) -> None:
        self.body = body

    def unexpected(self, wanted: str, pos: int) -> MalformedJson:
        """The error to raise where ``wanted`` should have been."""
        return unexpected(wanted, self.body[pos : pos + 3], pos)

    def at(self, pos: int, char: bytes) -> bool:
        """Whether the byte at ``pos`` is there and is ``char``."""
        return self.body[pos : pos + 1] == char

    def at_number(self, pos: int) -> bool:
        """Whether a number, and not one of the literals that are numbers too, begins at ``pos``."""
        return self.body[pos : pos + 1] in b"-0123456789" and not self.body.startswith(b"-I", pos)

    def space(self, pos: int) -> int:
        """Past the white space."""
        match = _SPACE.match(self.body, pos)
        assert match is not None
        return match.end()

    def kind(self, pos: int) -> str:
        """What begins at ``pos``: a key of :data:`PHRASES`. Literals are checked to their end."""
        start = self.body[pos : pos + 1]
        kind = {b"{": "object", b"[": "array", b'"': "string", b"t": "bool", b"f": "bool", b"n": "null"}.get(start)
        if kind is None:
            if not start or start not in b"-0123456789NI":
                raise self.unexpected("a value", pos)
            kind = "number"
        if kind in ("bool", "null") or (kind == "number" and not self.at_number(pos)):
            self.literal(pos)
        return kind

    def literal(self, pos: int) -> tuple[object, int]:
        """The literal at ``pos``, which begins with the letter of one, and its end."""
        literals: dict[int, tuple[bytes, object]] = {
            ord("t"): (b"true", True),
            ord("f"): (b"false", False),
            ord("n"): (b"null", None),
            ord("N"): (b"NaN", float("nan")),
            ord("I"): (b"Infinity", float("inf")),
            ord("-"): (b"-Infinity", float("-inf")),
        }
        word, value = literals[self.body[pos]]
        if not self.body.startswith(word, pos):
            raise MalformedJson(f"bad literal, expected {word.decode()}", pos)
        return value, pos + len(word)

    def number(self, pos: int) -> tuple[int, bool]:
        """The end of the number at ``pos``, and whether it is an integer literal."""
        start = pos + self.at(pos, b"-")
        end = self._digits(start)
        if self.at(start, b"0") and end > start + 1:
            raise MalformedJson("a number cannot begin with 0", start)
        integral = True
        if self.at(end, b"."):
            end, integral = self._digits(end + 1), False
        if self.at(end, b"e") or self.at(end, b"E"):
            signed = self.at(end + 1, b"+") or self.at(end + 1, b"-")
            end, integral = self._digits(end + 1 + signed), False
        return end, integral

    def _digits(self, pos: int) -> int:
        match = _DIGITS.match(self.body, pos)
        assert match is not None
        if match.end() == pos:
            raise self.unexpected("a digit", pos)
        return match.end()

    def string(self, pos: int) -> tuple[bytes, int]:
        """The string whose quote is at ``pos``, as UTF-8, and its end."""
        parts: list[bytes] = []
        pos += 1
        while True:
            match = _PLAIN.match(self.body, pos)
            assert match is not None
            try:
                match[0].decode()
            except UnicodeDecodeError as error:
                raise MalformedJson("a string is not UTF-8", pos + error.start) from None
            parts.append(match[0])
            pos = match.end()
            if pos == len(self.body):
                raise MalformedJson("a string is not closed", pos)
            if self.at(pos, b'"'):
                return b"".join(parts), pos + 1
            if not self.at(pos, b"\\"):
                raise MalformedJson("a control character in a string", pos)
            part, pos = self._escape(pos)
            parts.append(part)

    def _escape(self, pos: int) -> tuple[bytes, int]:
        name = self.body[pos + 1 : pos + 2]
        if not name:
            raise MalformedJson("a string is not closed", pos + 1)
        if name in _ESCAPES:
            return _ESCAPES[name], pos + 2
        if name != b"u":
            raise MalformedJson("an unknown escape in a string", pos)
        match = _HEX4.match(self.body, pos + 2)
        if match is None:
            raise MalformedJson("expected four hexadecimal digits after \\u", pos)
        code, end = int(match[0], 16), pos + 6
        if 0xD800 <= code < 0xE000:
            low = _LOW_SURROGATE.match(self.body, end)
            if code >= 0xDC00 or low is None:
                raise MalformedJson("half a surrogate pair in a string", pos)
            code, end = 0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00), end + 6
        return chr(code).encode(), end

    def key(self, pos: int) -> tuple[bytes, int]:
        """The key at ``pos``, and where its value begins."""
        if not self.at(pos, b'"'):
            raise self.unexpected("a key in double quotes", pos)
        key, pos = self.string(pos)
        pos = self.space(pos)
        if not self.at(pos, b":"):
            raise self.unexpected("':'", pos)
        return key, self.space(pos + 1)

    def value(self, pos: int, depth: int) -> tuple[Any, int]:
        """Any value, ``depth`` containers deep, and its end."""
        kind = self.kind(pos)
        if kind == "string":
            text, end = self.string(pos)
            return text.decode(), end
        if kind == "number" and self.at_number(pos):
            end, integral = self.number(pos)
            if not integral:
                return float(self.body[pos:end]), end
            if end - pos - self.at(pos, b"-") > MAX_INTEGER_DIGITS:
                raise MalformedJson("an integer of more than 4300 digits", pos)
            return int(self.body[pos:end]), end
        if kind not in ("object", "array"):
            return self.literal(pos)
        if depth == MAX_VALUE_DEPTH:
            raise MalformedJson("nested deeper than 128", pos)
        return self._members(pos, depth) if kind == "object" else self._items(pos, depth)

    def _members(self, pos: int, depth: int) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        pos = self.space(pos + 1)
        if self.at(pos, b"}"):
            return members, pos + 1
        while True:
            key, pos = self.key(pos)
            value, pos = self.value(pos, depth + 1)
            members[key.decode()] = value
            pos = self.space(pos)
            if self.at(pos, b"}"):
                return members, pos + 1
            if not self.at(pos, b","):
                raise self.unexpected("',' or '}'", pos)
            pos = self.space(pos + 1)

    def _items(self, pos: int, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        pos = self.space(pos + 1)
        if self.at(pos, b"]"):
            return items, pos + 1
        while True:
            item, pos = self.value(pos, depth + 1)
            items.append(item)
            pos = self.space(pos)
            if self.at(pos, b"]"):
                return items, pos + 1
            if not self.at(pos, b","):
                raise self.unexpected("',' or ']'", pos)
            pos = self.space(pos + 1)
