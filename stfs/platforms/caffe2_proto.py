"""Reading Caffe2's ``NetDef`` files, binary or text. Owns the wire format and the files' names.

Caffe2 itself is not needed: the few messages are described here at run time, in a pool and a package of their own, so
that they meet no other ``caffe2`` messages in the process. Must not live here: what operators mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import LoadFailed
from stfs.platforms.base import one_line
from stfs.signature import Array

PACKAGE = "stfs.caffe2"
ENDINGS = (".pb", ".pbtxt")
INIT, PREDICT = "init_net", ("predict_net", "exec_net")

# Numbers of caffe2.proto's TensorProto.DataType.
DTYPES: Mapping[int, np.dtype[Any]] = {
    1: np.dtype("float32"),
    2: np.dtype("int32"),
    3: np.dtype("uint8"),
    5: np.dtype("bool"),
    6: np.dtype("uint8"),
    7: np.dtype("int8"),
    8: np.dtype("uint16"),
    9: np.dtype("int16"),
    10: np.dtype("int64"),
    12: np.dtype("float16"),
    13: np.dtype("float64"),
}
DTYPE_NAMES: Mapping[str, int] = {
    "FLOAT": 1, "INT32": 2, "BYTE": 3, "BOOL": 5, "UINT8": 6, "INT8": 7, "UINT16": 8, "INT16": 9, "INT64": 10,
    "FLOAT16": 12, "DOUBLE": 13,
}  # fmt: skip

# (field, number, type, repeated), and the types by the names that descriptor.proto gives them.
_MESSAGES: Mapping[str, Sequence[tuple[str, int, str, bool]]] = {
    "Argument": (
        ("name", 1, "STRING", False),
        ("f", 2, "FLOAT", False),
        ("i", 3, "INT64", False),
        ("s", 4, "BYTES", False),
        ("floats", 5, "FLOAT", True),
        ("ints", 6, "INT64", True),
        ("strings", 7, "BYTES", True),
    ),
    "OperatorDef": (
        ("input", 1, "STRING", True),
        ("output", 2, "STRING", True),
        ("name", 3, "STRING", False),
        ("type", 4, "STRING", False),
        ("arg", 5, "Argument", True),
    ),
    "NetDef": (
        ("name", 1, "STRING", False),
        ("op", 2, "OperatorDef", True),
        ("external_input", 7, "STRING", True),
        ("external_output", 8, "STRING", True),
    ),
}


class Args:
    """The arguments of an operator. Every getter takes what stands there where no such argument does."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self._named = {argument.name: argument for argument in arguments}

    def __contains__(self, name: str) -> bool:
        return name in self._named

    def integer(self, name: str, default: int) -> int:
        """An ``i``; also an ``f``, as some writers put whole numbers."""
        argument = self._named.get(name)
        if argument is None:
            return default
        return int(argument.f) if argument.HasField("f") and not argument.HasField("i") else int(argument.i)

    def number(self, name: str, default: float) -> float:
        """An ``f``; also an ``i``."""
        argument = self._named.get(name)
        if argument is None:
            return default
        return float(argument.i) if argument.HasField("i") and not argument.HasField("f") else float(argument.f)

    def text(self, name: str, default: str) -> str:
        """An ``s``."""
        argument = self._named.get(name)
        return default if argument is None else bytes(argument.s).decode(errors="replace")

    def integers(self, name: str) -> list[int]:
        """``ints``; empty where there are none."""
        argument = self._named.get(name)
        return [] if argument is None else [int(v) for v in argument.ints]

    def dtype(self, name: str, default: int) -> np.dtype[Any] | None:
        """A ``TensorProto.DataType``, as a number or as its name; ``None`` for one that is no tensor of numbers."""
        argument = self._named.get(name)
        said = argument is not None and argument.HasField("s")
        number = DTYPE_NAMES.get(self.text(name, "").upper(), 0) if said else self.integer(name, default)
        return DTYPES.get(number)

    def values(self, name: str, dtype: np.dtype[Any]) -> Array:
        """``floats`` or ``ints`` as a flat array of ``dtype``."""
        argument = self._named.get(name)
        if argument is None:
            return np.empty(0, dtype)
        count = len(argument.floats)
        if not count:
            return np.fromiter(argument.ints, dtype, len(argument.ints))
        alone = type(argument)()
        alone.floats.MergeFrom(argument.floats)
        # The field is described as packed, so its numbers end what is written; picking them one by one takes minutes.
        return np.frombuffer(alone.SerializeToString()[-4 * count :], "<f4").astype(dtype)

    def string(self, name: str) -> bytes:
        """The first of ``strings``; empty where there are none."""
        argument = self._named.get(name)
        return bytes(argument.strings[0]) if argument is not None and len(argument.strings) else b""


@dataclass(frozen=True, slots=True)
class OperatorDef:
    """One operator; ``position`` counts from 1 in its net."""

    position: int
    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    args: Args

    def __str__(self) -> str:
        called = self.name or (self.outputs[0] if self.outputs else "")
        return f'operator {self.position} "{called}" ({self.type})'


@dataclass(frozen=True, slots=True)
class Net:
    """A net, and the file it was read from, for messages."""

    path: Path
    name: str
    operators: tuple[OperatorDef, ...]
    external_inputs: tuple[str, ...]
    external_outputs: tuple[str, ...]


def read_net(path: Path) -> Net:
    """The net in ``path``, as text if its name ends in ``.pbtxt``.

    Raises :class:`LoadFailed` for a file that cannot be read, is damaged, or holds no operators. A file that breaks off
    between two operators still reads; the blobs that it lacks are missed when the net is converted.
    """
    message = net_message()()
    try:
        if path.suffix == ".pbtxt":
            from google.protobuf import text_format

            text_format.Parse(path.read_text(encoding="utf-8"), message, allow_unknown_field=True)
        else:
            message.ParseFromString(path.read_bytes())
    except OSError as error:
        raise LoadFailed(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # protobuf's errors differ in kind between its implementations
        raise LoadFailed(f"{path}: is damaged, or not a Caffe2 net: {one_line(error)}") from error
    operators = tuple(
        OperatorDef(i, op.type, op.name, tuple(op.input), tuple(op.output), Args(op.arg))
        for i, op in enumerate(message.op, 1)
    )
    if not operators or not all(op.type for op in operators):
        raise LoadFailed(f"{path}: is damaged, or not a Caffe2 net: it holds no operators that have a type")
    return Net(path, message.name, operators, tuple(message.external_input), tuple(message.external_output))


def net_pairs(path: Path) -> list[tuple[Path, Path]]:
    """The pairs (init, predict) of net files at ``path``: a folder, or one file of a pair.

    ``init_net.pb`` goes with ``predict_net.pb`` or ``exec_net.pb`` of the same prefix (``squeezenet_init_net.pb``), and
    either may be text, ``.pbtxt``. An unreadable path gives an empty list.
    """
    try:
        folder = path if path.is_dir() else path.parent
        files = sorted(file for file in folder.iterdir() if file.suffix in ENDINGS and not file.name.startswith("."))
    except OSError:
        return []

    def named(kind: str) -> dict[str, Path]:
        # Binary first, so that it is the one kept: it is the same net, and faster to read.
        ranked = sorted(files, key=lambda file: ENDINGS.index(file.suffix), reverse=True)
        return {file.stem.removesuffix(kind): file for file in ranked if file.stem.endswith(kind)}

    inits = named(INIT)
    predicts = {prefix: file for kind in reversed(PREDICT) for prefix, file in named(kind).items()}
    pairs = [(inits[prefix], predicts[prefix]) for prefix in sorted(inits) if prefix in predicts]
    return pairs if path.is_dir() else [pair for pair in pairs if path in pair]


@cache
def net_message() -> Any:
    """The class of ``NetDef`` messages, made once a process."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="stfs/caffe2.proto", package=PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _MESSAGES:
                message.field.add(
                    name=field, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=f".{PACKAGE}.{kind}"
                )
            else:
                made = message.field.add(name=field, number=number, label=label, type=kinds.Type.Value(f"TYPE_{kind}"))
                made.options.packed = repeated and kind == "FLOAT"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.NetDef"))
