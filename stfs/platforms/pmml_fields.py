"""Fields of a PMML model as the columns of a signature, and values on their way to Java and back.

Of the PMML standard: DataDictionary (types and domains) and MiningSchema (missing and invalid value treatment). Must
not live here: calls that evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed
from stfs.platforms.base import object_array
from stfs.signature import STRING, Array, Tensors, TensorSpec

FLOAT: np.dtype[Any] = np.dtype("float64")
BOOLEAN: np.dtype[Any] = np.dtype("bool")

# PMML's data types that are numbers; all the others (dates, times, durations) are told as text.
OUTPUT_DTYPES: Mapping[str, np.dtype[Any]] = {
    "double": FLOAT,
    "float": np.dtype("float32"),
    "integer": np.dtype("int64"),
    "boolean": BOOLEAN,
}
NUMBERS = ("double", "float", "integer")

UNNAMED_TARGET = "prediction"
"""The output of a model whose file names no target."""

MAX_TOLD = 20


@dataclass(frozen=True, slots=True)
class Fields:
    """What goes in and comes out. ``names`` are PMML's names of the outputs, ``None`` for a target without a name.

    ``java_inputs`` are jpmml-evaluator's own descriptions; ``domains`` tell what a field may hold, for people.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    names: tuple[str | None, ...]
    domains: Mapping[str, str]
    java_inputs: Sequence[Any] = field(repr=False, compare=False)

    def columns_of(self, inputs: Mapping[str, Array]) -> dict[str, list[Any]]:
        """Arrays as lists of Python values by field, ``None`` where a value is missing."""
        return {spec.name: _to_java(spec, inputs[spec.name]) for spec in self.inputs}

    def outputs_of(self, columns: Mapping[str | None, Sequence[Any]], rows: int) -> Tensors:
        """Lists by PMML's name as the arrays of the signature."""
        empty: Sequence[Any] = [None] * rows
        return {
            spec.name: _from_java(spec, columns.get(name, empty))
            for spec, name in zip(self.outputs, self.names, strict=True)
        }

    def refusal(self, name: str, value: Any) -> str:
        """Why ``value`` is not for the field ``name``, in words."""
        if value is None:
            return "a value is missing, and the model needs one"
        domain = self.domains.get(name)
        return f"{value!r} is not valid here" + (f": it takes {domain}" if domain else "")

    def without_java(self) -> Fields:
        """The same without what would keep the model in Java's memory."""
        return replace(self, java_inputs=())


def read_fields(evaluator: Any, file: Path) -> Fields:
    """The fields of an evaluator. Raises :class:`LoadFailed` if there are none of either."""
    java_inputs = list(evaluator.getInputFields())
    inputs = tuple(_input(java) for java in java_inputs)
    results = [*evaluator.getTargetFields(), *evaluator.getOutputFields()]
    named: dict[str, tuple[TensorSpec, str | None]] = {}
    for java in results:
        pmml_name = None if java.getName() is None else str(java.getName())
        name = pmml_name or UNNAMED_TARGET
        named.setdefault(name, (TensorSpec(name, _output_dtype(java), (None,), doc=_kind(java)), pmml_name))
    if not inputs or not named:
        raise LoadFailed(f"{file}: the model has no {'outputs' if inputs else 'inputs'}")
    specs, names = zip(*named.values(), strict=True)
    domains = {str(java.getName()): _domain(java) for java in java_inputs}
    return Fields(inputs, specs, names, {name: told for name, told in domains.items() if told}, java_inputs)


def _input(java: Any) -> TensorSpec:
    name, kind = str(java.getName()), str(java.getDataType().value())
    nullable = str(_treatment(java, "Missing")) != "returnInvalid"
    values = _values(java)
    dtype: np.dtype[Any] = STRING
    if kind == "boolean":
        dtype, nullable = BOOLEAN, False
    elif kind in NUMBERS and not values:
        # Integers too, for an integer tensor has no room for what is missing.
        dtype = FLOAT
    strict = dtype == STRING and str(_treatment(java, "Invalid")) == "returnInvalid"
    told = [_kind(java), _domain(java) if not strict else ""]
    if replacement := java.getMiningField().getMissingValueReplacement():
        told.append(f"missing is {replacement}")
    return TensorSpec(
        name,
        dtype,
        (None,),
        doc=", ".join(part for part in told if part),
        nullable=nullable,
        values=tuple(values) if strict else (),
    )


def _treatment(java: Any, what: str) -> str:
    """``missingValueTreatment`` or ``invalidValueTreatment`` of a field; the latter is ``returnInvalid`` by default."""
    found = getattr(java.getMiningField(), f"get{what}ValueTreatment")()
    return "" if found is None else str(found.value())


def _values(java: Any) -> list[str]:
    """The valid values of a categorical or ordinal field, as text; empty if they are open."""
    domain = java.getDiscreteDomain()
    return [] if domain is None else [str(value) for value in domain]


def _domain(java: Any) -> str:
    """What a field may hold, in words: ``one of "a", "b"`` or ``4.3 to 7.9``; empty if anything."""
    if values := _values(java):
        told = ", ".join(f'"{value}"' for value in values[:MAX_TOLD])
        return f"one of {told}" + (f" and {len(values) - MAX_TOLD} more" if len(values) > MAX_TOLD else "")
    ranges = java.getContinuousDomain()
    if ranges is None or ranges.isEmpty():
        return ""
    return " or ".join(str(each).replace("..", " to ") for each in ranges.asRanges())


def _kind(java: Any) -> str:
    """``continuous double``; empty where the file does not say."""
    told = (java.getOpType(), java.getDataType())
    return " ".join(str(each.value()) for each in told if each is not None)


def _output_dtype(java: Any) -> np.dtype[Any]:
    kind = java.getDataType()
    return OUTPUT_DTYPES.get("" if kind is None else str(kind.value()), STRING)


def _to_java(spec: TensorSpec, values: Array) -> list[Any]:
    flat: list[Any] = values.tolist()
    if spec.dtype == STRING:
        try:
            return [value.decode() or None for value in flat]
        except UnicodeDecodeError as error:
            raise InvalidInput(spec.name, f"not UTF-8: {error}") from error
    if spec.dtype == FLOAT and np.isnan(values).any():
        return [None if value != value else value for value in flat]
    return flat


def _from_java(spec: TensorSpec, values: Sequence[Any]) -> Array:
    if spec.dtype == STRING:
        return object_array([b"" if value is None else _text(value) for value in values], (len(values),))
    if spec.dtype.kind == "f":
        return np.array([np.nan if value is None else value for value in values], spec.dtype)
    if any(value is None for value in values):
        raise InvalidRequest(f'the model has no "{spec.name}" for a row, and {spec.dtype_name} has no missing value')
    return np.array(values, spec.dtype)


def _text(value: Any) -> bytes:
    told: Callable[[Any], str] = _java_text if isinstance(value, (bool, float)) else str
    return told(value).encode()


def _java_text(value: bool | float) -> str:
    """As PMML writes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
