"""Which part of a picture is drawn at which size, when its form is not the model's. Pure functions of numbers."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height, in pixels."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The part ``left``, ``top``, ``right``, ``bottom`` of the picture, from its middle, becomes ``drawn`` pixels.

    ``drawn`` is the size of the whole result, or less, in its middle, with black around it.
    """

    box: tuple[float, float, float, float]
    drawn: Size

    def wanted(self, size: Size) -> Size:
        """The size that all of a picture of ``size`` would have, drawn at this scale."""
        left, top, right, bottom = self.box
        return round(size[0] * self.drawn[0] / (right - left)), round(size[1] * self.drawn[1] / (bottom - top))


def frame(size: Size, target: Size, resize: str) -> Frame:
    """How a picture of ``size`` fills ``target``: ``resize`` as in :class:`stfs.images.options.ImageOptions`."""
    width, height = size
    across, down = target[0] / width, target[1] / height
    if resize == "crop":
        scale = max(across, down)
        left, top = (width - target[0] / scale) / 2, (height - target[1] / scale) / 2
        # Rounding must not leave the picture, not even by the last bit of a float.
        return Frame((max(left, 0.0), max(top, 0.0), min(width - left, width), min(height - top, height)), target)
    drawn = target
    if resize == "pad":
        scale = min(across, down)
        drawn = min(target[0], max(1, round(width * scale))), min(target[1], max(1, round(height * scale)))
    return Frame((0.0, 0.0, float(width), float(height)), drawn)
