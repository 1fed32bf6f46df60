"""What is served, told in the values of the Open Inference Protocol: the same over HTTP and over gRPC.

Must not live here: what the values are called (``stfs.protocols.oip_metadata``), how they travel (``web``, ``rpc``).
"""

from __future__ import annotations

from typing import Any

from stfs.context import Context, Lease
from stfs.errors import Unavailable
from stfs.protocols import oip_metadata
from stfs.repository_batching import batching_told
from stfs.repository_config import policy_told


def told_metadata(context: Context, lease: Lease) -> dict[str, Any]:
    """The metadata of the model that ``lease`` holds, with the versions of it that are served."""
    model = lease.model
    assert model is not None, "the caller has acquired it"
    versions = context.registry.serving().get(model.name, (model.version,))
    return oip_metadata.model_metadata(model.name, versions, model.platform, model.signature(None))


def told_config(context: Context, lease: Lease) -> dict[str, Any]:
    """Triton's configuration of the model that ``lease`` holds. Raises :class:`Unavailable` if it is being removed."""
    model = lease.model
    assert model is not None, "the caller has acquired it"
    config = next((config for config in context.models() if config.name == model.name), None)
    if config is None:
        raise Unavailable(f'model "{model.name}" is being unloaded')
    told = oip_metadata.model_config(
        model.name,
        model.platform,
        model.signature(None),
        policy_told(config.version_policy),
        config.batch.max_batch_size,
        batching_told(config.batch),
        config.instances,
        config.gpus,
    )
    if config.cuda_graphs:
        told["optimization"] = {"cuda": {"graphs": True}}
    return told | {"response_cache": {"enable": True}} if config.cache_bytes else told


def told_statistics(context: Context, name: str | None, version: int | None) -> dict[str, Any]:
    """``{"model_stats": [...]}`` of what is served: everything, one model, or one version of it."""
    return {
        "model_stats": [
            oip_metadata.model_statistics(model, number, context.metrics.statistics(model, str(number)))
            for model, versions in context.registry.serving().items()
            for number in versions
            if name in (None, model) and version in (None, number)
        ]
    }
