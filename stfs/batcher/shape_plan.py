"""What an operator says about inputs of unlike length, and what follows for each signature of a model.

Must not live here: padding itself (``shapes``), reading nested lists of unlike length (``protocols``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stfs.batcher.shapes import Cut, PaddedInput, Padding
from stfs.errors import LoadFailed
from stfs.signature import STRING, Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """As said in the configuration; nothing of it has been held to a model yet.

    ``padded_inputs``: which inputs are padded; empty: all with a dimension past the first that varies. ``pad_values``:
    by input, ``""`` standing for all others. ``masks``: inputs with the input that each marks, ``""`` where there is
    one only. ``cuts``: what of the outputs follows which input.
    """

    pad_variable_length_inputs: bool = False
    sequence_buckets: tuple[int, ...] = ()
    padded_inputs: tuple[str, ...] = ()
    pad_values: tuple[tuple[str, str], ...] = ()
    masks: tuple[tuple[str, str], ...] = ()
    ragged_inputs: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()


NO_SHAPES = ShapeOptions()


def parse_buckets(text: str) -> tuple[int, ...]:
    """``32,64,128``. Raises :class:`ValueError`."""
    try:
        buckets = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        buckets = (0,)
    if any(low >= high for low, high in pairwise((0, *buckets))):
        raise ValueError("expected lengths of 1 or more that ascend, such as 32,64,128")
    return buckets


def parse_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """``mask=ids,other``: what is left of ``=`` and what is right; right alone of what has none is empty."""
    pairs = []
    for part in text.split(","):
        if part.strip():
            left, _, right = part.partition("=")
            pairs.append((left.strip(), right.strip()))
    if len({left for left, _ in pairs}) < len(pairs):
        raise ValueError("an input stands twice")
    return tuple(pairs)


def parse_pad_values(text: str) -> tuple[tuple[str, str], ...]:
    """``0``, or ``ids=1,types=0``: by input, under ``""`` what is said without one. Raises :class:`ValueError`."""
    values = []
    for part in text.split(","):
        if part.strip():
            name, equals, value = part.partition("=")
            values.append((name.strip(), value.strip()) if equals else ("", name.strip()))
    if len({name for name, _ in values}) < len(values):
        raise ValueError("an input has two values")
    return tuple(values)


def parse_cuts(text: str) -> tuple[Cut, ...]:
    """``logits=ids``, or with the dimensions, 1 unless said: ``logits:2=ids:1``. Raises :class:`ValueError`."""
    cuts = []
    for left, right in parse_pairs(text):
        if not right:
            raise ValueError(
                f"{left[:60]!r} follows nothing: expected OUTPUT=INPUT or OUTPUT:DIMENSION=INPUT:DIMENSION"
            )
        cuts.append(Cut(*_axis(left), *_axis(right)))
    return tuple(cuts)


def _axis(text: str) -> tuple[str, int]:
    name, colon, axis = text.rpartition(":")
    if not (colon and axis.isascii() and axis.isdigit()):
        return text, 1
    if int(axis) < 1:
        raise ValueError(f"{text!r}: dimension 0 is that of the rows, which is not padded")
    return name, int(axis)


def plan(
    options: ShapeOptions, signatures: Mapping[str, Signature], max_rows: int, path: Path
) -> tuple[dict[str, Signature], dict[str, Padding]]:
    """The signatures as requests are read by them, and the padding of those that have some. ``max_rows``: of a batch.

    Raises :class:`LoadFailed`, in a line that names ``path``, option and input, for what no signature has, and for what
    cannot be: a dimension that is fixed, a value that the dtype does not hold, a mask that does not fit.
    """
    if options == NO_SHAPES:
        return dict(signatures), {}
    try:
        return _plan(options, signatures, max_rows)
    except LoadFailed as error:
        raise LoadFailed(f"{path}: {error}") from None


def _plan(
    options: ShapeOptions, signatures: Mapping[str, Signature], max_rows: int
) -> tuple[dict[str, Signature], dict[str, Padding]]:
    names = {name for name, _ in options.pad_values if name}
    _check_there("pad_value", names, signatures)
    _check_there("padded_inputs", options.padded_inputs, signatures)
    _check_there("ragged_inputs", options.ragged_inputs, signatures)
    _check_there("mask_input", [name for pair in options.masks for name in pair if name], signatures)
    _check_there("cut_outputs", [cut.input for cut in options.cuts], signatures)
    _check_there("cut_outputs", [cut.output for cut in options.cuts], signatures, outputs=True)
    planned = {key: _Plan(options, signature, max_rows) for key, signature in signatures.items()}
    paddings = {key: one.padding for key, one in planned.items() if one.padding is not None}
    padded = [one for padding in paddings.values() for one in padding.inputs.values()]
    if options.sequence_buckets and not any(1 in one.axes for one in padded):
        raise LoadFailed(f"sequence_buckets: {_nothing_varies(signatures)}")
    _check_pad_value(options, signatures)
    if options.cuts and not paddings:
        raise LoadFailed("cut_outputs: nothing is padded: say pad_variable_length_inputs or sequence_buckets too")
    return {key: one.signature for key, one in planned.items()}, paddings


def _check_pad_value(options: ShapeOptions, signatures: Mapping[str, Signature]) -> None:
    """What is said of no input by name is looked at with each that varies; if none does, some input must have it."""
    text = dict(options.pad_values).get("")
    specs = [spec for signature in signatures.values() for spec in signature.inputs]
    if text is None or any(_axes(spec) for spec in specs) or any(_holds(spec, text) for spec in specs):
        return
    raise LoadFailed(f"pad_value: no input has the value {text!r}, and nothing is padded: no input's length varies")


def _holds(spec: TensorSpec, text: str) -> bool:
    try:
        pad_value(spec.dtype, text)
    except (ValueError, OverflowError):
        return False
    return True


def _check_there(
    option: str, names: Iterable[str], signatures: Mapping[str, Signature], *, outputs: bool = False
) -> None:
    kind = "output" if outputs else "input"
    known = {spec.name for each in signatures.values() for spec in (each.outputs if outputs else each.inputs)}
    for name in names:
        if name not in known:
            told = ", ".join(f'"{one}"' for one in sorted(known))
            raise LoadFailed(f'{option}: the model has no {kind} "{name}"; it has {told}')


def _nothing_varies(signatures: Mapping[str, Signature]) -> str:
    if not any(signature.batchable for signature in signatures.values()):
        return "the model's rows do not stack, so nothing is padded"
    return "dimension 1 varies in no input that is padded"


def _axes(spec: TensorSpec) -> tuple[int, ...]:
    """The dimensions past the first that vary."""
    return tuple(axis for axis, size in enumerate(spec.shape or ()) if axis and size is None)


class _Plan:
    """One signature's part."""

    def __init__(self, options: ShapeOptions, signature: Signature, max_rows: int) -> None:
        self._options = options
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._signature = signature
        self._masks = dict(self._each_mask())
        for option in ("padded_inputs", "ragged_inputs"):
            for name in getattr(options, option):
                if name in self._specs:
                    self._check_varies(option, name)
        for name in dict(options.pad_values):
            if name in self._specs:
                self._check_varies("pad_value", name)
        ragged = {name for name in options.ragged_inputs if name in self._specs}
        ragged |= {mask for mask, of in self._masks.items() if of in ragged}
        values = {name: self._value(spec) for name, spec in self._specs.items() if _axes(spec)}
        inputs = tuple(
            replace(
                spec,
                mask_of=self._masks.get(name, ""),
                ragged=name in ragged,
                pad_value=None if values.get(name) is None else self._text(name),
            )
            for name, spec in self._specs.items()
        )
        self.signature = replace(signature, inputs=inputs)
        self.padding = self._padding(values, max_rows)

    def _padding(self, values: Mapping[str, Any], max_rows: int) -> Padding | None:
        options = self._options
        if not (options.pad_variable_length_inputs or options.sequence_buckets) or not self._signature.batchable:
            return None
        chosen = options.padded_inputs or tuple(values)
        chosen = tuple(name for name in self._specs if name in chosen or self._masks.get(name) in chosen)
        inputs = {name: PaddedInput(_axes(self._specs[name]), values.get(name)) for name in chosen}
        inputs = {
            name: replace(one, mask_of=self._masks[name]) if self._masks.get(name) in chosen else one
            for name, one in inputs.items()
        }
        cuts = tuple(cut for cut in options.cuts if self._applies(cut, inputs))
        if not inputs:
            return None
        return Padding(inputs, options.sequence_buckets, options.pad_variable_length_inputs, cuts, max_rows)

    def _applies(self, cut: Cut, inputs: Mapping[str, PaddedInput]) -> bool:
        outputs = {spec.name: spec for spec in self._signature.outputs}
        if cut.output not in outputs or cut.input not in self._specs:
            return False
        if cut.input not in inputs or cut.input_axis not in inputs[cut.input].axes:
            told = self._specs[cut.input].describe_shape()
            raise LoadFailed(f'cut_outputs: dimension {cut.input_axis} of input "{cut.input}", {told}, is not padded')
        spec = outputs[cut.output]
        if spec.shape is not None and (len(spec.shape) <= cut.axis or spec.shape[cut.axis] is not None):
            told = spec.describe_shape()
            raise LoadFailed(f'cut_outputs: dimension {cut.axis} of output "{cut.output}", {told}, does not vary')
        return True

    def _each_mask(self) -> Iterable[tuple[str, str]]:
        names = {mask for mask, _ in self._options.masks}
        for mask, of in self._options.masks:
            if mask not in self._specs:
                continue
            varying = [name for name, spec in self._specs.items() if _axes(spec) and name not in names]
            if not of:
                if len(varying) != 1:
                    told = " or ".join(f"{mask}={name}" for name in varying) or "which none can be, for none varies"
                    raise LoadFailed(f'mask_input: say which input "{mask}" is the mask of: {told}')
                (of,) = varying
            if of in self._specs:
                self._check_mask(mask, of)
                yield mask, of

    def _check_mask(self, mask: str, of: str) -> None:
        self._check_varies("mask_input", of)
        spec, masked = self._specs[mask], self._specs[of]
        assert masked.shape is not None, "it varies, so it is known"
        if spec.dtype.kind not in "biuf":
            raise LoadFailed(f'mask_input: "{mask}" is of {spec.dtype_name}, and a mask holds 0 and 1')
        rank = len(spec.shape or ())
        fits = spec.shape is not None and 1 < rank <= len(masked.shape) and _axes(masked)[-1] < rank
        if not fits or spec.shape is None or spec.shape[1:] != masked.shape[1:rank]:
            told = f'{spec.describe_shape()} does not go with {masked.describe_shape()} of "{of}"'
            raise LoadFailed(f'mask_input: the shape of "{mask}", {told}')

    def _check_varies(self, option: str, name: str) -> None:
        spec = self._specs[name]
        if not _axes(spec):
            raise LoadFailed(f'{option}: input "{name}" is {spec.describe_shape()}: no dimension past the first varies')

    def _text(self, name: str) -> str | None:
        values = dict(self._options.pad_values)
        return values.get(name, values.get(""))

    def _value(self, spec: TensorSpec) -> Any:
        """What the input is padded with, of its dtype; ``None`` where it is not said."""
        text = self._text(spec.name)
        if text is None or spec.name in self._masks:
            return None
        try:
            return pad_value(spec.dtype, text)
        except (ValueError, OverflowError):
            raise LoadFailed(f'pad_value: input "{spec.name}" is of {spec.dtype_name}, which has no {text!r}') from None


def pad_value(dtype: np.dtype[Any], text: str) -> Any:
    """``text`` as an element of ``dtype``. Raises :class:`ValueError` or :class:`OverflowError`."""
    if dtype == STRING:
        return text.encode()
    if dtype.kind == "b":
        return ("false", "true").index({"0": "false", "1": "true"}.get(text, text.lower())) == 1
    if dtype.kind in "iu":
        value = int(text)
        if not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            raise OverflowError
        return dtype.type(value)
    return dtype.type(float(text))
