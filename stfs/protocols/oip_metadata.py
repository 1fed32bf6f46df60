"""What the Open Inference Protocol and Triton's extensions tell of server and models, as JSON-like values.

The same values make the answers over HTTP and the messages over gRPC. Sources: the protocol's metadata sections,
Triton's ``model_config.proto``, ``extension_statistics.md`` and ``extension_model_repository.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stfs.metrics import ModelStatistics, Sum
from stfs.protocols.oip_datatypes import config_type_of, datatype_of
from stfs.signature import Signature, TensorSpec

EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)

_PLATFORMS = {
    "tensorflow": ("tensorflow_savedmodel", "tensorflow"),
    "onnx": ("onnxruntime_onnx", "onnxruntime"),
    "pytorch": ("pytorch_libtorch", "pytorch"),
}
"""Triton's platform and backend where it has the same."""


def server_metadata(name: str, version: str) -> dict[str, Any]:
    """``GET /v2``, ``ServerMetadata``."""
    return {"name": name, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, versions: Sequence[int], platform: str, signature: Signature) -> dict[str, Any]:
    """``GET /v2/models/NAME``, ``ModelMetadata``; -1 for an open dimension."""
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": _PLATFORMS.get(platform, (platform, platform))[0],
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": _dims(spec, batched=False)}


def _dims(spec: TensorSpec, *, batched: bool) -> list[int]:
    """``[-1]`` where even the rank is unknown: there is no form for that."""
    shape = (None,) if spec.shape is None else spec.shape
    return [-1 if size is None else size for size in (shape[1:] if batched and spec.shape is not None else shape)]


def model_config(
    name: str,
    platform: str,
    signature: Signature,
    version_policy: Mapping[str, Any],
    max_batch_size: int,
    dynamic_batching: Mapping[str, Any],
    instances: int = 1,
    gpus: Sequence[int] = (),
) -> dict[str, Any]:
    """``GET /v2/models/NAME/config``, ``ModelConfig``. Where rows stack, dims leave dimension 0 out, as in Triton.

    ``max_batch_size`` is what the model runs with, ``dynamic_batching`` how rows wait for company. ``instances``
    are all that there are, dealt out to ``gpus`` in turn.
    """
    batched = signature.batchable
    triton, backend = _PLATFORMS.get(platform, (platform, platform))
    told: dict[str, Any] = {
        "name": name,
        "platform": triton,
        "backend": backend,
        "version_policy": dict(version_policy),
        "max_batch_size": max_batch_size if batched else 0,
        "input": [
            {
                "name": spec.name,
                "data_type": config_type_of(spec.dtype),
                "format": "FORMAT_NONE",
                "dims": _dims(spec, batched=batched),
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": bool(spec.mask_of) or (spec.nullable and spec.is_column),
            }
            for spec in signature.inputs
        ],
        "output": [
            {
                "name": spec.name,
                "data_type": config_type_of(spec.dtype),
                "dims": _dims(spec, batched=batched),
                "label_filename": "",
                "is_shape_tensor": False,
            }
            for spec in signature.outputs
        ],
        "instance_group": [_instance_group(name, instances, gpus)],
        "parameters": {},
    }
    if batched:
        told["dynamic_batching"] = dict(dynamic_batching)
    return told


def _instance_group(name: str, instances: int, gpus: Sequence[int]) -> dict[str, Any]:
    """Triton counts instances on each GPU of a group."""
    kind, count = ("KIND_GPU", -(-instances // len(gpus))) if gpus else ("KIND_AUTO", instances)
    return {"name": name, "kind": kind, "count": count, "gpus": list(gpus), "passive": False}


def model_statistics(name: str, version: int, counted: ModelStatistics) -> dict[str, Any]:
    """One entry of ``model_stats`` of ``GET /v2/models/stats``, ``ModelStatistics``.

    ``compute_input`` is reading the request, ``compute_output`` writing the answer. ``queue`` and ``compute_infer``
    count runs of the model, not requests: the wait of a run is that of its oldest request.
    """
    return {
        "name": name,
        "version": str(version),
        "last_inference": int(counted.last_s * 1e3),
        "inference_count": counted.rows,
        "execution_count": counted.run.count,
        "inference_stats": {
            "success": _sum(counted.success),
            "fail": _sum(counted.fail),
            "queue": _sum(counted.queue),
            "compute_input": _sum(counted.decode),
            "compute_infer": _sum(counted.run),
            "compute_output": _sum(counted.encode),
            "cache_hit": _sum(Sum(counted.cache_hits)),
            "cache_miss": _sum(Sum(counted.cache_misses)),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _sum(Sum(runs.count)),
                "compute_infer": _sum(runs),
                "compute_output": _sum(Sum(runs.count)),
            }
            for rows, runs in sorted(counted.by_rows.items())
        ],
        "memory_usage": [],
    }


def _sum(one: Sum) -> dict[str, int]:
    return {"count": one.count, "ns": round(one.seconds * 1e9)}
