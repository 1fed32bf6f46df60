"""Whether two answers say the same, and where they first do not. Pure; values are those that JSON has."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_SHOWN_CHARACTERS = 80
RTOL, ATOL = 1e-5, 1e-8


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Numbers are the same if ``|a - b| <= atol + rtol * |b|``, as numpy's ``allclose`` has it."""

    rtol: float = RTOL
    atol: float = ATOL


@dataclass(frozen=True, slots=True)
class Difference:
    """``path`` as in ``y[0][3]``; ``first`` and ``second`` are short texts of what is there."""

    path: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.path or 'the answer'}: {self.first} and {self.second}"


def differences(first: Any, second: Any, tolerance: Tolerance, path: str = "") -> Iterator[Difference]:
    """Every place where the two differ, in order.

    NaN is the same as NaN, and as the ``"NaN"`` that some servers write; an infinity only as itself. True and 1 differ,
    1 and 1.0 do not. A text is the same as the base64 object of its UTF-8 (``{"b64": ...}``). Keys' order is nothing.
    """
    first, second = _plain(first), _plain(second)
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            here = f"{path}.{key}" if path else str(key)
            if key not in first or key not in second:
                yield Difference(here, *("missing" if key not in one else _shown(one[key]) for one in (first, second)))
            else:
                yield from differences(first[key], second[key], tolerance, here)
    elif isinstance(first, list) and isinstance(second, list):
        if len(first) != len(second):
            yield Difference(path, f"{len(first)} items", f"{len(second)} items")
            return
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from differences(*pair, tolerance, f"{path}[{index}]")
    elif not _same(first, second, tolerance):
        yield Difference(path, _shown(first), _shown(second))


def _same(first: Any, second: Any, tolerance: Tolerance) -> bool:
    if _is_number(first) and _is_number(second):
        if first == second or (first != first and second != second):
            return True
        if isinstance(first, int) and isinstance(second, int):
            return abs(first - second) <= tolerance.atol + tolerance.rtol * abs(second)
        try:
            a, b = float(first), float(second)
        except OverflowError:
            return False
        if abs(a) == float("inf") or abs(b) == float("inf"):
            return False
        return abs(a - b) <= tolerance.atol + tolerance.rtol * abs(b)
    return type(first) is type(second) and bool(first == second)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Bytes of a text or of a base64 object; a number for the words that stand for one."""
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error:
            return value
    if isinstance(value, str):
        if value in ("NaN", "Infinity", "-Infinity"):
            return float(value)
        return value.encode(errors="surrogatepass")
    return value


def _shown(value: Any) -> str:
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else repr(value)
    if isinstance(value, bytes):
        text = f'"{text}"'
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."
