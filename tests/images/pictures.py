"""Pictures to send, and what they are as arrays."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

LOSSLESS = ("PNG", "BMP", "WEBP")


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 ``[height, width, channels]`` without two equal neighbours to speak of."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 ``[height, width, 3]`` with detail of every size, as photographs have it."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell in (4, 16, 64, 256):
        few = rng.integers(0, 256, (max(2, height // cell), max(2, width // cell), 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)) * (cell / 340)
    return np.clip(total, 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """The pixels as a file; WebP without loss."""
    image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    return saved(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}) | options)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def exif(orientation: int) -> bytes:
    """A block of EXIF that holds nothing else."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def png_head(width: int, height: int) -> bytes:
    """A PNG of that size whose pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def webp_head(width: int, height: int) -> bytes:
    """An extended WebP of that canvas with nothing on it."""
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def triangle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels resized by a triangle filter that is as wide as one pixel of the smaller of the two sizes (float)."""

    def weights(old: int, new: int) -> np.ndarray:
        scale = max(old / new, 1.0)
        centres = (np.arange(new) + 0.5) * old / new
        distance = np.abs((np.arange(old) + 0.5)[None, :] - centres[:, None]) / scale
        table = np.clip(1.0 - distance, 0.0, None)
        return table / table.sum(axis=1, keepdims=True)

    rows, columns = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", rows, pixels.astype(float), columns)
