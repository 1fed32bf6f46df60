"""JSON to tensors, readable: the twin of ``_fastjson`` that says what is right.

Owns :class:`Reader` and :class:`Column`. What makes a tensor is ``nest.py``'s, the grammar and the words for faults
``text.py``'s, the way back ``write.py``'s; which twin is used is ``codec.py``'s to say. Knows no dialect: what the keys
of a body mean is said in ``stfs.protocols``.

Sound text goes through the standard library's C scanner. That cannot say where and why a tensor does not fit, so
anything out of the ordinary is read again from the left, slowly, one element at a time.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from stfs.codec_py.nest import Nest
from stfs.codec_py.text import MAX_VALUE_DEPTH, ExactText
from stfs.signature import Array

_LOADS = json.JSONDecoder()
# float(text) for every number, so that -0 keeps its sign and long integers round once.
_LOADS_FLOAT = json.JSONDecoder(parse_int=float)


class Column:
    """One tensor whose rows lie apart in the text: ``[{"a": row 0, ...}, {"a": row 1, ...}]``.

    Filled by :meth:`Reader.append`. Not thread-safe. A column to which an append has failed is spent.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        *,
        integral_floats: bool = False,
        nullable: bool = False,
        literals: bool = False,
    ) -> None:
        self._nest = Nest(np.dtype(dtype), integral_floats, 1, nullable, literals)

    def __len__(self) -> int:
        """The number of rows so far."""
        return self._nest.rows

    def array(self) -> Array:
        """A new C-contiguous array of shape ``[rows, *row shape]``; the column may go on growing.

        With no rows the shape is ``(0,)``.
        """
        return self._nest.array()


class Reader:
    """A cursor over one JSON text. Not thread-safe; holds a reference to the body.

    The caller walks objects and arrays with :meth:`enter_object`, :meth:`next_key`, :meth:`enter_array` and
    :meth:`next_item`, consuming each value with one of the others before asking for the next. Every method may raise
    :class:`MalformedJson` with the offset, in bytes, of the first fault; a call that raises leaves the cursor where it
    was.
    """

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._body = body if isinstance(body, bytes) else bytes(memoryview(body))
        self._exact = ExactText(self._body)
        # One character a byte, so that an index is an offset.
        self._text = self._body.decode("latin-1")
        # In such a text the C scanner reads strings right only if they are ASCII, and it lets half surrogate pairs by.
        self._simple_strings = self._body.isascii() and b"\\u" not in self._body
        self._position = 0
        self._fresh = False

    @property
    def position(self) -> int:
        """The cursor, as a byte offset."""
        return self._position

    def seek(self, position: int) -> None:
        """Back to a ``position`` that was had at the same container depth, to read a value again."""
        if not 0 <= position <= len(self._body):
            raise ValueError(f"position {position} is outside a body of {len(self._body)} bytes")
        self._position = position
        self._fresh = self._body[:position].rstrip(b" \n\r\t")[-1:] in (b"[", b"{")

    def kind(self) -> str:
        """``object``, ``array``, ``string``, ``number``, ``bool`` or ``null``: the value at the cursor."""
        return self._exact.kind(self._exact.space(self._position))

    def enter_object(self) -> None:
        """Into the object at the cursor; ask :meth:`next_key` then."""
        self._enter(b"{")

    def enter_array(self) -> None:
        """Into the array at the cursor; ask :meth:`next_item` then."""
        self._enter(b"[")

    def next_key(self) -> str | None:
        """The next key, leaving the cursor at its value; ``None`` once the object has ended, leaving it behind."""
        pos = self._next(b"}", "',' or '}'")
        if pos is None:
            return None
        key, self._position = self._exact.key(pos)
        self._fresh = False
        return key.decode()

    def next_item(self) -> bool:
        """Whether there is another item, leaving the cursor at it; ``False`` leaves the ended array behind."""
        pos = self._next(b"]", "',' or ']'")
        if pos is None:
            return False
        self._consumed(pos)
        return True

    def value(self) -> object:
        """The value at the cursor as :func:`json.loads` would give it: integers of up to 4300 digits, floats, str, ...

        Nesting over 128 is refused. A float literal too large for a double is infinite.
        """
        pos = self._exact.space(self._position)
        read = self._scan(_LOADS, pos) if self._simple_strings else None
        if read is None or _too_deep(self._body, pos, *read):
            read = self._exact.value(pos, 0)
        self._consumed(read[1])
        return read[0]

    def skip(self) -> None:
        """Past the value at the cursor, refusing what :meth:`value` refuses."""
        self.value()

    def tensor(
        self,
        dtype: np.dtype[Any],
        *,
        integral_floats: bool = False,
        nullable: bool = False,
        literals: bool = False,
    ) -> Array:
        """The number, string or nested arrays at the cursor as a new C-contiguous array, its shape found on the way.

        - float dtypes take any number, ``NaN`` and the infinities: Python's ``float(text)``, rounded once to the dtype;
        - integer dtypes take integer literals; with ``integral_floats`` also ``11.0`` (as a float64, so up to 2^53
          exactly);
        - bool takes ``true`` and ``false``;
        - object takes strings, as UTF-8 ``bytes``, and ``{"b64": "..."}``, decoded (RFC 4648, either alphabet, padded
          or not); with ``literals`` also numbers and booleans, as their JSON text.

        With ``nullable`` an element may be ``null``: NaN in a float dtype, ``b""`` in an object one, where ``NaN``
        means the same (many clients write it for a missing text); other dtypes have no value for it and refuse it.

        Raises :class:`BadElement`, with the path from the tensor's root, for a ragged nesting, an element of another
        kind and a number that the dtype cannot hold; :class:`TypeError` for any other dtype.
        """
        nest = Nest(np.dtype(dtype), integral_floats, 0, nullable, literals)
        self._read_tensor(nest)
        return nest.array()

    def append(self, column: Column) -> None:
        """The value at the cursor as the next row of ``column``, of the shape of its first row.

        Raises as :meth:`tensor` does; the first index of the path is the row.
        """
        self._read_tensor(column._nest)
        column._nest.rows += 1

    def end(self) -> None:
        """Check that only white space is left."""
        pos = self._exact.space(self._position)
        if pos != len(self._body):
            raise self._exact.unexpected("the end of the body", pos)
        self._position = pos

    def _enter(self, bracket: bytes) -> None:
        pos = self._exact.space(self._position)
        if not self._exact.at(pos, bracket):
            raise self._exact.unexpected(f"'{bracket.decode()}'", pos)
        self._position = pos + 1
        self._fresh = True

    def _next(self, close: bytes, wanted: str) -> int | None:
        """Past the comma, if one is due, to the next member; or out of the container."""
        pos = self._exact.space(self._position)
        if self._exact.at(pos, close):
            self._consumed(pos + 1)
            return None
        if not self._fresh:
            if not self._exact.at(pos, b","):
                raise self._exact.unexpected(wanted, pos)
            pos = self._exact.space(pos + 1)
        return pos

    def _consumed(self, position: int) -> None:
        self._position = position
        self._fresh = False

    def _read_tensor(self, nest: Nest) -> None:
        pos = self._exact.space(self._position)
        end = None
        if nest.dtype != np.dtype(object) or self._simple_strings:
            read = self._scan(_LOADS_FLOAT if nest.dtype.kind == "f" else _LOADS, pos)
            if read is not None and nest.take(read[0]):
                end = read[1]
        if end is None:
            nest.leaves = []
            with np.errstate(over="ignore"):
                end = nest.read(self._exact, pos, (nest.rows,) if nest.base else ())
            nest.keep()
        self._consumed(end)

    def _scan(self, decoder: json.JSONDecoder, pos: int) -> tuple[Any, int] | None:
        """The value at ``pos`` and its end, by the C scanner; ``None`` if it needs a second look."""
        try:
            value, end = decoder.raw_decode(self._text, pos)
        except (ValueError, RecursionError):
            return None
        # The scanner stops before what would make its number malformed: 01, 1., 1e
        return None if end < len(self._body) and self._body[end] in b"0123456789.eE" else (value, end)


def _too_deep(body: bytes, start: int, value: Any, end: int) -> bool:
    """Whether ``value`` may be nested deeper than the limit; brackets are cheap to count and seldom many."""
    if body.count(b"[", start, end) + body.count(b"{", start, end) <= MAX_VALUE_DEPTH:
        return False
    level, depth = [value], 0
    while level and depth <= MAX_VALUE_DEPTH:
        level = [x for x in level if type(x) is list or type(x) is dict]
        depth += bool(level)
        level = [y for x in level for y in (x if type(x) is list else x.values())]
    return depth > MAX_VALUE_DEPTH
