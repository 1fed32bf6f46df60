"""The datatypes of the Open Inference Protocol: what they are called, and which numpy dtypes they are.

Source: the protocol's section on tensor data types, and ``model_config.proto`` of Triton for the names in its
configuration. Must not live here: how elements are written (``oip_binary``, ``oip``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stfs.errors import InvalidInput
from stfs.signature import STRING, TensorSpec

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": STRING,
}

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """What the protocol calls ``dtype``; ``INVALID`` for one that it lacks."""
    return "BYTES" if dtype.kind in "SU" else _NAMES.get(dtype, "INVALID")


def config_type_of(dtype: np.dtype[Any]) -> str:
    """The same as a Triton model configuration writes it: ``TYPE_FP32``, and ``TYPE_STRING`` for bytes."""
    name = datatype_of(dtype)
    return "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"


def check_datatype(spec: TensorSpec, declared: str) -> None:
    """Raise :class:`InvalidInput` unless ``declared`` is what the model takes, telling both."""
    if DATATYPES.get(declared) is spec.dtype:
        return
    wanted = datatype_of(spec.dtype)
    if declared == wanted:
        return
    if declared == "BF16":
        raise InvalidInput(spec.name, f"datatype BF16 is not supported here: send {wanted}, which the model takes")
    if declared not in DATATYPES:
        raise InvalidInput(spec.name, f'"{declared[:40]}" is no datatype; there are {", ".join(DATATYPES)}')
    raise InvalidInput(spec.name, f"its datatype is {declared}, but the model takes {wanted}: send {wanted}")
