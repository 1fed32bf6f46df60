"""Signatures that a user says in Python, as ``signature`` or ``signatures`` of a module or an object.

``signature`` is a dict in the form of a signature file (:mod:`stfs.platforms.sidecar`), whose tensors may also be
:class:`stfs.signature.TensorSpec`, and which may say ``"batchable": False``; or a :class:`stfs.signature.Signature`.
``signatures`` is a dict of such by their names. Must not live here: which function answers which signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed
from stfs.platforms.sidecar import parse_sidecar
from stfs.signature import Signature, TensorSpec, can_batch


def declared(
    holder: Any, file: Path, default: str, known: Mapping[str, Signature] | None = None
) -> dict[str, Signature]:
    """What ``holder`` says, by name; ``signature`` under the name ``default``. Empty if it says nothing.

    ``known`` are the signatures that there can be, where it is given: a side, inputs or outputs, that is left out is
    the one there. Raises :class:`LoadFailed`, naming ``file``, for anything that is not of the form above.
    """
    one, many = getattr(holder, "signature", None), getattr(holder, "signatures", None)
    if one is not None and many is not None:
        raise LoadFailed(f"{file}: says both signature and signatures: say signatures only")
    if many is not None and (not isinstance(many, Mapping) or not all(isinstance(name, str) and name for name in many)):
        raise LoadFailed(f'{file}: signatures must be a dict such as {{"{default}": {{"inputs": [...], ...}}}}')
    said = many if many is not None else {} if one is None else {default: one}
    for name in said:
        if known is not None and name not in known:
            raise LoadFailed(f'{file}: the model has no signature "{name}": it has {", ".join(sorted(known))}')
    return {name: _signature(name, content, file, (known or {}).get(name)) for name, content in said.items()}


def _signature(name: str, said: Any, file: Path, known: Signature | None) -> Signature:
    if isinstance(said, Signature):
        return Signature(name, said.inputs, said.outputs, said.batchable and can_batch(said.inputs, said.outputs))
    if not isinstance(said, Mapping):
        raise LoadFailed(f'{file}: signature must be a dict such as {{"inputs": [...], "outputs": [...]}}')
    inputs = _side("inputs", said, file, () if known is None else known.inputs)
    outputs = _side("outputs", said, file, () if known is None else known.outputs)
    batchable = said.get("batchable", True)
    if not isinstance(batchable, bool):
        raise LoadFailed(f'{file}: "batchable" must be True or False, not {batchable!r}')
    return Signature(name, inputs, outputs, batchable and can_batch(inputs, outputs))


def _side(side: str, said: Mapping[str, Any], file: Path, known: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    entries = said.get(side)
    if entries is None and known:
        return known
    if isinstance(entries, list | tuple) and entries and all(isinstance(entry, TensorSpec) for entry in entries):
        return tuple(entries)
    # Either side is read in the same way; what is read as inputs may not be empty.
    if not entries:
        raise LoadFailed(f'{file}: the signature lists no {side}: say "{side}": [{{"name": "x", "shape": [None, 4]}}]')
    return parse_sidecar({"inputs": _lists(entries)}, file).inputs


def _lists(entries: Any) -> Any:
    """JSON knows lists only; in Python a shape, or the list of tensors, may as well be a tuple."""
    if isinstance(entries, list | tuple):
        return [_lists(entry) for entry in entries]
    return {key: _lists(value) for key, value in entries.items()} if isinstance(entries, Mapping) else entries
