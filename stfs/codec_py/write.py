"""Tensors to JSON, readable: the twin of ``_fastjson``'s encoder, byte for byte.

Owns :func:`encode`, :func:`encode_rows` and :func:`encode_string`. Knows no dialect: which style, and which outputs
leave as base64, is the caller's to say.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Container, Mapping
from math import prod
from typing import Any, Literal

import numpy as np

from stfs.signature import Array

Style = Literal["shortest", "tfs"]
"""How floats are written.

``shortest``: the fewest digits that read back to the same value in the array's dtype, laid out as Python's ``repr``
does (``0.1``, ``1.0``, ``1e-07``, ``1e+16``). ``tfs``: as TensorFlow Serving does, six significant digits where those
read back to the same value, else nine (17 for float64): ``0.333333343``, ``2.0``, ``9e+06``.
"""

_TOKENS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_TO_ESCAPE = re.compile(r'["\\\x00-\x1f]')
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def encode(array: Array, *, style: Style = "shortest", b64: bool = False) -> bytes:
    """``array`` as nested JSON lists without white space; a bare value if it has no dimensions.

    Numbers, bools and strings (object arrays of ``bytes`` or ``str``; also dtypes S and U), strided in any way.
    ``NaN``, ``Infinity`` and ``-Infinity`` are written as those tokens. ``bytes`` that are UTF-8 become JSON strings;
    others, and all of them with ``b64``, become ``{"b64": "<standard base64>"}``.

    Raises :class:`TypeError` for any other dtype or element.
    """
    return _nest(_texts(array, style, b64), array.shape)[0].encode()


def encode_rows(columns: Mapping[str, Array], *, style: Style = "shortest", b64_names: Container[str] = ()) -> bytes:
    """``[{"a": row 0 of a, "b": row 0 of b}, ...]``, each row as :func:`encode` writes it; ``[]`` without columns.

    Raises :class:`ValueError` if the columns differ in their first dimension or lack one.
    """
    if len({array.shape[:1] for array in columns.values()}) > 1 or any(array.ndim == 0 for array in columns.values()):
        raise ValueError("columns differ in their number of rows, or have none")
    fields = [
        [
            encode_string(name).decode() + ":" + row
            for row in _rows(_texts(array, style, name in b64_names), array.shape)
        ]
        for name, array in columns.items()
    ]
    return ("[" + ",".join("{" + ",".join(row) + "}" for row in zip(*fields, strict=True)) + "]").encode()


def encode_string(text: str) -> bytes:
    """``text`` as a JSON string in UTF-8; half surrogate pairs become ``?``."""
    return _quoted(text.encode(errors="replace").decode()).encode()


def _rows(texts: list[str], shape: tuple[int, ...]) -> list[str]:
    """One text for each index of the first dimension."""
    for level in range(len(shape) - 1, 0, -1):
        size = shape[level]
        starts = range(0, len(texts), size) if size else [0] * prod(shape[:level])
        texts = ["[" + ",".join(texts[i : i + size]) + "]" for i in starts]
    return texts


def _nest(texts: list[str], shape: tuple[int, ...]) -> list[str]:
    return _rows(texts, (1, *shape))


def _texts(array: Array, style: Style, b64: bool) -> list[str]:
    """Each element's JSON, in C order."""
    if style not in ("shortest", "tfs"):
        raise ValueError(f"unknown style {style!r}")
    kind = array.dtype.kind
    if kind in "SUO":
        return [_string(element, b64) for element in array.astype(object).ravel().tolist()]
    if kind in "iu":
        return [str(element) for element in array.ravel().tolist()]
    if kind == "b":
        return ["true" if element else "false" for element in array.ravel().tolist()]
    if kind == "f" and array.dtype.itemsize <= 8:
        write = _tfs(array.dtype) if style == "tfs" else _shortest(array.dtype)
        return [_TOKENS.get(text) or text for text in map(write, array.ravel())]
    raise unsupported_dtype(array.dtype)


def unsupported_dtype(dtype: np.dtype[Any]) -> TypeError:
    """A dtype that JSON has no writing for."""
    return TypeError(f"dtype {dtype} cannot be written as JSON")


def unsupported_element(element: object) -> TypeError:
    """An object array may hold ``bytes`` and ``str``."""
    return TypeError(f"a {type(element).__name__} in an object array cannot be written as JSON")


def _string(element: object, b64: bool) -> str:
    if isinstance(element, str):
        element = element.encode(errors="replace")
    if not isinstance(element, bytes):
        raise unsupported_element(element)
    if not b64:
        try:
            return _quoted(element.decode())
        except UnicodeDecodeError:
            pass
    return '{"b64":"' + base64.b64encode(element).decode() + '"}'


def _quoted(text: str) -> str:
    return '"' + _TO_ESCAPE.sub(lambda m: _SHORT_ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", text) + '"'


def _shortest(dtype: np.dtype[Any]) -> Callable[[Any], str]:
    if dtype.itemsize == 8:
        return lambda x: repr(float(x))

    def write(x: Any) -> str:
        text = np.format_float_scientific(x, unique=True, trim="-")
        return _TOKENS.get(text) or _laid_out(text)

    return write


def _laid_out(scientific: str) -> str:
    """``1.25e-05`` or ``1e+02`` the way ``repr`` lays a float out."""
    sign = "-" if scientific.startswith("-") else ""
    mantissa, _, exponent_text = scientific.lstrip("-").partition("e")
    digits, exponent = mantissa.replace(".", ""), int(exponent_text)
    if not -4 <= exponent < 16:
        return f"{sign}{digits[0]}{'.' + digits[1:] if digits[1:] else ''}e{exponent:+03d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = exponent + 1
    return f"{sign}{digits[:whole].ljust(whole, '0')}.{digits[whole:] or '0'}"


def _tfs(dtype: np.dtype[Any]) -> Callable[[Any], str]:
    digits = 17 if dtype.itemsize == 8 else 9

    def write(x: Any) -> str:
        value = float(x)
        text = f"{value:.6g}"
        # The six digits of the largest values may read back as infinity.
        with np.errstate(over="ignore"):
            same = dtype.type(float(text)) == x
        if value == value and not same:
            text = f"{value:.{digits}g}"
        return text if "." in text or "e" in text or "n" in text else text + ".0"

    return write
