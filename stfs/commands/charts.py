"""Line charts and columns as SVG text, for pages that are files of their own: no script, nothing fetched. Pure.

Colours are the page's to say, by the classes ``line0``, ``line1``, ``columns``, ``grid`` and ``axis``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 72, 28, 14, 46


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis says: ``ticks`` are pairs of a place and its text, within ``low`` to ``high``."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str

    def share(self, value: float) -> float:
        """How far along ``value`` lies, 0 to 1."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """A line through ``points``, in the units of the axes; ``stepped``: each value holds until the next point."""

    name: str
    points: Sequence[tuple[float, float]]
    stepped: bool = False


def linear_axis(most: float, title: str, count: int = 5) -> Axis:
    """From 0 to a round number that ``most`` does not exceed."""
    step = round_up(most / count if most > 0 else 1.0)
    steps = max(1, math.ceil(most / step - 1e-9))
    ticks = tuple((i * step, number(i * step)) for i in range(steps + 1))
    return Axis(0.0, steps * step, ticks, title)


def log_axis(least: float, most: float, title: str) -> Axis:
    """In powers of ten that hold ``least`` to ``most``, both over 0; places are decimal logarithms."""
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most) - 1e-9)
    high = max(high, low + 1)
    return Axis(low, high, tuple((float(e), number(10.0**e)) for e in range(low, high + 1)), title)


def round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten; ``value`` is over 0."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1.0, 2.0, 2.5, 5.0) if m * power >= value * (1 - 1e-9)), 10 * power)


def number(value: float) -> str:
    """Four significant digits, thousands apart."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """A chart with a legend where there are several lines."""
    parts = _frame(title, x, y)
    for index, line in enumerate(lines):
        places = [(_x(x, a), _y(y, b)) for a, b in line.points]
        path = ""
        for i, (a, b) in enumerate(places):
            path += f"M{a:.1f} {b:.1f}" if not i else (f"H{a:.1f}V{b:.1f}" if line.stepped else f"L{a:.1f} {b:.1f}")
        parts.append(f'<path class="line line{index}" d="{path}"/>')
        if len(lines) > 1:
            at = LEFT + 14 + 190 * index
            parts.append(f'<path class="line line{index}" d="M{at} {TOP + 8}h18"/>')
            parts.append(f'<text class="axis" x="{at + 24}" y="{TOP + 12}">{html.escape(line.name)}</text>')
    return _svg(parts)


def column_chart(title: str, x: Axis, y: Axis, columns: Sequence[tuple[float, float, float]]) -> str:
    """Columns ``(from, to, height)`` in the units of the axes."""
    parts = _frame(title, x, y)
    floor = _y(y, y.low)
    for begin, end, height in columns:
        left, top = _x(x, begin), _y(y, height)
        width = max(_x(x, end) - left - 0.6, 0.8)
        parts.append(
            f'<rect class="columns" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{floor - top:.1f}"/>'
        )
    return _svg(parts)


def _frame(title: str, x: Axis, y: Axis) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f"<title>{html.escape(title)}</title>"]
    for value, text in y.ticks:
        at = _y(y, value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="axis" text-anchor="end" x="{LEFT - 6}" y="{at + 4:.1f}">{html.escape(text)}</text>')
    for value, text in x.ticks:
        at = _x(x, value)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(
            f'<text class="axis" text-anchor="middle" x="{at:.1f}" y="{bottom + 18}">{html.escape(text)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" text-anchor="middle" x="{middle}" y="{HEIGHT - 8}">{html.escape(x.title)}</text>')
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)">'
        f"{html.escape(y.title)}</text>"
    )
    return parts


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - RIGHT - LEFT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - BOTTOM - TOP)


def _svg(parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
