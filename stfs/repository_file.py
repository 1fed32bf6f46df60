"""``config.pbtxt``, Triton's file of a model, which lies beside its version folders: read under what the user says.

What it says of batches, instances, versions, the cache and graphs is read as the JSON form is (``repository_config``);
what the user says by flag, environment or configuration file beats it, option by option. It is read when a model is
configured, and again when it is loaded by name. Must not live here: what the fields amount to, protobuf's text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stfs import platforms
from stfs.config import ModelConfig, RepositoryFile
from stfs.errors import ConfigError, InvalidRequest
from stfs.model_server import text_format
from stfs.platforms.torchscript import PLACE
from stfs.protocols.oip_datatypes import DATATYPES
from stfs.repository_config import overridden
from stfs.signature import STRING

NAME = "config.pbtxt"
MESSAGE = "inference.ModelConfig"

_PLATFORMS: Mapping[str, str] = {
    "onnxruntime_onnx": "onnx",
    "onnxruntime": "onnx",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
}
"""Triton's platforms and backends that have another name here."""

_SIZES = ("max_batch_size", "allowed_batch_sizes", "batchable")
_LEVELS = ("priority_levels", "default_priority_level", "priority_policies")
_QUEUE = ("max_enqueued_requests", "queue_timeout_ms", "queue_timeout_action")
_DEVICES = ("device", "gpus")
_INSTANCES = ("instances", "cpus")

_YIELDING: Sequence[tuple[Sequence[str], Sequence[str]]] = (
    (_SIZES, ("max_batch_size",)),
    (("model_version_policy",), ("version_policy",)),
    (("cache_bytes",), ("response_cache",)),
    (("cuda_graphs",), ("optimization",)),
    (("batch_timeout_ms",), ("dynamic_batching.max_queue_delay_microseconds",)),
    (("preferred_batch_sizes",), ("dynamic_batching.preferred_batch_size",)),
    (_QUEUE, ("dynamic_batching.default_queue_policy",)),
    (
        _LEVELS,
        tuple(
            f"dynamic_batching.{name}"
            for name in ("priority_levels", "default_priority_level", "priority_queue_policy")
        ),
    ),
    (_DEVICES, ("instance_group.kind", "instance_group.gpus")),
)
"""If one of these options was said, these fields of the file do not count."""

log = logging.getLogger(__name__)


def with_file(model: ModelConfig) -> ModelConfig:
    """``model`` with what the file in its folder says, where the user says nothing; as it is if there is no such file.

    Blocking. Raises :class:`ConfigError`, naming file and line, for a file that does not parse, and for what cannot be
    meant or had here. Where protobuf is missing the file is not read, and the log says what to install.
    """
    path = model.base_path / NAME
    if model.said is None or not _is_there(model):
        return model
    try:
        text_format.message_class(MESSAGE)
    except ConfigError as error:
        log.warning("model %s: %s is not read, and the model is served without it: %s", model.name, path, error)
        return model
    told, unknown = text_format.read_known(path, MESSAGE)
    idle = [
        *unknown,
        *(f"{side}.reshape" for side in ("input", "output") if any("reshape" in t for t in told.get(side, ()))),
    ]
    if idle:
        log.warning("model %s: %s: what it says of these changes nothing here: %s", model.name, path, ", ".join(idle))
    if (name := told.get("name")) not in (None, model.base_path.absolute().name, model.name):
        log.warning('model %s: %s says name: "%s", which is not the name of its folder', model.name, path, name)
    platform, foreign = _platform(told)
    filename = told.pop("default_model_filename", "")
    file = RepositoryFile(path, foreign, filename, _signature(told, model.said, str(path)))
    try:
        read = overridden(model, json.dumps(_yielded(told, model)))
    except InvalidRequest as error:
        problem = str(error).removeprefix('the parameter "config": ')
        raise ConfigError(f"{path}: {problem}") from None
    if not model.said.isdisjoint(_INSTANCES):
        read = replace(read, instances=model.instances)
    return replace(read, platform=model.platform or platform, repository_file=file)


def _is_there(model: ModelConfig) -> bool:
    try:
        return (model.base_path / NAME).is_file()
    except OSError:  # what is wrong with the folder is told by who looks for versions
        return False


def _platform(told: Mapping[str, Any]) -> tuple[str | None, str]:
    """Our platform, if the file says one that is here; else what it says."""
    said = [told[key] for key in ("platform", "backend") if key in told]
    for name in said:
        try:
            return platforms.find(_PLATFORMS.get(name, name)).name, ""
        except ConfigError:
            continue
    return None, said[0] if said else ""


def _yielded(told: dict[str, Any], model: ModelConfig) -> dict[str, Any]:
    """``told`` without the fields of which the user has said something himself. It is changed."""
    said = model.said or frozenset()
    for options, fields in _YIELDING:
        if said.isdisjoint(options):
            continue
        for field in fields:
            outer, _, inner = field.rpartition(".")
            holders = told.get(outer, {}) if outer else told
            for holder in holders if isinstance(holders, list) else (holders,):
                holder.pop(inner, None)
    batching = told.get("dynamic_batching", {})
    if "max_batch_size" not in told and "preferred_batch_size" in batching and not said.isdisjoint(_SIZES):
        most = model.batch.max_batch_size
        batching["preferred_batch_size"] = [size for size in batching["preferred_batch_size"] if size <= most]
    return told


def _signature(told: Mapping[str, Any], said: Collection[str], file: str) -> dict[str, Any]:
    """Inputs and outputs in the form of a signature file; empty if none are said.

    With a ``max_batch_size`` of 1 and more, ``dims`` leave the rows out; else they are all there is, and rows do not
    stack. Outputs called ``NAME__0``, ``NAME__1`` are put in that order, which is the one that they are returned in.
    """
    if not told.get("input"):
        return {}
    rows = [None] if told.get("max_batch_size") else []
    outputs = told.get("output", [])
    if all(_place(tensor) >= 0 for tensor in outputs):
        outputs = sorted(outputs, key=_place)
    return {
        "file": file,
        "inputs": [_tensor(tensor, rows) for tensor in told["input"]],
        "outputs": [_tensor(tensor, rows) for tensor in outputs],
        "batchable": bool(rows) or not frozenset(_SIZES).isdisjoint(said),
    }


def _place(tensor: Mapping[str, Any]) -> int:
    found = PLACE.search(tensor.get("name", ""))
    return -1 if found is None else int(found[1])


def _tensor(told: Mapping[str, Any], rows: list[None]) -> dict[str, Any]:
    """The model's own shape is that of ``reshape``. A datatype that is not had here is left to be refused by name."""
    dims = told["reshape"].get("shape", []) if "reshape" in told else told.get("dims", [])
    tensor = {"name": told.get("name", ""), "shape": [*rows, *map(int, dims)]}
    if datatype := told.get("data_type", "").removeprefix("TYPE_"):
        dtype = STRING if datatype == "STRING" else DATATYPES.get(datatype)
        tensor["dtype"] = told["data_type"] if dtype is None else "string" if dtype == STRING else dtype.name
    return tensor
