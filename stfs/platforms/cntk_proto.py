"""CNTK's model files, version 2: a protobuf of nested dictionaries. Reads inputs' axes, and adds one to them.

The messages are described here rather than compiled from a ``.proto``, for only a few of their fields matter; fields
that are not described are kept as they are. Must not live here: loading into CNTK.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

BATCH, SEQUENCE = "defaultBatchAxis", "defaultDynamicAxis"
INPUT, PLACEHOLDER = 0, 4
"""Kinds of variables whose axes say how they are fed; those of all others follow."""

PACKAGE = "stfs.cntk"
MESSAGES = {
    "Axis": {"static_axis_idx": (1, "int32"), "name": (2, "string"), "is_ordered_dynamic_axis": (3, "bool")},
    "Vector": {"value": (1, "*DictionaryValue")},
    "DictionaryValue": {
        "size_t_value": (5, "uint64"),
        "string_value": (8, "string"),
        "axis_value": (10, "Axis"),
        "vector_value": (11, "Vector"),
        "dictionary_value": (12, "Dictionary"),
    },
    "DataEntry": {"key": (1, "string"), "value": (2, "DictionaryValue")},
    "Dictionary": {"data": (2, "*DataEntry")},
}
"""Fields by message: number and type, ``*`` for repeated ones. Maps are repeated entries on the wire."""


@cache
def _dictionary_class() -> Any:
    """Raises ``ImportError`` without the ``protobuf`` package."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="stfs/cntk.proto", package=PACKAGE, syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number)
            field.label = field_type.LABEL_REPEATED if kind.startswith("*") else field_type.LABEL_OPTIONAL
            kind = kind.removeprefix("*")
            if kind in MESSAGES:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Dictionary"))


class ModelMessage:
    """The content of a model file."""

    def __init__(self, file: Path) -> None:
        """Blocking. Raises ``ValueError`` for a file that is not CNTK's, ``OSError`` and ``ImportError``."""
        from google.protobuf.message import DecodeError

        self._message = _dictionary_class()()
        try:
            self._message.ParseFromString(file.read_bytes())
        except DecodeError as error:
            raise ValueError(f"it is damaged or incomplete: {error}") from None
        if not {"inputs", "root"} <= {entry.key for entry in self._message.data}:
            raise ValueError("it holds no graph")

    def input_axes(self) -> dict[str, list[str]]:
        """The names of the dynamic axes of each input by its name, innermost first; that of the batch is the last."""
        inputs = (variable for variable in self._fed() if _size(variable, "kind") == INPUT)
        return {_value(variable, "name").string_value: _axes(variable) for variable in inputs}

    def add_sequence_axis(self) -> bytes:
        """The file with inputs that have a batch axis only turned into sequences, so that one call takes many rows."""
        for variable in self._fed():
            if _axes(variable) == [BATCH]:
                axes = _value(variable, "dynamic_axis").vector_value.value
                batch = type(axes[0])()
                batch.CopyFrom(axes[0])
                axes[0].axis_value.name = SEQUENCE
                axes[0].axis_value.is_ordered_dynamic_axis = True
                axes.add().CopyFrom(batch)
        return bytes(self._message.SerializeToString())

    def _fed(self) -> Iterator[Any]:
        return (variable for variable in _variables(self._message) if _size(variable, "kind") in (INPUT, PLACEHOLDER))


def _variables(dictionary: Any) -> Iterator[Any]:
    """The dictionaries of all variables, those of graphs within the graph too."""
    if _value(dictionary, "type").string_value == "Variable":
        yield dictionary
    for entry in dictionary.data:
        value = entry.value
        if value.HasField("dictionary_value"):
            yield from _variables(value.dictionary_value)
        for item in value.vector_value.value:
            if item.HasField("dictionary_value"):
                yield from _variables(item.dictionary_value)


def _value(dictionary: Any, key: str) -> Any:
    """The value at ``key``, an empty one if there is none."""
    for entry in dictionary.data:
        if entry.key == key:
            return entry.value
    return _dictionary_class()().data.add().value


def _size(dictionary: Any, key: str) -> int:
    value = _value(dictionary, key)
    return int(value.size_t_value) if value.HasField("size_t_value") else -1


def _axes(variable: Any) -> list[str]:
    return [item.axis_value.name for item in _value(variable, "dynamic_axis").vector_value.value]
