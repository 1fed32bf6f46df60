"""Writes MXNet's ``.params`` files in each layout that its versions have had."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")


def params_file(arrays: Mapping[str, np.ndarray], layout: int = 2) -> bytes:
    """``layout`` is 3 for MXNet 1.6 with numpy's shapes, 2 for 1.x, 1 for 0.11 and 0 for what came before."""
    content = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        content += tensor(np.ascontiguousarray(array), layout)
    content += struct.pack("<Q", len(arrays))
    for name in arrays:
        content += struct.pack("<Q", len(name.encode())) + name.encode()
    return content


def tensor(array: np.ndarray, layout: int) -> bytes:
    if layout >= 2:
        shape = struct.pack(f"<Iii{array.ndim}q", 0xF993FAC7 + layout, 0, array.ndim, *array.shape)
    elif layout == 1:
        shape = struct.pack(f"<II{array.ndim}q", 0xF993FAC8, array.ndim, *array.shape)
    else:
        shape = struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
    return shape + struct.pack("<iii", 1, 0, DTYPES.index(array.dtype.name)) + array.tobytes()
