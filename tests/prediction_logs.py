"""Warm-up files as TensorFlow Serving's own tools write them: real messages, and TFRecord framing of our own."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def reference_crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 defines it."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def framed(record: bytes) -> bytes:
    def check(data: bytes) -> bytes:
        value = reference_crc32c(data)
        return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + check(length) + record + check(record)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def message(number: int, content: bytes) -> bytes:
    """A field of a message, by hand, so that our own writer is not what tests our reader."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def model_spec(name: str, signature_name: str = "") -> bytes:
    return message(1, name.encode()) + (message(3, signature_name.encode()) if signature_name else b"")


def float_tensor(rows: Iterable[Iterable[float]]) -> bytes:
    values = [list(row) for row in rows]
    dims = b"".join(message(2, b"\x08" + varint(size)) for size in (len(values), len(values[0])))
    packed = struct.pack(f"<{len(values) * len(values[0])}f", *(v for row in values for v in row))
    return b"\x08\x01" + message(2, dims) + message(5, packed)


def predict_log(inputs: Mapping[str, bytes], name: str = "m", signature_name: str = "") -> bytes:
    entries = b"".join(message(2, message(1, key.encode()) + message(2, value)) for key, value in inputs.items())
    spec = message(1, model_spec(name, signature_name)) if name else b""
    return message(6, message(1, spec + entries))


def write(version: Path, records: Iterable[bytes]) -> Path:
    """The file where TensorFlow Serving looks for it, beside the model of that version."""
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(framed(record) for record in records))
    return path


def linear_log(value: float = 1.0, **settings: Any) -> bytes:
    """For the model of ``simple_models.write_linear``."""
    return predict_log({"x": float_tensor([[value] * 3])}, **settings)
