"""Every option once: its flag, environment variable, key in the config file, parser, default and help text.

Values are parsed from text whatever their source, so that all three sources take the same spellings. What the options
amount to is ``stfs.config``'s to say.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stfs.batcher import shape_plan as shapes
from stfs.batcher.queue_policy import ACTIONS
from stfs.errors import ConfigError
from stfs.images import options as images
from stfs.lifecycle.policy import VersionPolicy, parse_version_policy
from stfs.platforms import placement


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off", ""):
        return False
    raise ValueError("expected true or false")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("expected a whole number") from None


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise ValueError("expected a whole number, 1 or more")
    return value


def _count(text: str) -> int:
    value = _whole(text)
    if value < 0:
        raise ValueError("expected a whole number, 0 or more")
    return value


def _port(text: str) -> int:
    value = _whole(text)
    if not 0 <= value <= 65535:
        raise ValueError("expected a port number, 0 to 65535")
    return value


def _port_if_any(text: str) -> int | None:
    return _port(text) if text.strip() else None


def _number(text: str, low: float, high: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"expected {expected}")
    return value


def _duration(text: str) -> float:
    return _number(text, 0, math.inf, "a number, 0 or more, such as 0.5")


def _user_name(text: str) -> str:
    if ":" in text:
        raise ValueError("a user name has no ':' (RFC 7617)")
    return text


def _model_name(text: str) -> str:
    if not text or any(c in "/:" or ord(c) < 32 for c in text):
        raise ValueError("it stands in addresses, so it is not empty and has no '/' and no ':'")
    return text


def _path(text: str) -> Path:
    if not text:
        raise ValueError("the path is empty")
    return Path(text)


def _version_policy(text: str) -> VersionPolicy:
    is_json = text.lstrip().startswith("{")
    return parse_version_policy(_object(text, '{"specific": {"versions": [1, 3]}}') if is_json else text)


def _object(text: str, example: str) -> dict[str, Any]:
    """A JSON object. Raises :class:`ValueError` that shows one."""
    problem = ""
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        value, problem = None, f" ({error.msg} at character {error.pos + 1})"
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, such as {example}{problem}")
    return value


def _session_config(text: str) -> dict[str, Any]:
    return _object(text, '{"intra_op_parallelism_threads": 2}')


def _policies(text: str) -> dict[str, Any]:
    return _object(text, '{"1": {"queue_timeout_ms": 50}}')


def _labels(text: str) -> dict[str, int]:
    labels = _object(text, '{"stable": 1}')
    if any(type(version) is not int or version < 0 or not label for label, version in labels.items()):
        raise ValueError('expected a JSON object of version numbers by label, such as {"stable": 1}')
    return labels


def _file_if_any(text: str) -> Path | None:
    return Path(text) if text else None


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(part) for part in text.split(",") if part)


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _metrics_names(text: str) -> tuple[str, ...]:
    names = _words(text.lower())
    if unknown := [name for name in names if name not in ("triton", "tfserving")]:
        raise ValueError(f"{unknown[0][:60]!r} is not triton or tfserving")
    return tuple(dict.fromkeys(names))


def _collector(text: str) -> str:
    if text.lower() == "off":
        return ""
    if not re.match(r"https?://[^/\s]", text):
        raise ValueError("expected off, or the address of a collector, such as http://127.0.0.1:4318")
    return text


def _share(text: str) -> float:
    return _number(text, 0, 1, "a number from 0 to 1, such as 0.1")


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def _origins(text: str) -> tuple[str, ...]:
    origins = _words(text)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin[:60]!r} is no origin: expected SCHEME://HOST or SCHEME://HOST:PORT in lower case, "
                "without a path or a slash at the end"
            )
    return tuple(dict.fromkeys(origins))


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError("expected whole numbers with commas between, such as 8,32,128") from None


def _bytes(text: str) -> int:
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    number, unit = (text[:-1], units[text[-1].lower()]) if text[-1:].lower() in units else (text, 1)
    try:
        value = int(number) * unit
    except ValueError:
        value = 0
    if value <= 0:
        raise ValueError("expected a positive number of bytes, such as 268435456 or 256M")
    return value


def _folder_if_any(text: str) -> Path | None:
    """A folder; none for the words of a switch, which old scripts have."""
    return None if text.strip().lower() in ("", "true", "1", "yes", "on", "false", "0", "no", "off") else Path(text)


def _slots(text: str) -> int | None:
    if text.lower() in ("auto", "off"):
        return None if text.lower() == "auto" else 0
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError("expected auto, off or a whole number, 1 or more")
    return int(text)


def _weight(text: str) -> float:
    return _number(text, 0.001, 1000, "a number from 0.001 to 1000, such as 2")


def _folder_or_switch(text: str) -> str:
    if not text.strip():
        raise ValueError("expected auto, off or a folder")
    return text.lower() if text.lower() in ("auto", "off") else text


def _bytes_or_none(text: str) -> int:
    if text.strip() == "0":
        return 0
    try:
        return _bytes(text)
    except ValueError:
        raise ValueError("expected a number of bytes, such as 268435456 or 256M, or 0") from None


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(?::[0-9]{1,5})?", text.lower()):
        raise ValueError("expected auto, cpu, cuda, or cuda:N for the GPU of that number")
    return text.lower()


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError("expected one of " + ", ".join(allowed))
        return text.lower()

    return parse


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that can be said by flag ``--name``, by ``STFS_NAME``, and in the file under ``name``."""

    name: str
    parse: Callable[[str], Any]
    default: str
    help: str
    group: str
    env: str = ""
    joint: str = ","
    """What stands in the text between the elements of what is a list in the file."""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return self.env or f"STFS_{self.name.upper()}"


_MODEL, _IMAGES, _BATCH, _SERVER, _SECURITY, _LIFECYCLE, _LOG = (
    "the model",
    "images that are uploaded (for every model; each may say its own in the config file)",
    "batching (of every model; each may say its own in the config file)",
    "the server",
    "security",
    "versions and shutdown",
    "logs and old flags",
)

OPTIONS: tuple[Option, ...] = (
    Option("model_name", _model_name, "default", "name to serve it under", _MODEL),
    Option("model_base_path", _path, "./model", "a model file, or a folder of numbered versions", _MODEL),
    Option("model_platform", str, "", "tensorflow, onnx, scikitlearn, ... (told by the files if not given)", _MODEL),
    Option("model_config_file", str, "", "JSON file with model_config_list, instead of the three above", _MODEL),
    Option("model_version_policy", _version_policy, "latest", "latest, latest:N, all, or specific:1,3", _MODEL),
    Option("version_labels", _labels, "{}", 'names of versions as JSON, such as {"stable": 1}', _MODEL),
    Option("custom_op_paths", _paths, "", "TensorFlow custom ops: .so files or folders, comma-separated", _MODEL),
    Option("session_config", _session_config, "{}", "TensorFlow session options as JSON", _MODEL),
    Option("device", _device, "auto", "auto, cpu, cuda, or cuda:N for the GPU of that number", _MODEL),
    Option("threads", _count, "0", "threads that one run of a model may use; 0: chosen for you", _MODEL),
    Option(
        "memory_limit",
        _bytes_or_none,
        "0",
        "memory that each model may have, of its GPU or its own process (K, M, G; implies isolation); 0: any",
        _MODEL,
    ),
    Option(
        "cuda_graphs",
        _boolean,
        "false",
        "on a GPU, capture the model once for each of allowed_batch_sizes (ONNX and PyTorch)",
        _MODEL,
    ),
    Option("isolation", _choice("auto", "thread", "process"), "auto", "process: run it in a worker process", _MODEL),
    Option("instances", _positive, "1", "batches that may run at once, each on an instance of the model", _MODEL),
    Option(
        "cpus",
        placement.parse_cpus,
        "",
        "cores for worker processes, such as 0-3, or with ; between for each instance: 0-3;4-7 (implies isolation)",
        _MODEL,
        joint=";",
    ),
    Option("gpus", placement.parse_gpus, "", "GPUs to spread instances over, such as 0,1", _MODEL),
    Option(
        "run_timeout_s",
        _duration,
        "0",
        "seconds that one run may take before its requests get 504 and it is given up; 0: no limit",
        _MODEL,
    ),
    Option("python", str, "", "interpreter of the worker process, of another environment (implies isolation)", _MODEL),
    Option("signature_file", str, "", "JSON file of inputs and outputs, where the model does not tell", _MODEL),
    Option("processing_file", str, "", "Python file with preprocess and postprocess functions", _MODEL),
    Option("trusted_types", _words, "", "types that a .skops file may hold, comma-separated", _MODEL),
    Option(
        "enable_model_warmup",
        _boolean,
        "true",
        "run the requests in assets.extra/tf_serving_warmup_requests before a version serves",
        _MODEL,
    ),
    Option("image_layout", _choice(*images.LAYOUTS), "auto", "nhwc or nchw, where the shape does not tell", _IMAGES),
    Option("image_channels", _choice(*images.CHANNELS), "auto", "rgb, bgr, rgba or l (grey)", _IMAGES),
    Option("image_scale", images.ratio, "1", "values are (pixel * scale - mean) / std; such as 1/255", _IMAGES),
    Option("image_mean", images.per_channel, "0", "one number, or one for each channel", _IMAGES),
    Option("image_std", images.divisors, "1", "one number, or one for each channel", _IMAGES),
    Option(
        "image_resize", _choice(*images.RESIZES), "stretch", "for other sizes: stretch, crop, pad or exact", _IMAGES
    ),
    Option(
        "image_strings",
        _choice(*images.STRINGS),
        "auto",
        "what inputs of strings get: base64 (url-safe), or bytes; auto: bytes if the name ends in _bytes",
        _IMAGES,
    ),
    Option("jvm_heap", _bytes, "512M", "heap of the process that hosts PMML and H2O models (K, M, G)", _SERVER),
    Option("max_batch_size", _positive, "128", "rows that one run may take", _BATCH),
    Option("batch_timeout_ms", _duration, "0", "ms a lone request may wait for company; 0: never wait", _BATCH),
    Option("max_enqueued", _positive, "10000", "rows that may queue before requests get 503", _BATCH),
    Option("allowed_batch_sizes", _sizes, "", "pad batches up to one of these, such as 8,32,128", _BATCH),
    Option(
        "max_enqueued_bytes",
        _bytes_or_none,
        "1G",
        "bytes of inputs that may queue before requests get 503; 0: any",
        _BATCH,
    ),
    Option("max_enqueued_requests", _count, "0", "requests of one priority that may queue; 0: any number", _BATCH),
    Option("queue_timeout_ms", _duration, "0", "ms a request may wait for its run to begin; 0: any time", _BATCH),
    Option(
        "queue_timeout_action",
        _choice(*ACTIONS),
        "reject",
        "what comes then: reject (503), or delay: the others of its priority go first",
        _BATCH,
    ),
    Option(
        "preferred_batch_sizes",
        _sizes,
        "",
        "let a batch leave as soon as it has one of these sizes, such as 4,8",
        _BATCH,
    ),
    Option("priority_levels", _count, "0", "levels that requests may ask for, 1 goes first; 0: none", _BATCH),
    Option("default_priority_level", _count, "0", "level of requests that ask for none; 0: the last", _BATCH),
    Option(
        "priority_policies",
        _policies,
        "{}",
        'bounds of single levels as JSON, such as {"1": {"queue_timeout_ms": 50, "max_enqueued": 100}}',
        _BATCH,
    ),
    Option("batching", _choice("adaptive", "eager"), "adaptive", "eager: learn nothing, never wait or refuse", _BATCH),
    Option(
        "latency_slo_ms", _duration, "0", "ms by which answers are wanted; late ones get 503 early; 0: none", _BATCH
    ),
    Option("calibrate", _boolean, "true", "time the model's runs when it is loaded (1 s at most)", _BATCH),
    Option(
        "calibration_cache",
        _folder_or_switch,
        "auto",
        "folder to keep those times in for the next start; auto: one of the user's own; off: none",
        _BATCH,
    ),
    Option("cache_bytes", _bytes_or_none, "0", "memory for answers to equal requests (K, M, G); 0: keep none", _BATCH),
    Option("single_flight", _boolean, "false", "run equal requests that are under way at a time once", _BATCH),
    Option("share_weight", _weight, "1", "part of the run slots beside other busy models, in proportion", _BATCH),
    Option(
        "pad_variable_length_inputs",
        _boolean,
        "false",
        "pad inputs of requests of unlike length to the largest of a batch, as TensorFlow Serving does",
        _BATCH,
    ),
    Option(
        "sequence_buckets", shapes.parse_buckets, "", "pad dimension 1 of inputs up to one of these: 32,64,128", _BATCH
    ),
    Option("padded_inputs", _words, "", "the inputs that are padded, if not all that vary past dimension 0", _BATCH),
    Option("pad_value", shapes.parse_pad_values, "", "what to pad with: VALUE, or INPUT=VALUE for each", _BATCH),
    Option("mask_input", shapes.parse_pairs, "", "inputs to fill with 1, padding 0: MASK, or MASK=INPUT", _BATCH),
    Option("ragged_inputs", _words, "", "inputs that JSON may hold rows of unlike length of", _BATCH),
    Option("cut_outputs", shapes.parse_cuts, "", "outputs to cut to the length of an input: OUTPUT=INPUT", _BATCH),
    Option("batchable", _boolean, "true", "false: run every request by itself", _BATCH),
    Option("host", str, "0.0.0.0", "address to listen on", _SERVER),
    Option("port", _port, "8500", "port to listen on; 0: any free one", _SERVER),
    Option("grpc_port", _port_if_any, "", "port to serve gRPC on; 0: any free one; no port: no gRPC", _SERVER),
    Option("grpc_socket_path", str, "", "Unix socket to serve gRPC on, alone or beside the port", _SERVER),
    Option(
        "dialect",
        _choice("stfs", "tfserving", "kserve"),
        "stfs",
        "whose answers GET /v1/models, GET /v1/models/NAME and :predict give: stfs, tfserving or kserve",
        _SERVER,
    ),
    Option("max_request_bytes", _bytes, "256M", "bytes a request body may have (K, M, G)", _SERVER),
    Option("max_image_pixels", _positive, "50000000", "pixels that an uploaded image may have", _SERVER),
    Option(
        "download_inference_images",
        _folder_if_any,
        "",
        "folder to keep uploaded images in; none are kept unless it is named",
        _SERVER,
    ),
    Option("compress_over", _bytes_or_none, "64K", "compress larger answers for clients that ask; 0: never", _SERVER),
    Option("request_timeout_s", _duration, "0", "seconds a request may take before it gets 504; 0: no limit", _SERVER),
    Option("workers", _positive, "1", "processes that accept and answer HTTP requests", _SERVER),
    Option(
        "engine",
        _choice("auto", "shared", "replicated"),
        "auto",
        "with workers over 1: shared runs each model once for all of them, replicated in each; auto: by the model",
        _SERVER,
    ),
    Option(
        "run_slots",
        _slots,
        "auto",
        "runs that go on at once where several models are busy: a number, auto (what the processors bear) or off",
        _SERVER,
    ),
    Option(
        "client_share",
        _choice("off", "address", "user"),
        "off",
        "let clients take turns, and refuse who has more than its share of a queue; clients are addresses or users",
        _SERVER,
    ),
    Option("hot_path", _choice("auto", "off"), "auto", "off: let aiohttp handle every request", _SERVER),
    Option(
        "model_control",
        _choice("none", "explicit"),
        "none",
        "explicit: let clients load and unload the configured models, by Triton's repository calls",
        _SECURITY,
    ),
    Option(
        "allow_config_reload",
        _boolean,
        "false",
        "let clients of gRPC say which models of this machine are served, code in pickles included",
        _SECURITY,
    ),
    Option("enable_auth", _boolean, "false", "ask for a user name and password", _SECURITY),
    Option("auth_username", _user_name, "admin", "the user name", _SECURITY),
    Option("auth_password", str, "admin", "the password", _SECURITY),
    Option(
        "allow_default_password",
        _boolean,
        "false",
        "listen on more than this machine though nobody has chosen a password",
        _SECURITY,
    ),
    Option(
        "auth_users_file",
        _file_if_any,
        "",
        "file of users, passwords and tokens (stfs user); implies enable_auth, looked at again when it changes",
        _SECURITY,
    ),
    Option(
        "auth_failures_per_minute",
        _count,
        "30",
        "wrong credentials that an address may send a minute before it gets 429; 0: any number",
        _SECURITY,
    ),
    Option("enable_ssl", _boolean, "false", "serve HTTPS, and gRPC over TLS", _SECURITY),
    Option("secret_pem", str, "secret.pem", "certificate file", _SECURITY),
    Option("secret_key", str, "secret.key", "private key file", _SECURITY),
    Option("ssl_client_ca", _file_if_any, "", "let in only clients with a certificate of these authorities", _SECURITY),
    Option(
        "ssl_client_verify",
        _choice("required", "optional"),
        "required",
        "optional: over HTTPS, clients may also show no certificate",
        _SECURITY,
    ),
    Option("enable_cors", _boolean, "true", "let pages of other origins call the API", _SECURITY),
    Option("cors_origins", _origins, "", "only pages of these origins, such as https://a,https://b", _SECURITY),
    Option("reload_models", _boolean, "true", "watch for new and removed versions", _LIFECYCLE),
    Option("model_poll_interval_s", _duration, "1", "seconds between two looks at the model's folder", _LIFECYCLE),
    Option("max_load_retries", _count, "5", "times to try again to load a version that failed", _LIFECYCLE),
    Option(
        "drain_timeout_s", _duration, "60", "seconds a replaced version may take to finish its requests", _LIFECYCLE
    ),
    Option("shutdown_delay_s", _duration, "0", "seconds to answer 'not ready' before closing the port", _LIFECYCLE),
    Option("shutdown_timeout_s", _duration, "30", "seconds that requests in flight may take at shutdown", _LIFECYCLE),
    Option("log_level", _choice("debug", "info", "warning", "error", "critical"), "info", "how much to log", _LOG),
    Option(
        "metrics_names",
        _metrics_names,
        "",
        "more names for metrics, comma-separated: triton (at /metrics), tfserving (at /monitoring/prometheus/metrics)",
        _LOG,
    ),
    Option("access_log", _choice("off", "json"), "off", "json: one line of JSON for each HTTP request", _LOG),
    Option("access_log_file", str, "", "file to append the access log to, in place of standard error", _LOG),
    Option("access_log_sample", _positive, "1", "log one request in so many", _LOG),
    Option("tracing", _collector, "off", "OTLP/HTTP collector of traces, such as http://127.0.0.1:4318, or off", _LOG),
    Option("tracing_sample", _share, "1", "share of the requests that come without a trace to trace, 0 to 1", _LOG),
    Option("debug", _boolean, "false", "the same as --log_level=debug", _LOG),
    Option(
        "enable_b64_autoconvert",
        _boolean,
        "true",
        'accepted for old scripts: {"b64": ...} is always understood where the model takes strings',
        _LOG,
        env="STFS_B64_AUTOCONVERT",
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}

MODEL_KEYS = {
    "name": "model_name",
    "base_path": "model_base_path",
    "platform": "model_platform",
    "version_policy": "model_version_policy",
} | {
    key: key
    for key in (
        "version_labels",
        "custom_op_paths",
        "session_config",
        "device",
        "threads",
        "memory_limit",
        "cuda_graphs",
        "isolation",
        "instances",
        "cpus",
        "gpus",
        "run_timeout_s",
        "python",
        "signature_file",
        "processing_file",
        "trusted_types",
        "enable_model_warmup",
        "max_batch_size",
        "batch_timeout_ms",
        "max_enqueued",
        "allowed_batch_sizes",
        "max_enqueued_bytes",
        "max_enqueued_requests",
        "queue_timeout_ms",
        "queue_timeout_action",
        "preferred_batch_sizes",
        "priority_levels",
        "default_priority_level",
        "priority_policies",
        "batching",
        "latency_slo_ms",
        "calibrate",
        "calibration_cache",
        "cache_bytes",
        "single_flight",
        "share_weight",
        "pad_variable_length_inputs",
        "sequence_buckets",
        "padded_inputs",
        "pad_value",
        "mask_input",
        "ragged_inputs",
        "cut_outputs",
        "batchable",
        "image_layout",
        "image_channels",
        "image_scale",
        "image_mean",
        "image_std",
        "image_resize",
        "image_strings",
    )
}
"""Keys of an entry of ``model_config_list``, and the option that gives each its default and its parser."""


def nearest(word: str, known: Iterable[str], shown: str = "{}") -> str:
    """``", did you mean ...?"``, by the closest of ``known``, written as ``shown``; nothing if none is close.

    >>> nearest("prot", ["port", "host"], "--{}")
    ', did you mean --port?'
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f", did you mean {shown.format(close[0])}?" if close else ""


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            close = nearest(flag.lstrip("-").replace("-", "_"), BY_NAME, "--{}") if flag.startswith("--") else ""
            self.error(f"unknown argument {unknown[0][:80]}{close}")
        return given

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def build_parser(prog: str, *, positional: bool) -> argparse.ArgumentParser:
    """The command line of ``stfs serve`` (with a positional PATH) and ``simple_tensorflow_serving`` (without)."""
    parser = _Parser(
        prog=prog,
        description="Serve trained models over HTTP.",
        epilog="Every flag is also an environment variable (STFS_PORT=8500) and a key of the config file. "
        "Flags beat the environment, the environment beats the file; in the file, what a model says of itself "
        "beats what stands beside model_config_list.",
        allow_abbrev=False,
    )
    if positional:
        parser.add_argument("path", nargs="?", metavar="PATH", help="the model: the same as --model_base_path")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in OPTIONS:
        group = groups.get(option.group) or groups.setdefault(option.group, parser.add_argument_group(option.group))
        # A bare --flag of a switch means true; every value stays text here, so that all sources parse alike.
        bare: dict[str, Any] = {"nargs": "?", "const": "true"} if option.parse is _boolean else {}
        shown = f" (default: {option.default})" if option.default else ""
        spellings = dict.fromkeys((f"--{option.name}", f"--{option.name.replace('_', '-')}"))
        group.add_argument(
            *spellings,
            dest=option.name,
            metavar=_metavar(option),
            help=(option.help + shown).replace("%", "%%"),
            **bare,
        )
    return parser


def _metavar(option: Option) -> str:
    if option.name.endswith(("_s", "_ms")):
        return option.name.rpartition("_")[2].upper()
    kinds: dict[Any, str] = {
        _boolean: "BOOL",
        _bytes: "BYTES",
        _bytes_or_none: "BYTES",
        _session_config: "JSON",
        _policies: "JSON",
        _labels: "JSON",
    }
    counts = (_positive, _count, _port, _port_if_any)
    return "N" if option.parse in counts else kinds.get(option.parse, "TEXT")
