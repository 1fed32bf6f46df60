"""Tensors as JSON Schema 2020-12, which is what OpenAPI 3.1 describes bodies by, and as example values.

Must not live here: which calls there are (``openapi``, ``openapi_calls``).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from stfs.signature import STRING, Array, Shape, Signature, TensorSpec

Schema = dict[str, Any]

MAX_EXAMPLE_VALUES = 1000
"""Over so many values a body is left without its example: nobody would read it."""

MAX_VALUES_LISTED = 1000
"""Over so many values of a category the schema names none of them; the model's details do."""


def element(spec: TensorSpec, *, is_answer: bool = False) -> Schema:
    """One element of the tensor; in a request a string may also be sent as base64, a missing value as ``null``."""
    values = () if is_answer else _values(spec)
    schema: Schema
    if values:
        schema = {"enum": [*values, None] if spec.nullable else list(values)}
    elif spec.dtype == STRING:
        b64 = {
            "type": "object",
            "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
            "required": ["b64"],
            "additionalProperties": False,
        }
        schema = {"anyOf": [{"type": "string"}, b64]}
        if spec.nullable and not is_answer:
            schema["anyOf"].append({"type": "null"})
    else:
        schema = _number(spec.dtype)
        if spec.nullable and not is_answer:
            schema["type"] = [schema["type"], "null"]
    return schema


def tensor(spec: TensorSpec, *, is_answer: bool = False) -> Schema:
    """The whole tensor as nested arrays, with its dtype and shape told in words too."""
    told = f"{spec.dtype_name} of shape {spec.describe_shape()}"
    schema = nested(element(spec, is_answer=is_answer), spec.shape)
    return {**schema, "description": f"{told}; {spec.doc}" if spec.doc else told}


def row(spec: TensorSpec) -> Schema:
    """One row of the tensor: what stands at one index of its dimension 0."""
    return nested(element(spec), None if spec.shape is None else spec.shape[1:])


def nested(item: Schema, shape: Shape | None) -> Schema:
    """Arrays in arrays down to ``item``, with ``minItems`` and ``maxItems`` where a dimension is fixed."""
    if shape is None:
        return {"anyOf": [item, {"type": "array"}]}
    schema = item
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size is not None:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def may_be_left_out(spec: TensorSpec) -> bool:
    """Whether a request may lack it: a mask, or all its values missing; see :meth:`stfs.signature.Signature.bind`."""
    return bool(spec.mask_of) or (spec.nullable and spec.is_column)


def by_name(specs: tuple[TensorSpec, ...], schemas: Mapping[str, Schema], *, strict: bool = False) -> Schema:
    """An object with one member for each of ``specs``."""
    required = [spec.name for spec in specs if not may_be_left_out(spec)]
    schema: Schema = {"type": "object", "properties": dict(schemas), "required": required}
    return {**schema, "additionalProperties": False} if strict else schema


def example(array: Array) -> Any:
    """The array as JSON has it: nested lists, strings as text where they are UTF-8, else as ``{"b64": ...}``."""
    return _plain(array.tolist())


def is_worth_showing(inputs: Mapping[str, Array]) -> bool:
    """Whether a body with these inputs is one that somebody would read."""
    return sum(array.size for array in inputs.values()) <= MAX_EXAMPLE_VALUES


def takes_rows(signature: Signature) -> bool:
    """Whether its inputs can be sent row by row: each has a dimension 0."""
    return all(spec.shape is None or len(spec.shape) > 0 for spec in signature.inputs)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _values(spec: TensorSpec) -> tuple[Any, ...]:
    if not spec.values or spec.dtype.kind == "b" or len(spec.values) > MAX_VALUES_LISTED:
        return ()
    return spec.values if spec.dtype == STRING else tuple(np.array(spec.values).astype(spec.dtype).tolist())


def _number(dtype: np.dtype[Any]) -> Schema:
    if dtype.kind == "b":
        return {"type": "boolean"}
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return {"type": "integer", "format": dtype.name, "minimum": int(bounds.min), "maximum": int(bounds.max)}
    if dtype == np.float64:
        return {"type": "number", "format": "double"}
    limit = np.finfo(dtype).max
    largest = max(float(limit), float(str(limit)))  # in answers it is rounded, upwards for some
    return {"type": "number", "format": "float", "minimum": -largest, "maximum": largest}
