"""What the server is told: flags, ``STFS_*`` environment variables, a JSON file. The only reader of the three.

The options themselves are in ``stfs.options``. Flags beat the environment, the environment beats the file, the file
beats the defaults; within the file, a model's own entry beats what is said beside the list. Nothing is read when this
module is imported.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue_policy import QueuePolicy, read_level_queues
from stfs.batcher.shape_plan import NO_SHAPES, ShapeOptions
from stfs.errors import ConfigError
from stfs.images.options import ImageOptions
from stfs.lifecycle.policy import Latest, VersionPolicy
from stfs.options import BY_NAME, MODEL_KEYS, OPTIONS, Option, build_parser, nearest

TFSERVING_METRICS_PATH = "/monitoring/prometheus/metrics"
"""Where TensorFlow Serving has its metrics unless told otherwise."""

OTHER_VARIABLES = re.compile(
    # What commands, clients and tests of ours read, and what Kubernetes tells of a Service that is called stfs.
    "STFS_(?:HOME|PURE_PYTHON|CA_FILE|AUTH_TOKEN|TEST_.*|SERVICE_.*|PORT_[0-9]+_(?:TCP|UDP).*)"
)
"""Environment variables that are no options, and known all the same."""

ONE_MODEL = ("model_base_path", "model_name", "model_platform")
"""What says which model to serve, where there is no config file."""


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """What the ``config.pbtxt`` at ``path`` says of a model's files: see ``stfs.repository_file``.

    ``platform`` is one that there is not here, ``filename`` what is served of a version's folder, each empty as a rule.
    ``signature`` has inputs and outputs in the form of a signature file, for models that do not tell theirs.
    """

    path: Path
    platform: str = ""
    filename: str = ""
    signature: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model to serve. ``platform`` is ``None`` where the files are to tell.

    ``batchable`` is ``None`` where the signature is to tell; ``False`` runs every request by itself. ``instances``,
    ``cpus`` and ``gpus`` are what :func:`stfs.platforms.instances.open_instances` takes; a run may take
    ``run_timeout_s`` seconds, 0 for any time.
    ``calibration_cache`` is a folder, ``auto`` or ``off``, as ``stfs.calibration.cache`` reads it.
    ``cache_bytes`` is what answers may take that are kept for equal requests, 0 for none. ``share_weight`` is
    its part of the processors beside others that want them too, in proportion to theirs.
    ``said`` names the options that the user has said of it himself, by flag, environment or file: a ``config.pbtxt``
    beside the versions, which ``repository_file`` is of, says the others. ``None``: no such file is looked for.
    """

    name: str
    base_path: Path
    platform: str | None = None
    version_policy: VersionPolicy = Latest(1)
    version_labels: Mapping[str, int] = field(default_factory=dict)
    batch: BatchPolicy = BatchPolicy()
    batchable: bool | None = None
    calibrate: bool = True
    calibration_cache: str = "off"
    cache_bytes: int = 0
    single_flight: bool = False
    share_weight: float = 1.0
    shapes: ShapeOptions = NO_SHAPES
    threads: int = 0
    device: str = "auto"
    custom_op_paths: tuple[Path, ...] = ()
    session_config: Mapping[str, Any] = field(default_factory=dict)
    memory_limit_bytes: int = 0
    cuda_graphs: bool = False
    isolation: str = "auto"
    instances: int = 1
    cpus: tuple[tuple[int, ...], ...] = ()
    gpus: tuple[int, ...] = ()
    run_timeout_s: float = 0.0
    python: str = ""
    signature_file: Path | None = None
    processing_file: Path | None = None
    trusted_types: tuple[str, ...] = ()
    jvm_heap_bytes: int = 512 << 20
    saved_model_tags: tuple[str, ...] = ()
    warmup_iterations: int = 1
    images: ImageOptions = ImageOptions()
    repository_file: RepositoryFile | None = None
    said: frozenset[str] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RpcTls:
    """TLS of gRPC alone, as PEM. ``client_ca`` empty: the system's own; ``verify_client``: ask clients for theirs."""

    key: bytes
    certificate: bytes
    client_ca: bytes = b""
    verify_client: bool = False


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything ``stfs.server`` needs to know.

    ``http`` off serves gRPC alone. ``grpc_tls`` and ``grpc_request_timeout_s`` stand for gRPC in the place of what is
    said of both. ``metrics_path`` is where metrics have TensorFlow Serving's names, empty for nowhere;
    ``metrics_names`` has ``triton`` if ``/metrics`` has Triton's beside our own. With ``wait_for_models`` a
    model that is not there yet is waited for at the start; ``load_retry_interval_s`` is the time between two tries to
    load one, ``None``: growing. ``label_rule`` says which labels may stand for versions that are not available: any,
    those that are new, or none (``available``). ``auth_by_password`` lets in who shows ``auth_username`` and
    ``auth_password``; others are in ``auth_users_file``. ``run_slots`` are the runs of models that go on at once:
    ``None`` for what the machine bears, 0 for any number. ``client_share`` says by what clients are told
    apart that share the queues of models: ``off``, ``address`` or ``user``.
    """

    models: tuple[ModelConfig, ...]
    host: str = "0.0.0.0"  # the seed's default; a model server in a container is reached from outside
    port: int = 8500
    dialect: str = "stfs"
    grpc_port: int | None = None
    grpc_socket_path: Path | None = None
    model_control: str = "none"
    allow_config_reload: bool = False
    grpc_tls: RpcTls | None = None
    grpc_request_timeout_s: float | None = None
    grpc_channel_arguments: tuple[tuple[str, int | str], ...] = ()
    http: bool = True
    enable_ssl: bool = False
    secret_pem: Path = Path("secret.pem")
    secret_key: Path = Path("secret.key")
    enable_auth: bool = False
    auth_username: str = "admin"
    auth_password: str = "admin"
    auth_by_password: bool = True
    auth_users_file: Path | None = None
    auth_failures_per_minute: int = 30
    ssl_client_ca: Path | None = None
    ssl_client_verify: str = "required"
    enable_cors: bool = True
    cors_origins: tuple[str, ...] = ()
    log_level: str = "info"
    workers: int = 1
    engine: str = "auto"
    run_slots: int | None = None
    client_share: str = "off"
    hot_path: bool = True
    access_log: str = "off"
    access_log_file: Path | None = None
    access_log_sample: int = 1
    max_request_bytes: int = 256 << 20
    max_image_pixels: int = 50_000_000
    inference_images_folder: Path | None = None
    compress_over_bytes: int = 64 << 10
    request_timeout_s: float = 0.0
    metrics_path: str = ""
    metrics_names: tuple[str, ...] = ()
    tracing: str = ""
    tracing_sample: float = 1.0
    model_poll_interval_s: float = 1.0
    max_load_retries: int = 5
    load_retry_interval_s: float | None = None
    wait_for_models: bool = False
    label_rule: Literal["any", "new", "available"] = "any"
    drain_timeout_s: float = 60.0
    shutdown_delay_s: float = 0.0
    shutdown_timeout_s: float = 30.0


def load(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    prog: str,
    positional: bool,
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> ServerConfig:
    """The configuration that flags, environment and file amount to.

    ``defaults`` are those that the executable has of its own.
    Raises :class:`ConfigError` naming the flag, variable or key that is wrong. ``--help`` prints and exits 0.
    """
    given = vars(build_parser(prog, positional=positional).parse_args(argv))
    path = given.pop("path", None)
    if path is not None:
        if given["model_base_path"] is not None:
            raise ConfigError("give the model's path once: either PATH or --model_base_path")
        given["model_base_path"] = path
    texts = {name: ("--" + name, text) for name, text in given.items() if text is not None}
    if "model_config_file" in texts and (wrong := [name for name in ONE_MODEL if name in texts]):
        raise ConfigError(f"give either --model_config_file or one model by --{wrong[0]} (or PATH), not both")
    by_flag = frozenset(texts)
    for option in OPTIONS:
        if option.name not in texts and (text := environ.get(option.variable)):
            texts[option.name] = (option.variable, text)
    if by_flag.intersection(ONE_MODEL) and "model_config_file" not in by_flag:
        texts.pop("model_config_file", None)  # a model named by flag beats a file named by the environment
    said = {name: _parse(BY_NAME[name], text, source) for name, (source, text) in texts.items()}
    options = {option.name: option.parse(defaults.get(option.name, option.default)) for option in OPTIONS}
    if file_name := said.get("model_config_file"):
        from_file, entries = _read_file(Path(file_name))
        models = _models(entries, options, from_file, said, file_name)
        said = from_file | said
        return _server(options | said, models, _auth(options | said, said))
    options |= said
    return _server(options, (_model(options, "", said),), _auth(options, said))


def _parse(option: Option, value: Any, source: str) -> Any:
    """``value`` (text, or what JSON gave) by the option's own parser."""
    text = value if isinstance(value, str) else _as_text(value, option.joint)
    try:
        return option.parse(text)
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{source}: {text!r} will not do: {error}") from None


def _as_text(value: Any, joint: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return joint.join(str(part) for part in value)
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _read_file(path: Path) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the config file {path} is not JSON: {error}") from None
    entries = content.get("model_config_list") if isinstance(content, dict) else None
    if isinstance(content, dict) and entries is None:
        for key in content:
            if key not in BY_NAME and (close := nearest(key, ["model_config_list"], "{!r}")):
                raise ConfigError(f"{path}: unknown key {key!r}{close}")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(
            f'the config file {path} must be {{"model_config_list": [{{"name": ..., "base_path": ...}}]}}'
        )
    server: dict[str, Any] = {}
    for key, value in content.items():
        if key == "model_config_list":
            continue
        if (key in MODEL_KEYS and key not in BY_NAME) or key in ONE_MODEL:
            own = next(name for name, option in MODEL_KEYS.items() if key in (name, option))
            raise ConfigError(
                f"{path}: unknown key {key!r}: a model's own, say it as {own!r} in its entry of model_config_list"
            )
        if key not in BY_NAME or key == "model_config_file":
            close = nearest(key, ("model_config_list", *(BY_NAME.keys() - {*ONE_MODEL, "model_config_file"})), "{!r}")
            raise ConfigError(f"{path}: unknown key {key!r}{close}")
        server[key] = _parse(BY_NAME[key], value, f"{path}: {key}")
    return server, entries


def _models(
    entries: list[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    from_file: Mapping[str, Any],
    said: Mapping[str, Any],
    file_name: str,
) -> tuple[ModelConfig, ...]:
    models: dict[str, ModelConfig] = {}
    # Which model an entry means is its own to say; what is said of all models by flag or environment beats it.
    said = {name: value for name, value in said.items() if name not in ONE_MODEL}
    for position, entry in enumerate(entries):
        where = f"{file_name}: model_config_list[{position}]"
        if unknown := sorted(set(entry) - set(MODEL_KEYS)):
            raise ConfigError(f"{where}: unknown key {unknown[0]!r}{_where_it_belongs(unknown[0])}")
        for key in ("name", "base_path"):
            if not isinstance(entry.get(key), str):
                raise ConfigError(f"{where}: {key!r} is missing or not a string")
        own = {}
        for key, value in entry.items():
            option = BY_NAME[MODEL_KEYS[key]]
            own[option.name] = _parse(option, value, f"{where}: {key}")
        told = {**from_file, **own, **said}
        model = _model({**defaults, **told}, f"{where}: ", told)
        if model.name in models:
            raise ConfigError(f"{where}: the name {model.name!r} is taken by an earlier entry")
        models[model.name] = model
    return tuple(models.values())


def _where_it_belongs(key: str) -> str:
    """What to do about a key that is none of an entry's."""
    if key in BY_NAME and key not in (*ONE_MODEL, "model_config_file"):
        return ": it is said of the whole server, at the top of the file, beside model_config_list"
    own = next((name for name, option in MODEL_KEYS.items() if key == option), "")
    return (
        f", did you mean {own!r}?"
        if own
        else nearest(key, MODEL_KEYS, "{!r}") or (f"; known are {', '.join(MODEL_KEYS)}")
    )


def _model(options: Mapping[str, Any], where: str, said: Iterable[str]) -> ModelConfig:
    """``said`` are the options that are no defaults."""
    try:
        queue = QueuePolicy(
            timeout_s=options["queue_timeout_ms"] / 1e3 or math.inf,
            action=options["queue_timeout_action"],
            max_requests=options["max_enqueued_requests"],
        )
        batch = BatchPolicy(
            shares_clients=options["client_share"] != "off",
            max_batch_size=options["max_batch_size"],
            batch_timeout_s=options["batch_timeout_ms"] / 1e3,
            max_enqueued_rows=options["max_enqueued"],
            allowed_batch_sizes=options["allowed_batch_sizes"],
            adaptive=options["batching"] == "adaptive",
            latency_slo_s=options["latency_slo_ms"] / 1e3 or math.inf,
            preferred_batch_sizes=options["preferred_batch_sizes"],
            max_enqueued_bytes=options["max_enqueued_bytes"],
            priority_levels=options["priority_levels"],
            default_priority_level=options["default_priority_level"],
            queue=queue,
            level_queues=read_level_queues(options["priority_policies"], queue),
        )
        if options["cuda_graphs"] and not batch.allowed_batch_sizes:
            raise ConfigError("cuda_graphs needs allowed_batch_sizes, such as 1,8,32,128: each has a graph of its own")
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    return ModelConfig(
        name=options["model_name"],
        base_path=options["model_base_path"],
        platform=options["model_platform"] or None,
        version_policy=options["model_version_policy"],
        version_labels=options["version_labels"],
        batch=batch,
        batchable=None if options["batchable"] else False,
        calibrate=options["calibrate"],
        calibration_cache=options["calibration_cache"],
        cache_bytes=options["cache_bytes"],
        single_flight=options["single_flight"],
        share_weight=options["share_weight"],
        shapes=ShapeOptions(
            pad_variable_length_inputs=options["pad_variable_length_inputs"],
            sequence_buckets=options["sequence_buckets"],
            padded_inputs=options["padded_inputs"],
            pad_values=options["pad_value"],
            masks=options["mask_input"],
            ragged_inputs=options["ragged_inputs"],
            cuts=options["cut_outputs"],
        ),
        threads=options["threads"],
        device=options["device"],
        custom_op_paths=options["custom_op_paths"],
        session_config=options["session_config"],
        memory_limit_bytes=options["memory_limit"],
        cuda_graphs=options["cuda_graphs"],
        isolation=options["isolation"],
        instances=options["instances"],
        cpus=options["cpus"],
        gpus=options["gpus"],
        run_timeout_s=options["run_timeout_s"],
        python=options["python"],
        signature_file=Path(options["signature_file"]) if options["signature_file"] else None,
        processing_file=Path(options["processing_file"]) if options["processing_file"] else None,
        trusted_types=options["trusted_types"],
        jvm_heap_bytes=options["jvm_heap"],
        warmup_iterations=1 if options["enable_model_warmup"] else 0,
        images=ImageOptions(
            layout=options["image_layout"],
            channels=options["image_channels"],
            scale=options["image_scale"],
            mean=options["image_mean"],
            std=options["image_std"],
            resize=options["image_resize"],
            strings=options["image_strings"],
        ),
        said=frozenset(said),
    )


def _auth(options: Mapping[str, Any], said: Container[str]) -> dict[str, Any]:
    """The part of :class:`ServerConfig` that says who is let in; ``said`` are the options that are no defaults.

    A password that everybody knows guards nothing, so a server that others can reach is refused it, unless it has been
    said by name.
    """
    users_file = options["auth_users_file"]
    is_on = options["enable_auth"] or users_file is not None
    is_said = "auth_password" in said
    if users_file is not None and "auth_username" in said and not is_said:
        raise ConfigError("--auth_username: give its password too, by --auth_password, or leave it to the users' file")
    if is_on and users_file is None and not (is_said or options["allow_default_password"]):
        host = options["host"]
        if not _is_this_machine(host):
            raise ConfigError(
                f"--enable_auth with the default password, which everybody knows, on {host or 'every address'}: choose "
                "one by --auth_password, or users by --auth_users_file, or listen on this machine only by "
                "--host=127.0.0.1 (or accept it by --allow_default_password)"
            )
    return {
        "enable_auth": is_on,
        "auth_username": options["auth_username"],
        "auth_password": options["auth_password"],
        "auth_by_password": is_said or users_file is None,
        "auth_users_file": users_file,
        "auth_failures_per_minute": options["auth_failures_per_minute"],
    }


def _is_this_machine(host: str) -> bool:
    """Whether only this machine reaches a server that listens there, as far as can be told without looking it up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _server(options: Mapping[str, Any], models: tuple[ModelConfig, ...], auth: Mapping[str, Any]) -> ServerConfig:
    if options["ssl_client_ca"] is not None and not options["enable_ssl"]:
        raise ConfigError("--ssl_client_ca: certificates are shown over TLS only: add --enable_ssl")
    return ServerConfig(
        models=models,
        host=options["host"],
        port=options["port"],
        dialect=options["dialect"],
        grpc_port=options["grpc_port"],
        grpc_socket_path=Path(options["grpc_socket_path"]) if options["grpc_socket_path"] else None,
        model_control=options["model_control"],
        allow_config_reload=options["allow_config_reload"],
        enable_ssl=options["enable_ssl"],
        secret_pem=Path(options["secret_pem"]),
        secret_key=Path(options["secret_key"]),
        **auth,
        ssl_client_ca=options["ssl_client_ca"],
        ssl_client_verify=options["ssl_client_verify"],
        enable_cors=options["enable_cors"],
        cors_origins=options["cors_origins"],
        log_level="debug" if options["debug"] else options["log_level"],
        workers=options["workers"],
        engine=options["engine"],
        run_slots=options["run_slots"],
        client_share=options["client_share"],
        hot_path=options["hot_path"] != "off",
        metrics_path=TFSERVING_METRICS_PATH if "tfserving" in options["metrics_names"] else "",
        metrics_names=options["metrics_names"],
        tracing=options["tracing"],
        tracing_sample=options["tracing_sample"],
        access_log=options["access_log"],
        access_log_file=Path(options["access_log_file"]) if options["access_log_file"] else None,
        access_log_sample=options["access_log_sample"],
        max_request_bytes=options["max_request_bytes"],
        max_image_pixels=options["max_image_pixels"],
        inference_images_folder=options["download_inference_images"],
        compress_over_bytes=options["compress_over"],
        request_timeout_s=options["request_timeout_s"],
        model_poll_interval_s=options["model_poll_interval_s"] if options["reload_models"] else 0.0,
        max_load_retries=options["max_load_retries"],
        drain_timeout_s=options["drain_timeout_s"],
        shutdown_delay_s=options["shutdown_delay_s"],
        shutdown_timeout_s=options["shutdown_timeout_s"],
    )


def from_environment(argv: Sequence[str], *, prog: str, positional: bool, defaults: Mapping[str, str]) -> ServerConfig:
    """:func:`load` with this process's environment."""
    return load(argv, os.environ, prog=prog, positional=positional, defaults=defaults)


def unknown_variables(environ: Mapping[str, str]) -> str:
    """One line about the variables that begin as an option's do and are none; empty if there are none."""
    known = {option.variable for option in OPTIONS}
    unknown = sorted(
        name
        for name in environ
        if name.startswith("STFS_") and name not in known and not OTHER_VARIABLES.fullmatch(name)
    )
    told = [f"{name[:80]}{nearest(name, known)}" for name in unknown]
    return f"environment variables that are no option's, so that nothing reads them: {'; '.join(told)}" if told else ""
