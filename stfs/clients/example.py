"""An example of what a model takes, as values that any language can write down: small, plausible, of the right shape.

Pure. Must not live here: how a language writes values (``literals``), which addresses a request goes to (``call``).
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from math import prod
from typing import Any

import numpy as np

from stfs.signature import CLASSIFY, REGRESS, STRING, Signature, TensorSpec

MAX_WRITTEN_VALUES = 256
"""A longer tensor is filled with one value by the program, rather than written out in it."""

EXAMPLE_ROWS = 2
"""Rows for a signature that takes several, so that a reader sees where the next one goes."""

TAKE_BYTES = frozenset({"tensorflow", "python"})
"""Platforms whose strings may be any bytes; those of others are text, and a binary value in them must be base64."""

_IMAGE = re.compile(r"image|img|jpe?g|png|photo|picture", re.IGNORECASE)
_BASE64 = re.compile(r"b(?:ase)?_?64", re.IGNORECASE)

_RANGE = re.compile(r"[\[(](-?\d+(?:\.\d+)?) to (-?\d+(?:\.\d+)?)[\])]")
"""What the description of a numeric field says of its range, as those of PMML do; some models refuse all else."""

NO_FEATURES = b"\n\x00"
"""A serialized ``tf.Example`` with no feature in it."""

FLOATS = tuple(step / 10 for step in range(1, 11))
"""Between 0 and 1 fits scaled pixels, probabilities and standardised columns alike."""


Text = Callable[[TensorSpec], Any]
"""From a tensor of strings to one that it may hold."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A tensor of ``shape`` that holds ``value`` everywhere; ``value`` is a number, a text or ``{"b64": ...}``."""

    shape: tuple[int, ...]
    value: Any


def example(signature: Signature, platform: str) -> dict[str, Any]:
    """A value for each input: nested lists, a scalar, or :class:`Filled` where that would be long.

    Dimension 0, where it may vary, is 2 for a signature that batches and 1 for another; other open dimensions are 1, a
    tensor of unknown rank has one dimension. Strings that look like images are a small PNG, as ``{"b64": ...}`` where
    the platform takes bytes, or as url-safe base64 text where it does not, or the graph decodes base64 itself.
    """
    rows = EXAMPLE_ROWS if signature.batchable else 1
    is_examples = signature.method_name in (CLASSIFY, REGRESS) and len(signature.inputs) == 1
    takes_bytes = platform in TAKE_BYTES

    def text(spec: TensorSpec) -> Any:
        return _text(spec, is_examples=is_examples, takes_bytes=takes_bytes)

    return {spec.name: _tensor(spec, rows, text) for spec in signature.inputs}


def has_base64(data: Mapping[str, Any]) -> bool:
    """Whether any value of ``data`` is ``{"b64": ...}``."""

    def first(value: Any) -> Any:
        while isinstance(value, list | Filled):
            value = value.value if isinstance(value, Filled) else next(iter(value), None)
        return value

    return any(isinstance(first(value), dict) for value in data.values())


def described_range(spec: TensorSpec) -> tuple[float, float] | None:
    """The lowest and the highest value that the description of a number tells, if it does."""
    found = _RANGE.search(spec.doc)
    return None if found is None else (float(found[1]), float(found[2]))


def _tensor(spec: TensorSpec, rows: int, text: Text) -> Any:
    sizes = (None,) if spec.shape is None else spec.shape
    shape = tuple((rows if axis == 0 else 1) if size is None else size for axis, size in enumerate(sizes))
    pattern = _pattern(spec, text)
    if prod(shape) > MAX_WRITTEN_VALUES:
        return Filled(shape, pattern[len(pattern) // 2])
    numbers = count()

    def nested(axis: int) -> Any:
        if axis == len(shape):
            return pattern[next(numbers) % len(pattern)]
        return [nested(axis + 1) for _ in range(shape[axis])]

    return nested(0)


def _pattern(spec: TensorSpec, text: Text) -> tuple[Any, ...]:
    """What the elements are in turn."""
    kind = spec.dtype.kind
    if kind == "b":
        return (True, False)
    if spec.values:
        values = spec.values[:MAX_WRITTEN_VALUES]
        return values if spec.dtype == STRING else tuple(np.array(values).astype(spec.dtype).tolist())
    if spec.dtype == STRING:
        return (text(spec),)
    if (told := described_range(spec)) is not None:
        low, high = told
        within = [round((low * (4 - part) + high * part) / 4, 6) for part in (1, 2, 3)]
        return tuple(within) if kind == "f" else (int((low + high) // 2),)
    if spec.dtype == np.uint8 and spec.shape is not None and len(spec.shape) >= 3:
        return (0, 51, 102, 153, 204, 255)  # pixels
    if kind in "iu":
        return (1,)  # of all the numbers but 0 the likeliest index, count, flag or code to exist
    return FLOATS


def _text(spec: TensorSpec, *, is_examples: bool, takes_bytes: bool) -> Any:
    if is_examples:
        return {"b64": base64.b64encode(NO_FEATURES).decode()}
    if not (is_called_image(spec) or spec.name.endswith("_bytes")):
        return "text"
    if _BASE64.search(_called(spec)) or not takes_bytes:
        return base64.urlsafe_b64encode(tiny_png()).decode()
    return {"b64": base64.b64encode(tiny_png()).decode()}


def is_called_image(spec: TensorSpec) -> bool:
    """Whether its name, here or in its graph, says that it takes images."""
    return bool(_BASE64.search(_called(spec)) or _IMAGE.search(_called(spec)))


def _called(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.graph_name}"


@cache
def tiny_png(size: int = 8) -> bytes:
    """A PNG (W3C PNG, third edition) of ``size`` x ``size`` RGB pixels, red rising to the right."""
    line = b"\0" + b"".join(bytes((x * 255 // size, 64, 128)) for x in range(size))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(line * size)) + chunk(b"IEND", b"")
    )
