"""TensorFlow Serving's REST dialect: the bodies of classify and regress, and the ``tf.Example`` records they become.

A model that classifies or regresses takes serialized ``tf.Example`` messages, so a body's ``examples`` leave here as an
array of ``bytes``, which batches like any input of strings. Sources: ``util/json_tensor.cc`` of tensorflow/serving for
the body, ``core/example/example.proto`` and ``feature.proto`` of TensorFlow for the bytes.

Must not live here: which signatures may be called so, and what the answers look like (``tfserving_results``).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stfs.codec import Reader
from stfs.errors import InvalidRequest
from stfs.protocols import wire
from stfs.protocols.request import read_text
from stfs.protocols.tfserving import open_body
from stfs.signature import STRING, Array

MAX_TOLD = 100
"""Characters of a client's own names that an error repeats."""

_FEATURES, _FEATURE, _KEY, _VALUE = 1, 1, 1, 2
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_KIND_NAMES = {_BYTES_LIST: "bytes", _FLOAT_LIST: "float", _INT64_LIST: "int64"}
_LIST_VALUE = 1

_INT64_MIN, _INT64_MAX, _UINT64_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
_TO_STANDARD = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class Examples:
    """A decoded body. ``serialized`` has shape ``[rows]`` and holds ``bytes``; ``None`` for the default signature."""

    signature_name: str | None
    serialized: Array


def decode_examples(body: bytes | memoryview, verb: str) -> Examples:
    """The ``examples`` of a body of ``verb`` (``classify`` or ``regress``), each with the ``context`` before it.

    Raises :class:`InvalidRequest` for anything wrong in the body.
    """
    reader = open_body(body)
    signature_name: str | None = None
    context = b""
    examples: list[bytes] | None = None
    while (key := reader.next_key()) is not None:
        if key == "signature_name":
            signature_name = read_text(reader, key)
        elif key == "context":
            context = encode_example(reader.value())
        elif key == "examples":
            examples = _read_list(reader)
        else:
            reader.skip()
    if examples is None:
        raise InvalidRequest(f"When method is {verb}, key 'examples' is expected and was not found")
    # Protobuf merges what is written one after the other, and the later entry of a map wins.
    rows = np.empty(len(examples), STRING)
    rows[:] = [context + example for example in examples] if context else examples
    return Examples(signature_name, rows)


def _read_list(reader: Reader) -> list[bytes]:
    if reader.kind() != "array":
        raise InvalidRequest("Expecting 'examples' value to be an list/array")
    reader.enter_array()
    examples = []
    while reader.next_item():
        examples.append(encode_example(reader.value()))
    if not examples:
        raise InvalidRequest("'examples' value is an empty array")
    return examples


def encode_example(value: object) -> bytes:
    """A JSON object of features, each a number, a string, ``{"b64": ...}`` or a list of one kind, as a ``tf.Example``.

    Integers and booleans become ``int64`` features, other numbers ``float`` ones, text and base64 ``bytes``. Raises
    :class:`InvalidRequest` for anything else, with the feature's name.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(f"Example must be JSON object but got JSON {_json_type(value)}")
    entries = [
        wire.encode_bytes(
            _FEATURE,
            wire.encode_bytes(_KEY, name.encode(errors="replace")) + wire.encode_bytes(_VALUE, _feature(name, content)),
        )
        for name, content in value.items()
    ]
    return wire.encode_bytes(_FEATURES, b"".join(entries)) if entries else b""


def _feature(name: str, content: object) -> bytes:
    """A ``Feature``; one without a kind for an empty list."""
    elements = content if isinstance(content, list) else [content]
    kind = 0
    values: list[bytes | float | int] = []
    for element in elements:
        its_kind, value = _element(name, element)
        if kind not in (0, its_kind):
            raise InvalidRequest(
                f"Unexpected element type in feature: {name[:MAX_TOLD]} expecting type: {_KIND_NAMES[kind]}"
            )
        kind = its_kind
        values.append(value)
    return wire.encode_bytes(kind, _list(kind, values)) if kind else b""


def _list(kind: int, values: Sequence[bytes | float | int]) -> bytes:
    """A ``BytesList``, or a packed ``FloatList`` or ``Int64List``."""
    if kind == _BYTES_LIST:
        return wire.encode_strings(_LIST_VALUE, [value for value in values if isinstance(value, bytes)])
    if kind == _FLOAT_LIST:
        with np.errstate(over="ignore"):  # beyond float32's range lies infinity, as for a cast in C++
            return wire.encode_bytes(_LIST_VALUE, np.array(values, np.float64).astype("<f4").tobytes())
    return wire.encode_bytes(_LIST_VALUE, wire.pack_varints(np.array(values, np.int64).view(np.uint64)))


def _element(name: str, element: object) -> tuple[int, bytes | float | int]:
    """The kind of list that an element goes into, and its value there."""
    match element:
        case bool():
            return _INT64_LIST, int(element)
        case int() if _INT64_MIN <= element <= _INT64_MAX:
            return _INT64_LIST, element
        case int() if _INT64_MAX < element <= _UINT64_MAX:
            raise InvalidRequest(f"Feature: {name[:MAX_TOLD]} has uint64_t element. Only int64_t is supported.")
        case int() | float():
            return _FLOAT_LIST, _as_float(element)
        case str():
            return _BYTES_LIST, element.encode(errors="replace")
        case {"b64": str(text), **others} if not others:
            return _BYTES_LIST, _decode_base64(text)
    raise InvalidRequest(f"Feature: {name[:MAX_TOLD]} has element with unexpected JSON type: {_json_type(element)}")


def _as_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _decode_base64(text: str) -> bytes:
    """Either alphabet (RFC 4648, 4 and 5), padded or not."""
    bare = text.rstrip("=").translate(_TO_STANDARD)
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("Unable to base64 decode") from None


def _json_type(value: object) -> str:
    """A JSON type as TensorFlow Serving's errors name it."""
    match value:
        case None:
            return "Null"
        case bool():
            return "True" if value else "False"
        case dict():
            return "Object"
        case list():
            return "Array"
        case str():
            return "String"
    return "Number"
