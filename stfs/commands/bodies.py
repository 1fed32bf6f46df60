"""Requests as bytes: which dialect a body speaks, and requests made from what a server tells of its model.

Pure but for :func:`describe`, which asks the server. Must not live here: sending many (``load``), comparing answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from stfs.commands.remote import Target, call, hint
from stfs.errors import SetupError
from stfs.protocols.oip_datatypes import DATATYPES, datatype_of
from stfs.signature import STRING, TensorSpec

_TFSERVING = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    "DT_INT8": "int8",
    "DT_INT16": "int16",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT8": "uint8",
    "DT_UINT16": "uint16",
    "DT_UINT32": "uint32",
    "DT_UINT64": "uint64",
    "DT_BOOL": "bool",
    "DT_STRING": "object",
}


@dataclass(frozen=True, slots=True)
class Interface:
    """What a model on a server takes and gives, as far as the server's metadata say."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def dialect_of(body: bytes) -> str:
    """``stfs``, ``tfserving`` or ``oip``, by the keys of the body; ``stfs`` for what is no JSON object."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "stfs"
    if not isinstance(value, dict) or "data" in value:
        return "stfs"
    tensors = value.get("inputs")
    if isinstance(tensors, list) and tensors and all(isinstance(t, dict) and "datatype" in t for t in tensors):
        return "oip"
    return "tfserving" if any(key in value for key in ("instances", "inputs", "examples")) else "stfs"


def wrapped(body: bytes) -> bytes:
    """A bare list as the ``data`` of a body; any other body as it is."""
    return b'{"data":' + body + b"}" if body.lstrip()[:1] == b"[" else body


def describe(target: Target, dialect: str, signature_name: str = "") -> Interface:
    """What the target takes, told by the metadata of TensorFlow Serving or of the Open Inference Protocol; blocking.

    Raises :class:`SetupError` if the server tells neither.
    """
    name = target.path("oip").removesuffix("/infer")
    oip = name, _of_oip
    tfserving = (
        target.path("tfserving").rpartition(":")[0] + "/metadata",
        lambda told: _of_tfserving(told, signature_name),
    )
    said = ""
    for path, read in (tfserving, oip) if dialect == "tfserving" or signature_name else (oip, tfserving):
        status, body = call(target.server, "GET", path)
        if status == 200:
            try:
                return read(json.loads(body))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                said = f"{path} tells what is not understood ({error!r})"
        else:
            said = said or f"{path} answers {status}{hint(status)}: {body.decode(errors='replace').strip()[:300]}"
    raise SetupError(f"{target.server.url} does not tell what model {target.model} takes, so give --data: {said}")


def _of_oip(told: Mapping[str, Any]) -> Interface:
    def spec(tensor: Mapping[str, Any]) -> TensorSpec:
        shape = tuple(None if int(size) < 0 else int(size) for size in tensor["shape"])
        return TensorSpec(tensor["name"], DATATYPES[tensor["datatype"]], shape)

    return Interface(tuple(map(spec, told["inputs"])), tuple(map(spec, told.get("outputs", ()))))


def _of_tfserving(told: Mapping[str, Any], signature_name: str) -> Interface:
    signatures = told["metadata"]["signature_def"]["signature_def"]
    name = signature_name or ("serving_default" if "serving_default" in signatures else min(signatures))
    if name not in signatures:
        raise SetupError(f"--signature_name: there are {', '.join(sorted(signatures))}, but no {name!r}")

    def spec(item: tuple[str, Mapping[str, Any]]) -> TensorSpec:
        dims = item[1]["tensor_shape"].get("dim", [])
        shape = tuple(None if int(dim["size"]) < 0 else int(dim["size"]) for dim in dims)
        unknown = item[1]["tensor_shape"].get("unknown_rank", False)
        return TensorSpec(item[0], np.dtype(_TFSERVING[item[1]["dtype"]]), None if unknown else shape)

    inputs, outputs = signatures[name]["inputs"], signatures[name].get("outputs", {})
    return Interface(tuple(map(spec, inputs.items())), tuple(map(spec, outputs.items())))


def made_up(specs: Sequence[TensorSpec], rows: int, random: np.random.Generator) -> dict[str, Any]:
    """A tensor for each spec as nested lists: floats in [0, 1), small whole numbers, the text ``text``.

    The first dimension, where it varies, is ``rows``, others that vary are 1. Equal generators make equal values.
    """
    return {spec.name: _made_up(spec, rows, random) for spec in specs}


def _made_up(spec: TensorSpec, rows: int, random: np.random.Generator) -> Any:
    sizes = (None,) if spec.shape is None else spec.shape
    shape = tuple((rows if axis == 0 else 1) if size is None else size for axis, size in enumerate(sizes))
    if spec.dtype == STRING:
        return np.full(shape, "text", object).tolist()
    match spec.dtype.kind:
        case "b":
            return random.integers(0, 2, shape).astype(bool).tolist()
        case "f":
            # Few digits: every dialect and every float type reads them as the same number.
            return (random.integers(0, 10_000, shape) / 10_000).tolist()
        case _:
            return random.integers(0, 256 if spec.dtype == np.uint8 else 2, shape).tolist()


def write(dialect: str, tensors: Mapping[str, Any], specs: Sequence[TensorSpec], signature_name: str = "") -> bytes:
    """The body that sends ``tensors``, in column form; ``specs`` tell the datatypes that one dialect wants named."""
    if dialect == "oip":
        dtypes = {spec.name: datatype_of(spec.dtype) for spec in specs}
        told = [_oip_tensor(name, dtypes.get(name, "FP32"), value) for name, value in tensors.items()]
        return json.dumps({"inputs": told}).encode()
    named = {"signature_name": signature_name} if signature_name else {}
    return json.dumps(named | {"data" if dialect == "stfs" else "inputs": dict(tensors)}).encode()


def _oip_tensor(name: str, datatype: str, value: Any) -> dict[str, Any]:
    array = np.array(value, object if datatype == "BYTES" else None)
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def read_answer(dialect: str, body: bytes, outputs: Sequence[TensorSpec] = ()) -> Any:
    """The answer's outputs as nested lists by name, the same whatever the dialect; the JSON value if it has none.

    A single output, which TensorFlow Serving leaves unnamed, gets its name of ``outputs``. Raises :class:`ValueError`
    for what is no JSON.
    """
    value = json.loads(body)
    if not isinstance(value, dict):
        return value
    if dialect == "oip" and isinstance(value.get("outputs"), list):
        return {tensor["name"]: _nested(tensor["data"], tensor["shape"]) for tensor in value["outputs"]}
    if dialect == "tfserving" and "outputs" in value:
        found = value["outputs"]
        names = [spec.name for spec in outputs]
        is_named = isinstance(found, dict) and (not names or set(found) <= set(names))
        return found if is_named or len(names) != 1 else {names[0]: found}
    return value


def _nested(flat: list[Any], shape: Sequence[int]) -> Any:
    if prod(shape) != len(flat):
        raise ValueError(f"an output of shape {list(shape)} has {len(flat)} values")
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape).tolist()
