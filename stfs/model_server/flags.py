"""The flags of ``tensorflow_model_server``: names, kinds and defaults, and the reading of a command line.

Source: ``tensorflow_serving/model_servers/main.cc`` and ``server.h`` for what there is, and for how it is spelled
``tsl/util/command_line_flags.cc``: ``--flag=value``, and of a switch also ``--flag`` alone. Taken beyond that: a value
as the next argument, of any flag that is no switch. What the flags amount to is ``settings``' to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stfs.errors import ConfigError

Kind = Literal["int32", "int64", "bool", "float", "string"]
Value = int | bool | float | str

_BITS: Mapping[str, int] = {"int32": 31, "int64": 63}


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``ignored`` says why it changes nothing here; empty for a flag that counts."""

    name: str
    kind: Kind
    default: Value
    help: str
    ignored: str = ""

    def parse(self, text: str) -> Value:
        """The value that ``text`` stands for. Raises :class:`ConfigError` naming the flag."""
        try:
            match self.kind:
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "float":
                    number = float(text)
                    if not math.isfinite(number):
                        raise ValueError(text)
                    return number
                case "string":
                    return text
                case _:
                    if not -(1 << _BITS[self.kind]) <= int(text) < 1 << _BITS[self.kind] or "_" in text:
                        raise ValueError(text)
                    return int(text)
        except (KeyError, ValueError):
            wanted = {"bool": "true or false", "float": "a number"}.get(self.kind, "a whole number")
            raise ConfigError(f"--{self.name}={text}: expected {wanted}") from None


_ONE_THREAD_EACH = "each model's runs have a thread of their own"
_ONE_LOOP = "one event loop serves all connections"
_NO_TFLITE = "TensorFlow Lite models are not served"
_LOADS = "versions load on threads, a few at once, beside what serves"

FLAGS: tuple[Flag, ...] = (
    Flag("port", "int32", 8500, "port for gRPC; 0: none"),
    Flag("grpc_socket_path", "string", "", "Unix socket for gRPC, alone or beside the port"),
    Flag("rest_api_port", "int32", 0, "port for HTTP/REST, another than --port; 0: none"),
    Flag("rest_api_num_threads", "int32", 0, "threads for HTTP/REST", _ONE_LOOP),
    Flag("rest_api_timeout_in_ms", "int32", 30000, "time limit of an HTTP/REST call"),
    Flag("rest_api_enable_cors_support", "bool", False, "let pages of other origins call the REST API"),
    Flag(
        "enable_batching", "bool", False, "take the batching parameters of the file, or TensorFlow Serving's defaults"
    ),
    Flag(
        "allow_version_labels_for_unavailable_models",
        "bool",
        False,
        "let new labels stand for versions that are not available yet",
    ),
    Flag("batching_parameters_file", "string", "", "BatchingParameters as text; needs --enable_batching"),
    Flag(
        "enable_per_model_batching_parameters",
        "bool",
        False,
        "read batching_params.pbtxt of each model",
        "the parameters of --batching_parameters_file hold for every model",
    ),
    Flag(
        "model_config_file", "string", "", "ModelServerConfig as text; --model_name and --model_base_path are ignored"
    ),
    Flag(
        "model_config_file_poll_wait_seconds", "int32", 0, "seconds between looks at --model_config_file; 0: only once"
    ),
    Flag("model_name", "string", "default", "name to serve the model under"),
    Flag("model_base_path", "string", "", "folder of numbered versions, an absolute path"),
    Flag("num_load_threads", "int32", 0, "threads to load models on", _LOADS),
    Flag("num_unload_threads", "int32", 0, "threads to unload models on", _LOADS),
    Flag("max_num_load_retries", "int32", 5, "times to try again to load a version that failed"),
    Flag("load_retry_interval_micros", "int64", 60_000_000, "time between two tries to load; negative: none"),
    Flag("file_system_poll_wait_seconds", "int32", 1, "seconds between looks for new versions; 0 and less: only once"),
    Flag("flush_filesystem_caches", "bool", True, "flush file caches after loading", "the kernel does so when it must"),
    Flag("tensorflow_session_parallelism", "int64", 0, "threads that a run of a model may use; 0: chosen for you"),
    Flag("tensorflow_session_config_file", "string", "", "ConfigProto as text"),
    Flag("tensorflow_intra_op_parallelism", "int64", 0, "threads that one operation may use; 0: chosen for you"),
    Flag("tensorflow_inter_op_parallelism", "int64", 0, "operations at a time", _ONE_THREAD_EACH),
    Flag("use_alts_credentials", "bool", False, "use Google's ALTS credentials"),
    Flag("ssl_config_file", "string", "", "SSLConfig as text: serve gRPC over TLS"),
    Flag("platform_config_file", "string", "", "PlatformConfigMap as text"),
    Flag(
        "per_process_gpu_memory_fraction", "float", 0.0, "part of the GPU's memory to take, 0.0 to 1.0; 0: as it needs"
    ),
    Flag("saved_model_tags", "string", "serve", "tags of the graph to load from a SavedModel, comma-separated"),
    Flag("grpc_channel_arguments", "string", "", "options of the gRPC server, such as grpc.max_connection_age_ms=2000"),
    Flag("grpc_max_threads", "int32", 0, "threads for gRPC", _ONE_LOOP),
    Flag("enable_model_warmup", "bool", True, "run assets.extra/tf_serving_warmup_requests before a version serves"),
    Flag("num_request_iterations_for_warmup", "int32", 0, "times each warm-up request is run; 0 and less: once"),
    Flag("version", "bool", False, "print the version"),
    Flag("monitoring_config_file", "string", "", "MonitoringConfig as text: Prometheus metrics on the REST port"),
    Flag(
        "remove_unused_fields_from_bundle_metagraph", "bool", True, "keep less of a SavedModel", "nothing of it is kept"
    ),
    Flag("prefer_tflite_model", "bool", False, "prefer model.tflite to saved_model.pb", _NO_TFLITE),
    Flag("num_tflite_pools", "int32", 0, "pools of TensorFlow Lite interpreters", _NO_TFLITE),
    Flag("num_tflite_interpreters_per_pool", "int32", 1, "TensorFlow Lite interpreters in a pool", _NO_TFLITE),
    Flag(
        "enable_signature_method_name_check",
        "bool",
        False,
        "check the method_name of signatures",
        "a signature is called by classify and regress if its method_name or its tensors fit",
    ),
    Flag("xla_cpu_compilation_enabled", "bool", False, "compile for the CPU", "TensorFlow's own setting holds"),
    Flag("xla_gpu_compilation_enabled", "bool", False, "compile for the GPU", "TensorFlow's own setting holds"),
    Flag("enable_profiler", "bool", True, "serve TensorFlow's profiler", "no profiler is served"),
    Flag("thread_pool_factory_config_file", "string", "", "ThreadPoolFactoryConfig as text", _ONE_THREAD_EACH),
    Flag("mixed_precision", "string", "", "mixed_precision mode", "a model runs in the precision that it was saved in"),
    Flag("skip_initialize_tpu", "bool", False, "do not initialise a TPU", "TPUs are not used"),
    Flag("enforce_session_run_timeout", "bool", True, "end runs at a call's deadline", "a run that began is finished"),
    Flag("enable_grpc_healthcheck_service", "bool", False, "serve gRPC's health service; it is always served"),
    Flag(
        "enable_serialization_as_tensor_content",
        "bool",
        False,
        "answer tensors as bytes",
        "answers carry typed values, which every client reads",
    ),
)

BY_NAME: Mapping[str, Flag] = {flag.name: flag for flag in FLAGS}


@dataclass(frozen=True, slots=True)
class Given:
    """A command line: ``values`` of every flag, by name; ``said`` are those that stood on it."""

    values: Mapping[str, Value]
    said: frozenset[str]

    def text(self, name: str) -> str:
        """A flag of kind string."""
        value = self.values[name]
        assert isinstance(value, str), name
        return value

    def number(self, name: str) -> int:
        """A flag of kind int32 or int64."""
        value = self.values[name]
        assert isinstance(value, int), name
        return value

    def real(self, name: str) -> float:
        """A flag of kind float."""
        return float(self.values[name])

    def on(self, name: str) -> bool:
        """A flag of kind bool."""
        return self.values[name] is True

    def without_meaning(self) -> tuple[str, ...]:
        """A line for each flag that was given another value than its default, and that changes nothing here."""
        return tuple(
            f"--{flag.name} changes nothing here: {flag.ignored}"
            for flag in FLAGS
            if flag.ignored and flag.name in self.said and self.values[flag.name] != flag.default
        )


def parse(argv: Sequence[str]) -> Given:
    """Read a command line; of a flag that stands twice the last one counts.

    Raises :class:`ConfigError` for a flag that there is not, and for a value that its flag cannot have.
    """
    values: dict[str, Value] = {flag.name: flag.default for flag in FLAGS}
    said: set[str] = set()
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = BY_NAME.get(name) if argument.startswith("--") else None
        if flag is None:
            raise ConfigError(f"unknown argument: {argument} (see tensorflow_model_server --help)")
        if not equals and flag.kind == "bool":
            text = "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{name} needs a value: --{name}=...")
            text = rest.pop(0)
        values[name] = flag.parse(text)
        said.add(name)
    return Given(values, frozenset(said))


def renamed(message: str) -> str:
    """A message of the server, which speaks of its own options, in the words of these flags."""
    ours = {"port": "--rest_api_port", "grpc_port": "--port"}
    message = message.replace(" or --host", "")  # which there is not
    return re.sub(r"--(grpc_port|port)\b", lambda match: ours[match[1]], message)


def usage(prog: str) -> str:
    """What ``--help`` prints."""
    lines = [f"usage: {prog}", "Flags:"]
    for flag in FLAGS:
        shown = {True: "true", False: "false"}[flag.default] if isinstance(flag.default, bool) else flag.default
        value = f'"{shown}"' if flag.kind == "string" else shown
        note = f" (changes nothing here: {flag.ignored})" if flag.ignored else ""
        lines.append(f"\t{f'--{flag.name}={value}':<46}\t{flag.kind}\t{flag.help}{note}")
    return "\n".join(lines) + "\n"
