"""Image files to pixels, with Pillow: refused before they are decoded if they are too large, after if they are broken.

Blocking functions of bytes, for any thread. Only the formats of ``formats`` are read, each by its own reader, so that
none of Pillow's many others can be reached by what a client sends, and none of its settings is changed for the whole
process. Colour profiles are not applied; of an animation, the first frame counts; transparency is dropped where the
model has no channel for it, as the loaders of the training frameworks do.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from stfs.errors import InvalidRequest
from stfs.images.formats import FORMATS, orientation, png_exif, sniff, webp_size
from stfs.images.frame import Frame, Size, frame
from stfs.images.plan import MAX_SIDE, Plan
from stfs.signature import Array

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose
    from PIL.ImageFile import ImageFile

INSTALL = 'pip install "stfs[images]"'

SMALLER_BY = 2
"""JPEG can be decoded to a half, a quarter or an eighth for a fraction of the work. What is resized then is at least
this many times the size it gets, so that the result differs by 1 of 255 at most from that of a full decode."""

_MAX_BETWEEN = 1 << 25
"""Pixels between the two passes of resizing, along rows and along columns, before their order is turned round."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as a client sent it; ``name`` is for messages alone."""

    name: str
    data: bytes

    def refused(self, problem: str) -> InvalidRequest:
        """The error that says so of this file."""
        shown = "".join(c if c.isprintable() else "?" for c in self.name[:100])
        return InvalidRequest(f'file "{shown}" {problem}')


@dataclass(frozen=True, slots=True)
class Seen:
    """What the head of a file tells: one of ``FORMATS``; width and height of the picture, the way up it is seen."""

    format: str
    size: Size


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that is open: how many pixels decoding it takes in memory, and the decoding. Drop it to close the file."""

    pixels: int
    load: Callable[[], Array]


def installed() -> bool:
    """Whether Pillow is there."""
    return find_spec("PIL") is not None


def look(upload: Upload, max_pixels: int) -> Seen:
    """What the file's head tells, without decoding a pixel.

    Raises :class:`InvalidRequest` if it is no image, or one of more than ``max_pixels`` pixels.
    """
    kind, image, turn = _open(upload, max_pixels)
    return Seen(kind, _turned(image.size, turn))


def open_for(upload: Upload, plan: Plan, max_pixels: int) -> Opened:
    """Ready to give uint8 ``[height, width, channels]`` of the plan's mode and of the size it wants.

    Raises as :func:`look`, and for a file that has not the size which the plan insists on. Loading raises
    :class:`InvalidRequest` for a file that is broken or cut short.
    """
    _, image, turn = _open(upload, max_pixels)
    seen = _turned(image.size, turn)
    target = plan.fitted(*seen)
    if plan.resize == "exact" and target != seen:
        raise upload.refused(f"has {_told(seen)} pixels, and the model takes {_told(target)}")
    if max(target) > MAX_SIDE or target[0] * target[1] > max_pixels:
        raise upload.refused(f"would become {_told(target)} pixels, which is too large: ask for another shape")
    # All but the black around it happens as the sensor saw it, which is central too: only the small result is turned.
    target = _turned(target, turn)
    part = frame(image.size, target, plan.resize)
    whole_pixels = image.width * image.height
    shrunk = _shrink(image, part)

    def load() -> Array:
        whole = _in_mode(_decoded(upload, image), plan.mode)
        return _pixels(_centred(_turn(_drawn(whole, part, shrunk), turn), _turned(target, turn)))

    return Opened(_pixels_held(image, whole_pixels), load)


def open_to_check(upload: Upload, max_pixels: int) -> Opened:
    """Ready to be decoded for nothing but to learn whether it can be; errors as :func:`open_for`."""
    _, image, _ = _open(upload, max_pixels)
    whole_pixels = image.width * image.height
    image.draft("L", (1, 1))
    return Opened(_pixels_held(image, whole_pixels), lambda: _pixels(_decoded(upload, image)))


def _told(size: Size) -> str:
    return f"{size[1]} by {size[0]}"


@cache
def _readers() -> dict[str, type[ImageFile]]:
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.GifImagePlugin import GifImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    # Its warnings quote what files hold, and Python keeps every text of a warning for good.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    readers = (JpegImageFile, PngImageFile, WebPImageFile, BmpImageFile, GifImageFile)
    return dict(zip(FORMATS, readers, strict=True))


def _open(upload: Upload, max_pixels: int) -> tuple[str, ImageFile, int]:
    """Format, the image with its head read, and its orientation."""
    kind = sniff(upload.data)
    if kind is None:
        raise upload.refused(f"is no image that is read here: send {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if kind == "WebP" and (size := webp_size(upload.data)) is not None:
        _check_size(upload, size, max_pixels)
    try:
        image = _readers()[kind](io.BytesIO(upload.data))
    except MemoryError:
        raise
    except Exception as error:  # readers raise nearly everything for files made to break them
        raise upload.refused(f"is no {kind} that can be read: {_reason(error)}") from None
    _check_size(upload, image.size, max_pixels)
    exif = png_exif(upload.data) if kind == "PNG" else image.info.get("exif", b"")
    return kind, image, orientation(exif)


def _check_size(upload: Upload, size: Size, max_pixels: int) -> None:
    if min(size) < 1 or max(size) > MAX_SIDE:
        raise upload.refused(f"has {_told(size)} pixels: a side may have 1 to {MAX_SIDE}")
    if size[0] * size[1] > max_pixels:
        raise upload.refused(
            f"has {_told(size)} pixels, over the limit of {max_pixels}: send it smaller or raise --max_image_pixels"
        )


def _decoded(upload: Upload, image: ImageFile) -> Image:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise upload.refused(f"is broken or cut short: {_reason(error)}") from None
    return image


def _reason(error: Exception) -> str:
    text = str(error).splitlines()
    return text[0][:200] if text and text[0] else type(error).__name__


def _shrink(image: ImageFile, part: Frame) -> float:
    """Have a JPEG decoded smaller, as long as it stays large enough; by how much."""
    before = image.size[0]
    wanted = part.wanted(image.size)
    drafted = image.draft(None, (max(1, wanted[0] * SMALLER_BY), max(1, wanted[1] * SMALLER_BY)))
    return 1.0 if drafted is None else before / drafted[1][2]


def _pixels_held(image: ImageFile, whole: int) -> int:
    """Pixels in memory while it is decoded, of ``whole`` in the file; progressive JPEG is put together whole."""
    return whole if image.info.get("progressive") else image.width * image.height


def _in_mode(image: Image, mode: str) -> Image:
    """``L``, ``RGB`` or ``RGBA`` of whatever the file held."""
    from PIL.Image import fromarray

    if image.mode.startswith("I"):  # 16 bits of grey; converting it would cut off all that is over 255
        grey = np.clip(np.asarray(image), 0, 65535) >> 8
        image = fromarray(grey.astype(np.uint8))
    if mode != "RGBA":
        image.info.pop("transparency", None)
    if image.mode == "CMYK" and mode == "L":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _drawn(image: Image, part: Frame, shrunk: float) -> Image:
    """The part at its size, between its own pixels and those of the whole image."""
    from PIL.Image import Resampling

    width, height = part.drawn
    left, top, right, bottom = (side / shrunk for side in part.box)
    if (left, top, right, bottom) == (0, 0, width, height) and image.size == part.drawn:
        return image
    if width * (bottom - top) > _MAX_BETWEEN:  # Pillow goes along the rows first, which makes this many pixels
        image = image.resize((image.width, height), Resampling.BILINEAR, (0, top, image.width, bottom))
        top, bottom = 0, height
    return image.resize(part.drawn, Resampling.BILINEAR, (left, top, right, bottom))


@cache
def _turns() -> dict[int, Transpose]:
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _turn(image: Image, turn: int) -> Image:
    """What the sensor saw, the way up that EXIF says."""
    return image if turn == 1 else image.transpose(_turns()[turn])


def _turned(size: Size, turn: int) -> Size:
    return (size[1], size[0]) if turn >= 5 else size


def _centred(image: Image, target: Size) -> Image:
    """In the middle of black (and opaque) of the size of the result."""
    from PIL.Image import new

    if image.size == target:
        return image
    whole = new(image.mode, target, "black")
    whole.paste(image, ((target[0] - image.width) // 2, (target[1] - image.height) // 2))
    return whole


def _pixels(image: Image) -> Array:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
