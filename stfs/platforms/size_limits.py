"""Which sizes of its inputs a compiled model takes. Values and a pure check of them; knows no framework.

A size that varies is a symbol, or a multiple of one; sizes with the same symbol go together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stfs.errors import InvalidInput
from stfs.signature import Array


@dataclass(frozen=True, slots=True)
class OpenSize:
    """A size that varies: dimension ``axis`` of ``input_name`` is ``factor * symbol + offset``."""

    input_name: str
    axis: int
    symbol: str
    factor: int
    offset: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The values that a symbol may have; ``most`` is ``None`` where there is no limit."""

    least: int
    most: int | None

    def describe(self) -> str:
        """``2 to 32``; ``at least 2``."""
        return f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"


def check_sizes(inputs: Mapping[str, Array], sizes: Sequence[OpenSize], limits: Mapping[str, Limits]) -> None:
    """Raises :class:`InvalidInput` for a size that its symbol cannot have, or two that differ and must not."""
    found: dict[str, tuple[int, OpenSize]] = {}
    for size in sizes:
        have = inputs[size.input_name].shape[size.axis]
        value, left = divmod(have - size.offset, size.factor)
        where = f"dimension {size.axis} is {have}"
        if left:
            told = f"{size.factor} times a whole number" + (f" plus {size.offset}" if size.offset else "")
            raise InvalidInput(size.input_name, f"{where}, and must be {told}")
        first, whose = found.setdefault(size.symbol, (value, size))
        if first != value:
            other = f'dimension {whose.axis} of "{whose.input_name}"'
            raise InvalidInput(size.input_name, f"{where}, which does not go with {other}")
        allowed = limits.get(size.symbol)
        if allowed and (value < allowed.least or (allowed.most is not None and value > allowed.most)):
            by = Limits(
                allowed.least * size.factor + size.offset,
                None if allowed.most is None else allowed.most * size.factor + size.offset,
            )
            raise InvalidInput(size.input_name, f"{where}, and must be {by.describe()}")
