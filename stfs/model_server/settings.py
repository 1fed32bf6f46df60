"""What the flags of ``tensorflow_model_server`` and the files that they name amount to.

Source: ``tensorflow_serving/model_servers/server.cc``. Reads the files once; what a changed one leads to is
``reload``'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.shape_plan import NO_SHAPES, ShapeOptions
from stfs.config import TFSERVING_METRICS_PATH as METRICS_PATH
from stfs.config import ModelConfig, RpcTls, ServerConfig
from stfs.errors import ConfigError
from stfs.model_server import text_format
from stfs.model_server.flags import Given
from stfs.model_server.models import checked_name, checked_path, models

MAX_MESSAGE_BYTES = 2**31 - 1

MAX_ENQUEUED_BYTES = 1 << 30
"""Of inputs that wait for one model, whatever a file says of rows; a larger request waits alone."""

DEFAULT_BATCH_ROWS = 1000
DEFAULT_ENQUEUED_BATCHES = 10
"""TensorFlow's own, where batching is switched on and no file says otherwise (``basic_batch_scheduler.h``)."""

_WITHOUT_MEANING = ("thread_pool_name",)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to serve, and how. ``models_file`` is looked at every ``models_poll_s`` seconds if that is more than 0.

    ``common`` is what models of that file have in common; ``warnings`` are lines for the log.
    """

    server: ServerConfig
    common: ModelConfig
    models_file: Path | None
    models_poll_s: float
    warnings: tuple[str, ...]


def read(given: Given) -> Settings:
    """Blocking: reads the files. Raises :class:`ConfigError` naming the flag or the file that is wrong."""
    warnings = list(given.without_meaning())
    if given.on("use_alts_credentials"):
        raise ConfigError("--use_alts_credentials: ALTS is not spoken here; use --ssl_config_file, or neither")
    if given.text("platform_config_file"):
        warnings.append("--platform_config_file changes nothing here: say what it says by the other flags")
    common = _common(given, warnings)
    models_file = Path(given.text("model_config_file")) if given.text("model_config_file") else None
    rest_port, grpc_port = _port(given, "rest_api_port"), _port(given, "port")
    socket_path = given.text("grpc_socket_path")
    if not (grpc_port or socket_path or rest_port):
        raise ConfigError("At least one of --port, --grpc_socket_path or --rest_api_port must be set")
    if rest_port and rest_port == grpc_port:
        warnings.append(
            "--rest_api_port cannot be same as --port. Please use a different port for HTTP/REST API. "
            "Skipped exporting HTTP/REST API."
        )
        rest_port = 0
    served = (_one_model(given, common),) if models_file is None else read_models(models_file, common) or ()
    retry_micros = given.number("load_retry_interval_micros")
    server = ServerConfig(
        models=served,
        port=rest_port,
        http=bool(rest_port),
        dialect="tfserving",
        grpc_port=grpc_port or None,
        grpc_socket_path=Path(socket_path) if socket_path else None,
        allow_config_reload=True,  # as TensorFlow Serving, which has no switch for it
        grpc_tls=_tls(given),
        grpc_request_timeout_s=0.0,  # clients of gRPC say their own
        grpc_channel_arguments=_channel_arguments(given.text("grpc_channel_arguments")),
        request_timeout_s=max(0, given.number("rest_api_timeout_in_ms")) / 1e3,
        enable_cors=given.on("rest_api_enable_cors_support"),
        max_request_bytes=MAX_MESSAGE_BYTES,
        metrics_path=_metrics_path(given, bool(rest_port), warnings),
        model_poll_interval_s=max(0, given.number("file_system_poll_wait_seconds")),
        max_load_retries=max(0, given.number("max_num_load_retries")),
        load_retry_interval_s=max(0, retry_micros) / 1e6,
        wait_for_models=True,
        label_rule="new" if given.on("allow_version_labels_for_unavailable_models") else "available",
    )
    poll_s = float(max(0, given.number("model_config_file_poll_wait_seconds")))
    return Settings(server, common, models_file, poll_s, tuple(warnings))


def read_models(path: Path, common: ModelConfig) -> tuple[ModelConfig, ...] | None:
    """The models that a ``ModelServerConfig`` file lists; ``None`` if it says nothing. Blocking."""
    config = text_format.read(path, "ModelServerConfig")
    if config.WhichOneof("config") is None:
        return None
    try:
        return models(config, common)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def batch_policy(parameters: Any) -> BatchPolicy:
    """``BatchingParameters`` as our policy. Raises :class:`ConfigError` for sizes that make no sense."""
    rows = _value(parameters, "max_batch_size", DEFAULT_BATCH_ROWS)
    run_rows = rows
    if parameters.enable_large_batch_splitting.value:
        # Then max_batch_size is what a request may have at most, and this is what one run takes.
        run_rows = _value(parameters, "max_execution_batch_size", rows)
    enqueued = _value(parameters, "max_enqueued_batches", DEFAULT_ENQUEUED_BATCHES)
    return BatchPolicy(
        max_batch_size=run_rows,
        batch_timeout_s=_value(parameters, "batch_timeout_micros", 0) / 1e6,
        max_enqueued_rows=enqueued * rows,
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        max_enqueued_bytes=MAX_ENQUEUED_BYTES,
    )


def _common(given: Given, warnings: list[str]) -> ModelConfig:
    config = _message(given, "tensorflow_session_config_file", "ConfigProto")
    threads, fraction = _threads(given, config), given.real("per_process_gpu_memory_fraction")
    if not 0.0 <= fraction <= 1.0:
        raise ConfigError(f"--per_process_gpu_memory_fraction={fraction}: it is between 0.0 and 1.0")
    batch, shapes = _batch(given, warnings)
    session: dict[str, Any] = {}
    if config is not None:
        for name in ("allow_soft_placement", "log_device_placement"):
            if getattr(config, name):
                session[name] = True
        if config.gpu_options.allow_growth:
            session["allow_growth"] = True
        fraction = fraction or config.gpu_options.per_process_gpu_memory_fraction
    if fraction:
        session["per_process_gpu_memory_fraction"] = fraction
    tags = given.text("saved_model_tags") if "saved_model_tags" in given.said else ""
    iterations = max(1, given.number("num_request_iterations_for_warmup"))
    return ModelConfig(
        name=given.text("model_name"),
        base_path=Path("/"),
        batch=batch,
        shapes=shapes,
        instances=_batch_threads(given),
        calibration_cache="auto",
        threads=threads,
        session_config=session,
        saved_model_tags=tuple(tag for tag in tags.split(",") if tag),
        warmup_iterations=iterations if given.on("enable_model_warmup") else 0,
    )


def _one_model(given: Given, common: ModelConfig) -> ModelConfig:
    """Its platform is told by the files, where TensorFlow Serving takes it for TensorFlow's."""
    base_path = given.text("model_base_path")
    if not base_path:
        raise ConfigError("Both --model_base_path and --model_config_file are empty: say what to serve")
    name = checked_name(common.name)
    return replace(common, name=name, base_path=checked_path(name, base_path))


def _threads(given: Given, config: Any) -> int:
    both, intra, inter = (
        given.number(f"tensorflow_{name}")
        for name in ("session_parallelism", "intra_op_parallelism", "inter_op_parallelism")
    )
    if both > 0 and intra > 0 and inter > 0:
        raise ConfigError(
            "Either configure --tensorflow_session_parallelism or (--tensorflow_intra_op_parallelism, "
            "--tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    from_file = config.intra_op_parallelism_threads if config is not None else 0
    return max(0, intra if intra > 0 or inter > 0 else both) or max(0, from_file)


def _batch(given: Given, warnings: list[str]) -> tuple[BatchPolicy, ShapeOptions]:
    """Without --enable_batching ours: it makes no request wait for another, and changes no answer."""
    path = given.text("batching_parameters_file")
    if not given.on("enable_batching"):
        if path:
            raise ConfigError("--batching_parameters_file is set without setting --enable_batching to true.")
        return BatchPolicy(max_enqueued_bytes=MAX_ENQUEUED_BYTES), NO_SHAPES
    if not path:
        enqueued_rows = DEFAULT_ENQUEUED_BATCHES * DEFAULT_BATCH_ROWS
        batch = BatchPolicy(DEFAULT_BATCH_ROWS, max_enqueued_rows=enqueued_rows, max_enqueued_bytes=MAX_ENQUEUED_BYTES)
        return batch, NO_SHAPES
    parameters = text_format.read(Path(path), "BatchingParameters")
    for name in _WITHOUT_MEANING:
        if parameters.HasField(name):
            warnings.append(f"{path}: {name} changes nothing here: each model's runs have a thread of their own")
    try:
        batch = batch_policy(parameters)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return batch, ShapeOptions(pad_variable_length_inputs=parameters.pad_variable_length_inputs)


def _batch_threads(given: Given) -> int:
    """Batches that may run at once, where a file says it; TensorFlow Serving's own default is a thread a core."""
    path = given.text("batching_parameters_file")
    if not (path and given.on("enable_batching")):
        return 1
    return max(1, _value(text_format.read(Path(path), "BatchingParameters"), "num_batch_threads", 1))


def _value(parameters: Any, name: str, default: int) -> int:
    """Of a number that may not be there."""
    return int(getattr(parameters, name).value) if parameters.HasField(name) else default


def _message(given: Given, flag: str, name: str) -> Any:
    return text_format.read(Path(given.text(flag)), name) if given.text(flag) else None


def _port(given: Given, flag: str) -> int:
    port = given.number(flag)
    if not 0 <= port <= 65535:
        raise ConfigError(f"--{flag}={port}: expected a port number, 0 to 65535")
    return port


def _tls(given: Given) -> RpcTls | None:
    config = _message(given, "ssl_config_file", "SSLConfig")
    if config is None:
        return None
    if not config.server_key or not config.server_cert:
        raise ConfigError(
            f"{given.text('ssl_config_file')}: server_key and server_cert must hold a key and a certificate as PEM text"
        )
    return RpcTls(
        config.server_key.encode(), config.server_cert.encode(), config.custom_ca.encode(), config.client_verify
    )


def _channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    arguments: list[tuple[str, int | str]] = []
    for part in text.split(",") if text else ():
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise ConfigError(f"--grpc_channel_arguments: {part!r} is not NAME=VALUE")
        try:
            number = int(value)
            arguments.append((name, number if -(2**31) <= number < 2**31 else value))
        except ValueError:
            arguments.append((name, value))
    return tuple(arguments)


def _metrics_path(given: Given, http: bool, warnings: list[str]) -> str:
    config = _message(given, "monitoring_config_file", "MonitoringConfig")
    if config is None or not config.prometheus_config.enable:
        return ""
    path = str(config.prometheus_config.path) or METRICS_PATH
    if not path.startswith("/") or any(character in path for character in "{}?# "):
        raise ConfigError(f"{given.text('monitoring_config_file')}: path {path!r} must be plain and begin with /")
    if not http:
        warnings.append(f"{given.text('monitoring_config_file')} changes nothing without --rest_api_port")
    return path
