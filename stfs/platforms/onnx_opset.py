"""ONNX models of opsets 1 to 6, made into the same models of opset 7, the oldest that onnxruntime runs whole.

Owns telling such a file from others, without any package, and the messages. What changed in each operator is said in
:mod:`stfs.platforms.onnx_opset_rules`. Must not live here: sessions; anything newer than opset 7.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed
from stfs.platforms.base import one_line
from stfs.platforms.onnx_opset_rules import OLDEST, NotUpgraded, upgrade_graph

logger = logging.getLogger(__name__)


def is_old(file: Path) -> bool:
    """Whether the file is an ONNX model below opset 7. Reads a few bytes, needs no package, never raises."""
    opset = opset_of(file)
    return opset is not None and 0 < opset < OLDEST


def opset_of(file: Path) -> int | None:
    """The version of ONNX's operators that the model uses; ``None`` if the file is no such model, or does not say.

    Before the third version of its format, ONNX had one set of operators and files did not say: that is 1.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            ir_version, graph, found = 0, False, None
            for number, value in _fields(content, 0, len(content)):
                graph |= number == 7
                if number == 1 and isinstance(value, int):
                    ir_version = value
                elif number == 8 and isinstance(value, range):
                    entry = dict(_fields(content, value.start, value.stop))
                    domain, version = entry.get(1, range(0)), entry.get(2, 1)
                    named = content[domain.start : domain.stop] if isinstance(domain, range) else b"?"
                    if named in (b"", b"ai.onnx") and isinstance(version, int):
                        found = version
            if found is None and ir_version < 3:
                found = 1
            return found if graph else None
    except (OSError, ValueError, IndexError):
        return None


def _fields(content: Any, start: int, stop: int) -> Iterator[tuple[int, int | range]]:
    """The fields of a protobuf message: its numbers with integers, or with the places where their bytes lie."""
    at = start

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return int(value)
            if shift > 63:
                raise ValueError("no varint")

    while at < stop:
        key = varint()
        match key & 7:
            case 0:
                yield key >> 3, varint()
            case 2:
                length = varint()
                if at + length > stop:
                    raise ValueError("cut off")
                yield key >> 3, range(at, at + length)
                at += length
            case 1 | 5:
                at += 8 if key & 7 == 1 else 4
            case _:
                raise ValueError("no protobuf")


def upgraded(file: Path, runtime: str) -> bytes:
    """The model in ``file`` at opset 7; blocking. Weights in external files stay there.

    Raises :class:`LoadFailed` without the ``onnx`` package, and naming operator and node where one has no equal.
    """
    opset = opset_of(file)
    try:
        import onnx
    except ImportError as error:
        raise LoadFailed(
            f"{file}: is of opset {opset}, and {runtime} runs {OLDEST} and newer: "
            "run pip install onnx, and it is upgraded when it is loaded"
        ) from error
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:
        raise LoadFailed(f"{file}: is damaged, or not an ONNX model: {one_line(error)}") from error
    try:
        upgrade(model)
    except NotUpgraded as error:
        raise LoadFailed(f"{file}: cannot be upgraded from opset {opset} to {OLDEST}: {error}") from error
    logger.info("%s: was upgraded from opset %s to %d in memory", file, opset, OLDEST)
    return bytes(model.SerializeToString())


def upgrade(model: Any) -> None:
    """Makes an ``onnx.ModelProto`` of opset 1 to 6 one of opset 7, in place.

    Raises :class:`NotUpgraded` naming operator and node.
    """
    import onnx

    upgrade_graph(model.graph)
    versions = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    for entry in versions:
        entry.version = OLDEST
    if not versions:
        model.opset_import.append(onnx.helper.make_opsetid("", OLDEST))
    # From 4 on, weights need not be inputs as well; those that are would be changeable, which forbids optimising.
    model.ir_version = max(model.ir_version, 4)
