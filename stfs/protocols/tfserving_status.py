"""TensorFlow Serving's REST dialect: what is served, told as its protobuf messages are written in JSON.

Source: ``apis/get_model_status.proto``, ``apis/get_model_metadata.proto``, ``model_servers/http_rest_api_util.cc``. As
in protobuf's JSON, 64-bit integers are strings; fields that hold nothing are there all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stfs.signature import Signature, TensorSpec


def encode_status(versions: Sequence[tuple[int, str, str]]) -> dict[str, Any]:
    """``GetModelStatusResponse`` of ``(version, state, error)`` triples; int64 is a string in protobuf JSON."""
    return {
        "model_version_status": [
            {
                "version": str(version),
                "state": state,
                "status": {"error_code": "UNKNOWN" if error else "OK", "error_message": error},
            }
            for version, state, error in versions
        ]
    }


def encode_metadata(name: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    """``GetModelMetadataResponse`` with the ``signature_def`` map."""
    signature_def = {
        key: {
            "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
            "method_name": signature.method_name,
            "defaults": {},
        }
        for key, signature in sorted(signatures.items())
    }
    return json.dumps(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(version)},
            "metadata": {"signature_def": {"signature_def": signature_def}},
        },
        indent=1,
    ).encode()


_DTYPES = {
    "float32": ("DT_FLOAT", 1),
    "float64": ("DT_DOUBLE", 2),
    "int32": ("DT_INT32", 3),
    "uint8": ("DT_UINT8", 4),
    "int16": ("DT_INT16", 5),
    "int8": ("DT_INT8", 6),
    "string": ("DT_STRING", 7),
    "int64": ("DT_INT64", 9),
    "bool": ("DT_BOOL", 10),
    "uint16": ("DT_UINT16", 17),
    "float16": ("DT_HALF", 19),
    "uint32": ("DT_UINT32", 22),
    "uint64": ("DT_UINT64", 23),
}
"""Names and numbers of ``tensorflow/core/framework/types.proto``."""


def dtype_number(spec: TensorSpec) -> int:
    """The dtype as ``types.proto`` numbers it; 0 for one it lacks."""
    return _DTYPES.get(spec.dtype_name, ("DT_INVALID", 0))[1]


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    dims = [] if spec.shape is None else [{"size": str(-1 if d is None else d), "name": ""} for d in spec.shape]
    return {
        "dtype": _DTYPES.get(spec.dtype_name, ("DT_INVALID", 0))[0],
        "tensor_shape": {"dim": dims, "unknown_rank": spec.shape is None},
        "name": spec.graph_name or f"{spec.name}:0",
    }
