"""TensorFlow Serving's ModelService, and the metadata of models: what is served over gRPC, told and changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import grpc

from stfs.config import ModelConfig
from stfs.context import Context
from stfs.errors import ConfigError, InvalidRequest, LabelRefused, NotFound, VersionNotFound
from stfs.lifecycle.labels import check_all_labels
from stfs.model_server.models import check_change, models
from stfs.model_server.text_format import message_class
from stfs.protocols import tfserving_models_pb, tfserving_pb
from stfs.protocols.tfserving_pb import FailedPrecondition, ModelSpec, NotBecomeAvailable
from stfs.rpc.unary import Call, Dialect, unary

SHARED = (
    "batch", "calibrate", "calibration_cache", "threads", "device", "custom_op_paths", "session_config", "isolation",
    "memory_limit_bytes", "cuda_graphs", "jvm_heap_bytes", "saved_model_tags", "warmup_iterations",
    "instances", "cpus", "gpus", "run_timeout_s",
)  # fmt: skip
"""What a new model is served with as the others are, where they agree: it was said of all of them."""

DIALECT = Dialect("tfserving_grpc", tfserving_pb.status_of)


def model_service(context: Context) -> Mapping[str, grpc.RpcMethodHandler]:
    """The handlers of ModelService by method."""
    return {
        "GetModelStatus": unary(context, DIALECT, _get_model_status),
        "HandleReloadConfigRequest": unary(context, DIALECT, _reload),
    }


def version_of(call: Call, spec: ModelSpec) -> int | None:
    """The version that a request names, by number or label. Raises :class:`stfs.errors.RequestError` for its label."""
    if spec.label is None:
        return spec.version
    try:
        return call.context.registry.version_of(spec.name, spec.label)
    except NotFound as error:
        raise spec.not_found(error, None) from None


async def get_model_metadata(call: Call, body: bytes) -> bytes:
    """``GetModelMetadata``: the signatures of one version."""
    spec = tfserving_models_pb.decode_metadata_request(body)
    version = version_of(call, spec)
    try:
        call.lease(spec.name, version, None)
    except NotFound as error:
        raise spec.not_found(error, version) from None
    model = call.lease.model
    assert model is not None, "a lease that did not raise holds a model"
    return tfserving_models_pb.encode_metadata(model.name, model.version, model.signatures)


async def _get_model_status(call: Call, body: bytes) -> bytes:
    """``GetModelStatus``: the state of one version, or of all. A label is not looked at, as in TensorFlow Serving."""
    spec = tfserving_models_pb.decode_status_request(body)
    status = next((status for status in call.context.manager.status() if status.name == spec.name), None)
    told = [] if status is None else [(v.version, v.state.name, v.error) for v in status.versions]
    if spec.version is not None:
        told = [entry for entry in told if entry[0] == spec.version]
        if not told:
            raise VersionNotFound(f"Could not find version {spec.version} of model {spec.name}")
    if not told:
        raise VersionNotFound(f"Could not find any versions of model {spec.name}")
    return tfserving_models_pb.encode_status(told)


async def _reload(call: Call, body: bytes) -> bytes:
    """``HandleReloadConfigRequest``: serve these models from now on, and no others; answers when they serve.

    A model that was served keeps what else it was configured with, and its loaded versions if nothing has changed.
    """
    context = call.context
    if not context.config.allow_config_reload:
        raise FailedPrecondition(
            "this server does not let clients change its models: start it with --allow_config_reload=true"
        )
    request = tfserving_models_pb.decode_reload(body)
    before = context.models()
    try:
        after = wanted_models(context, request.config, before)
        check_change(before, after)
        _check_labels(context, before, after)
        failures = await context.apply(after)
    except LabelRefused as error:
        raise FailedPrecondition(str(error)) from None
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None
    if failures:
        told = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise NotBecomeAvailable(f"{len(failures)} servable(s) did not become available: {{{told}}}")
    return tfserving_models_pb.encode_reloaded(request.metric_names)


def wanted_models(context: Context, config: bytes, before: Sequence[ModelConfig]) -> tuple[ModelConfig, ...]:
    """What the bytes of a ``ModelServerConfig`` ask to serve instead of ``before``.

    Raises :class:`InvalidRequest` or :class:`stfs.errors.ConfigError`.
    """
    from google.protobuf.message import DecodeError

    message = message_class("ModelServerConfig")()
    try:
        message.ParseFromString(config)
    except DecodeError:
        raise InvalidRequest("config is no valid ModelServerConfig") from None
    if message.WhichOneof("config") != "model_config_list":
        raise InvalidRequest(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    served = {model.name: model for model in before}
    return tuple(
        _kept(context, served[model.name], model) if model.name in served else model
        for model in models(message, _common(before))
    )


def _common(served: Sequence[ModelConfig]) -> ModelConfig:
    """What a model that nothing has been said of is served with."""
    plain = ModelConfig(name="", base_path=Path())
    if not served:
        return plain
    first, *others = served
    agreed = {name: getattr(first, name) for name in SHARED}
    return replace(
        plain, **{name: value for name, value in agreed.items() if all(getattr(m, name) == value for m in others)}
    )


def _kept(context: Context, before: ModelConfig, wanted: ModelConfig) -> ModelConfig:
    """``wanted`` with all of ``before`` that a ``ModelConfig`` of TensorFlow Serving does not speak of.

    The same thing said in other words is no change: another model would be loaded for it.
    """
    same_path = before.base_path.absolute() == wanted.base_path
    platform = before.platform
    if wanted.platform is not None and wanted.platform != (platform or _running_platform(context, before.name)):
        platform = wanted.platform
    return replace(
        before,
        base_path=before.base_path if same_path else wanted.base_path,
        platform=platform,
        version_policy=wanted.version_policy,
        version_labels=wanted.version_labels,
        repository_file=before.repository_file if same_path else None,
    )


def _running_platform(context: Context, name: str) -> str | None:
    """What the model's files were taken for, if it serves."""
    if name not in context.registry.serving():
        return None
    with context.registry.acquire(name) as handle:
        return handle.model.platform


def _check_labels(context: Context, before: Sequence[ModelConfig], after: Sequence[ModelConfig]) -> None:
    """As TensorFlow Serving has it for a reload, whatever is allowed at the start."""
    check_all_labels(
        {model.name: model.version_labels for model in after},
        {model.name: model.version_labels for model in before},
        context.registry.serving(),
        allow_unavailable=context.config.label_rule == "new",
    )
