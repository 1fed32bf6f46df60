"""What a numeric input wants of an image: size, channels, their order, and the value of each pixel. Pure functions.

Must not live here: files and their formats (``decode``), threads (``pool``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stfs.errors import InvalidInput, InvalidRequest
from stfs.images.options import ImageOptions
from stfs.signature import STRING, Array, TensorSpec

DEPTHS = {"L": 1, "RGB": 3, "BGR": 3, "RGBA": 4}
"""Channels of each layout that a client may ask for."""

_USUAL = {1: "L", 3: "RGB", 4: "RGBA"}

MAX_SIDE = 65_535
"""Pixels along one side: what JPEG can hold. It bounds the tables that resizing makes."""

_BLOCK_VALUES = 1 << 18
"""Values that are looked up at once: numpy makes an index of eight bytes for each."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client says of its images: ``channels`` one of :data:`DEPTHS`, ``shape`` as :func:`parse_shape` has it."""

    channels: str | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How to make one row of ``spec`` of one image. ``height`` and ``width`` are ``None`` where the image decides.

    ``channels_first`` is NCHW. ``batched`` says that dimension 0 of the tensor counts images; otherwise it is one
    image. ``table`` has the value of every pixel value: shape ``[1 or channels, 256]``, of the tensor's dtype.
    """

    spec: TensorSpec
    channels: str
    channels_first: bool
    height: int | None
    width: int | None
    batched: bool
    row_rank: int
    resize: str
    table: Array

    @property
    def mode(self) -> str:
        """What an image is decoded to: ``L``, ``RGB`` or ``RGBA``."""
        return "RGB" if self.channels == "BGR" else self.channels

    def fitted(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the tensor for an image of ``width`` by ``height`` pixels, as it is seen.

        Where the model fixes one side only, the other follows, so that the picture keeps its form.
        """
        if self.width is None and self.height is None:
            return width, height
        if self.width is not None and self.height is not None:
            return self.width, self.height
        if self.width is None:
            assert self.height is not None
            return max(1, round(width * self.height / height)), self.height
        return self.width, max(1, round(height * self.width / width))

    def row_shape(self, width: int, height: int) -> tuple[int, ...]:
        """The shape of one image's values in the tensor, whose size is ``width`` by ``height``."""
        depth = DEPTHS[self.channels]
        if self.row_rank == 1:
            return (height * width * depth,)
        if self.row_rank == 2:
            return (height, width)
        return (depth, height, width) if self.channels_first else (height, width, depth)

    def write(self, pixels: Array, row: Array) -> None:
        """Put ``pixels``, uint8 ``[height, width, channels]`` of :attr:`mode`, into ``row``, of :meth:`row_shape`."""
        height, width, depth = pixels.shape
        wanted = pixels[..., ::-1] if self.channels == "BGR" else pixels
        if self.channels_first:
            out = row.reshape(depth, height, width).transpose(1, 2, 0)
        else:
            out = row.reshape(height, width, depth)
        rows = max(1, _BLOCK_VALUES // (width * depth))
        for at in range(0, height, rows):
            block, values = wanted[at : at + rows], out[at : at + rows]
            if len(self.table) == 1:
                values[...] = self.table[0][block]
                continue
            for channel, table in enumerate(self.table):
                values[..., channel] = table[block[..., channel]]


def make_plan(spec: TensorSpec, options: ImageOptions, asked: Asked) -> Plan:
    """How images become ``spec``, by its shape, by what the operator says of the model and the client of its request.

    Raises :class:`InvalidInput` where they contradict each other or do not tell enough.
    """
    if spec.dtype.kind not in "uif" or spec.dtype == STRING:
        raise InvalidInput(spec.name, f"takes {spec.dtype_name}, which cannot be made of an image")
    batched, sides, row_rank = _sides(spec, asked.shape)
    if row_rank == 2:
        channels_first, (height, width, depth) = False, sides
    else:
        channels_first = _channels_first(spec, options.layout, sides, flat=row_rank == 1)
        height, width, depth = (sides[1], sides[2], sides[0]) if channels_first else sides
    if row_rank == 1 and depth is None:
        depth = _depth_of_rest(spec, height, width)
    for side in (height, width):
        if side is not None and side > MAX_SIDE:
            raise InvalidInput(spec.name, f"images of {height} by {width} pixels: a side has {MAX_SIDE} at most")
    channels = _channels(spec, depth, options.channels, asked.channels)
    table = _table(spec, options, DEPTHS[channels])
    return Plan(spec, channels, channels_first, height, width, batched, row_rank, options.resize, table)


def parse_shape(text: str) -> tuple[int, ...]:
    """``224,224``, ``224,224,3`` or ``1,224,224,3``, brackets allowed. Of four, the first is not looked at:
    how many images there are is told by the files.

    Raises :class:`InvalidRequest`.
    """
    try:
        shape = tuple(int(part) for part in text.strip().strip("[]()").split(","))
    except ValueError:
        shape = ()
    if len(shape) not in (2, 3, 4) or min(shape[-3:]) < 1:
        raise InvalidRequest(f'"shape" must be like 224,224 or 224,224,3 or 1,224,224,3, not {text[:50]!r}')
    return shape


_Sides = tuple[int | None, int | None, int | None]


def _sides(spec: TensorSpec, asked: tuple[int, ...] | None) -> tuple[bool, _Sides, int]:
    """Whether the first dimension counts images, the three of an image in the tensor's order, and how many they are.

    For a row rank of 2 (no channels) the three are height, width and 1; for 1 (flat) they are the client's.
    """
    shape = spec.shape
    if shape is None:
        if asked is None or len(asked) < 3:
            raise InvalidInput(spec.name, "its shape is unknown: send the field shape, such as shape=1,224,224,3")
        return True, _three(asked[-3:]), 3
    match len(shape):
        case 4:
            return True, _merged(spec, shape[1:], asked), 3
        case 3 if _is_channels(shape[2]) or (_is_channels(shape[0]) and shape[0] is not None):
            return False, _merged(spec, shape, asked), 3
        case 3:
            if asked is None:
                return True, (shape[1], shape[2], 1), 2
            height, width = asked[-3:-1] if len(asked) > 2 and asked[-1] == 1 else asked[-2:]
            return True, (_agreed(spec, shape[1], height), _agreed(spec, shape[2], width), 1), 2
        case 2 if asked is not None:
            return True, (asked[0], asked[1], None) if len(asked) == 2 else _three(asked[-3:]), 1
        case 2:
            advice = "does not tell height and width: send the field shape, such as shape=28,28"
            raise InvalidInput(spec.name, f"its shape {spec.describe_shape()} {advice}")
    raise InvalidInput(spec.name, f"its shape is {spec.describe_shape()}, which is not an image's")


def _is_channels(side: int | None) -> bool:
    return side in _USUAL


def _three(shape: tuple[int, ...]) -> _Sides:
    first, second, third = shape
    return first, second, third


def _merged(spec: TensorSpec, shape: tuple[int | None, ...], asked: tuple[int, ...] | None) -> _Sides:
    """The tensor's own three dimensions with what the client says of those that vary."""
    first, second, third = shape
    if asked is None:
        return first, second, third
    if len(asked) == 2:  # height and width alone: which two of the three they are depends on the layout
        if _is_channels(third) or not _is_channels(first):
            return _agreed(spec, first, asked[0]), _agreed(spec, second, asked[1]), third
        return first, _agreed(spec, second, asked[0]), _agreed(spec, third, asked[1])
    told = asked[-3:]
    return _agreed(spec, first, told[0]), _agreed(spec, second, told[1]), _agreed(spec, third, told[2])


def _agreed(spec: TensorSpec, own: int | None, told: int | None) -> int | None:
    if own is not None and told is not None and own != told:
        raise InvalidInput(spec.name, f"takes {spec.describe_shape()}, and the field shape says {told} for {own}")
    return told if own is None else own


def _channels_first(spec: TensorSpec, layout: str, sides: _Sides, *, flat: bool) -> bool:
    if layout != "auto":
        return layout == "nchw"
    first, _, last = sides
    # A side that is known and no number of channels settles it; else one that is a number of channels does.
    maybe_first, maybe_last = first is None or _is_channels(first), last is None or _is_channels(last)
    if maybe_first != maybe_last:
        return maybe_first
    if maybe_first and (first is None) != (last is None):
        return first is not None
    if maybe_first and flat and last is None:
        return False
    told = ", ".join("?" if side is None else str(side) for side in sides)
    if not maybe_first:
        raise InvalidInput(spec.name, f"[{told}] is no image: neither the first nor the last is 1, 3 or 4 channels")
    raise InvalidInput(
        spec.name,
        f"[{told}] does not tell whether channels come first or last: set the model's option image_layout"
        + (" or send the field shape, such as shape=1,224,224,3" if last is None else ""),
    )


def _depth_of_rest(spec: TensorSpec, height: int | None, width: int | None) -> int:
    """The channels of a flat input, of which the client has told height and width."""
    length = spec.shape[1] if spec.shape is not None else None
    assert height is not None
    assert width is not None, "the client has told both"
    if length is None:
        raise InvalidInput(spec.name, f"its length is open: send all of the shape, such as shape={height},{width},3")
    depth, rest = divmod(length, height * width)
    if rest or not _is_channels(depth):
        raise InvalidInput(spec.name, f"takes {length} values, which are no channels of {height} by {width} pixels")
    return depth


def _channels(spec: TensorSpec, depth: int | None, option: str, asked: str | None) -> str:
    chosen = asked or (option.upper() if option != "auto" else _USUAL.get(3 if depth is None else depth))
    if chosen is None:
        raise InvalidInput(spec.name, f"takes {depth} channels: an image has 1, 3 or 4")
    if depth not in (None, DEPTHS[chosen]):
        said = "the field channel_layout" if asked else "the model's option image_channels"
        raise InvalidInput(spec.name, f"takes {depth} channels, and {said} says {chosen}, which has {DEPTHS[chosen]}")
    return chosen


def _table(spec: TensorSpec, options: ImageOptions, depth: int) -> Array:
    """The value of each pixel value, by channel if they differ."""
    for name, numbers in (("image_mean", options.mean), ("image_std", options.std)):
        if len(numbers) not in (1, depth):
            raise InvalidInput(spec.name, f"the model's option {name} has {len(numbers)} numbers for {depth} channels")
    mean, std = np.array(options.mean)[:, None], np.array(options.std)[:, None]
    values: Array = (np.arange(256.0)[None, :] * options.scale - mean) / std
    if spec.dtype.kind == "f":
        return values.astype(spec.dtype)
    values, limits = np.rint(values), np.iinfo(spec.dtype)
    low, high = values.min(), values.max()
    if low < limits.min or high > limits.max or not math.isfinite(low + high):
        raise InvalidInput(
            spec.name,
            f"pixels come to {low:g} to {high:g}, which {spec.dtype.name} does not hold: "
            "set the model's options image_scale and image_mean",
        )
    return values.astype(spec.dtype)
