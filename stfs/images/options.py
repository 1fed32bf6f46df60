"""What an operator may say of a model that is sent image files. Values and their parsing; nothing here reads a file."""

from __future__ import annotations

import math
from dataclasses import dataclass

LAYOUTS = ("auto", "nhwc", "nchw")
CHANNELS = ("auto", "rgb", "bgr", "rgba", "l")
RESIZES = ("stretch", "crop", "pad", "exact")
STRINGS = ("auto", "base64", "bytes")


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How files become a model's input.

    ``layout`` and ``channels`` (``l`` is grey) are told by the signature where they are ``auto``. A value of the
    tensor is ``(pixel * scale - mean) / std`` with pixels from 0 to 255; ``mean`` and ``std`` hold one number, or one
    for each channel in the model's order. ``resize`` says what becomes of another shape than the model's: ``stretch``,
    ``crop`` from the middle, ``pad`` with black, or ``exact``: refuse it. ``strings`` says what a model that takes
    strings is given: the file as url-safe ``base64`` text, its ``bytes``, or by the input's name (``auto``).
    """

    layout: str = "auto"
    channels: str = "auto"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: str = "stretch"
    strings: str = "auto"


def ratio(text: str) -> float:
    """``0.5`` or ``1/255``. Raises :class:`ValueError`."""
    above, slash, below = text.partition("/")
    try:
        value = float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("expected a number such as 0.5 or 1/255")
    return value


def per_channel(text: str) -> tuple[float, ...]:
    """One number, or one for each channel: ``0.485,0.456,0.406``. Raises :class:`ValueError`."""
    values = tuple(ratio(part) for part in text.split(","))
    if len(values) not in (1, 3, 4):
        raise ValueError("expected one number, or one for each of 3 or 4 channels")
    return values


def divisors(text: str) -> tuple[float, ...]:
    """:func:`per_channel` without zero."""
    values = per_channel(text)
    if 0.0 in values:
        raise ValueError("values are divided by it, so it is not 0")
    return values
