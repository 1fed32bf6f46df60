"""Signatures that stand in a JSON file beside the model, for files that do not tell their own names, dtypes and shapes.

The form is the one that exports of MXNet and ONNX models carry as ``<prefix>-signature.json``::

    {"inputs": [{"name": "x", "dtype": "float32", "shape": [null, 4]}], "outputs": [{"name": "y", "shape": [null, 2]}]}

``data_name`` and ``data_shape`` are read for ``name`` and ``shape``; ``null`` and -1 stand for a dimension that varies;
``dtype`` is float32 where it is not said. A tensor may have ``doc``, a text, ``nullable``, true or false, and
``values``, a list of texts, as :class:`stfs.signature.TensorSpec` has them. Beside the two, ``"batchable": false`` says
that rows do not stack. Other keys are ignored. Must not live here: what a model's own files tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.signature import STRING, Shape, Signature, TensorSpec

SUFFIX = "-signature.json"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a signature file says; ``path`` is where it was read, for messages.

    ``batchable`` false says that rows do not stack, whatever the shapes are; of a platform's own it is the model that
    tells.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool = True


def find_sidecar(model: Path, options: LoadOptions, prefix: str = "") -> Sidecar | None:
    """The signature file for the model file or folder ``model``; ``None`` if there is none.

    In this order: the one that the user named; ``<prefix>-signature.json``, with the model file's stem where no
    ``prefix`` is given; ``signature.json``; the only ``*-signature.json`` of the folder.
    Raises :class:`LoadFailed` for one that cannot be read or says nothing usable.
    """
    if options.signature_file is not None:
        return read_sidecar(options.signature_file)
    folder = model if model.is_dir() else model.parent
    named = [folder / f"{prefix or model.stem}{SUFFIX}", folder / "signature.json"]
    found = next((file for file in named if file.is_file()), None)
    if found is None:
        others = [file for file in sorted(folder.glob(f"*{SUFFIX}")) if file.is_file()]
        found = others[0] if len(others) == 1 else None
    return None if found is None else read_sidecar(found)


def read_sidecar(path: Path) -> Sidecar:
    """The signature file at ``path``. Raises :class:`LoadFailed` naming the file, the key and what was wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadFailed(f"{path}: cannot read the signature file: {error.strerror}") from None
    except ValueError as error:
        raise LoadFailed(f"{path}: the signature file is not JSON: {error}") from None
    return parse_sidecar(content, path)


def parse_sidecar(content: Any, path: Path) -> Sidecar:
    """The same from its content, which was found at ``path``: inside a model's file, say. Raises as above."""
    if not isinstance(content, dict):
        raise LoadFailed(f'{path}: the signature must be an object with "inputs" and "outputs"')
    sides = {side: _specs(path, side, content.get(side, [])) for side in ("inputs", "outputs")}
    if not sides["inputs"]:
        raise LoadFailed(f"{path}: the signature lists no inputs; it looks like {example_sidecar((), ())}")
    return Sidecar(path, sides["inputs"], sides["outputs"], content.get("batchable") is not False)


def disagreement(told: Mapping[str, Any], own: Signature) -> str:
    """What ``told``, in the form of a signature file, has otherwise than ``own``; empty if nothing."""
    try:
        said = parse_sidecar(told, Path(told["file"]))
    except LoadFailed as error:
        return str(error)
    found = []
    for side, specs, have in (("input", said.inputs, own.inputs), ("output", said.outputs, own.outputs)):
        by_name = {spec.name: spec for spec in have}
        for spec in specs:
            mine = by_name.get(spec.name)
            if mine is None:
                found.append(f'{side} "{spec.name}" is none of {", ".join(by_name)}')
            elif spec.dtype != mine.dtype or not _alike(spec.shape, mine.shape, said.batchable):
                there, here = (f"{one.dtype_name} {one.describe_shape()}" for one in (spec, mine))
                found.append(f'{side} "{spec.name}" is {there} there and {here} in the model')
    return "; ".join(found)


def _alike(said: Shape | None, own: Shape | None, with_rows: bool) -> bool:
    """Whether both can be so. Where rows are not told of, one may have a dimension for them that the other has not."""
    if said is None or own is None:
        return True
    apart = abs(len(said) - len(own))
    pairs = zip(reversed(said), reversed(own), strict=False)
    return apart <= (not with_rows) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def example_sidecar(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """A signature file filled in with what is known, for the message that asks for one; made up where nothing is."""
    shown = {
        "inputs": [_told(spec) for spec in inputs] or [{"name": "x", "dtype": "float32", "shape": [None, 4]}],
        "outputs": [_told(spec) for spec in outputs] or [{"name": "y", "dtype": "float32", "shape": [None, 2]}],
    }
    return json.dumps(shown)


def _told(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype_name, "shape": None if spec.shape is None else list(spec.shape)}


def _specs(path: Path, side: str, entries: Any) -> tuple[TensorSpec, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise LoadFailed(f'{path}: "{side}" must be a list of objects such as {{"name": "x", "shape": [null, 4]}}')
    specs = tuple(_spec(f"{path}: {side}[{i}]", entry) for i, entry in enumerate(entries))
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise LoadFailed(f'{path}: "{side}" names one tensor twice: {", ".join(names)}')
    return specs


def _spec(where: str, entry: Mapping[str, Any]) -> TensorSpec:
    name = entry.get("name", entry.get("data_name"))
    if not isinstance(name, str) or not name:
        raise LoadFailed(f'{where}: "name" is missing or not a string')
    doc, nullable, values = entry.get("doc", ""), entry.get("nullable", False), entry.get("values", [])
    if not isinstance(doc, str) or not isinstance(nullable, bool):
        raise LoadFailed(f'{where}: "doc" must be a text and "nullable" true or false')
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise LoadFailed(f'{where}: "values" must be a list of texts')
    dtype = _dtype(where, entry.get("dtype", "float32"))
    return TensorSpec(name, dtype, _shape(where, entry), doc, nullable, tuple(values))


def _dtype(where: str, said: Any) -> np.dtype[Any]:
    if said in ("string", "str", "bytes", "object"):
        return STRING
    try:
        dtype = np.dtype(said) if isinstance(said, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "biuf":
        raise LoadFailed(f"{where}: unknown dtype {said!r}; say float32, int64, bool, string, ...")
    return dtype


def _shape(where: str, entry: Mapping[str, Any]) -> Shape | None:
    said = entry.get("shape", entry.get("data_shape"))
    if said is None:
        return None
    if not isinstance(said, list) or not all(d is None or (type(d) is int and d >= -1) for d in said):
        raise LoadFailed(f'{where}: "shape" must be a list of sizes, null for one that varies, not {said!r}')
    return tuple(None if d in (None, -1) else d for d in said)
