"""TensorFlow SavedModels, of TF1 and TF2 alike, through one session. Owns the session and the two routes into it.

The fast route is ``Session._make_callable_from_options`` with every kernel on the calling thread: 13 to 20 times
cheaper a call than ``Session.run``. It is private API, so ``Session.run`` stands by with the same answers, and tests
run both. What a SavedModel says about itself is read in :mod:`stfs.platforms.saved_model`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import ConfigError, InvalidRequest, LoadFailed, ModelFailed, PlatformMissing
from stfs.platforms.base import LoadOptions, Platform, Servable, all_cores, model_files, one_line, owned, usable_cores
from stfs.platforms.saved_model import Binding, choose_tags, read_bindings
from stfs.signature import Array, Tensors

NAMES = ("saved_model.pb", "saved_model.pbtxt")
SESSION_KEYS = ("log_device_placement", "allow_soft_placement", "allow_growth", "per_process_gpu_memory_fraction")

COPY_BYTES = 16 << 10

Route = Callable[[Sequence[Array]], Sequence[Array]]

logger = logging.getLogger(__name__)


class TensorFlowPlatform(Platform):
    """A folder that holds ``saved_model.pb`` or ``saved_model.pbtxt``, or that file itself."""

    name = "tensorflow"
    aliases = ("tf", "savedmodel")
    extra = "tensorflow"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`."""
        return bool(model_files(path, (), NAMES))

    def load(self, path: Path, options: LoadOptions) -> TensorFlowServable:
        """See :meth:`Platform.load`.

        ``options.threads`` is the size of TensorFlow's pool for work inside one kernel. The pool belongs to the
        process, and the first model that loads makes it; 0 means a thread a core. Raises :class:`ConfigError` for a
        key of ``session_config`` or a custom op's path that is wrong.
        """
        tf = _import(self)
        folder = path.parent if path.is_file() else path
        config = session_config(tf, options)
        for library in op_libraries(options.custom_op_paths):
            try:
                tf.load_op_library(str(library))
            except (tf.errors.OpError, OSError, RuntimeError) as error:
                raise LoadFailed(f"{library}: the custom op does not load: {one_line(error)}") from error
        _check_device(tf, options.device, folder)
        tags = choose_tags(folder, options.saved_model_tags)
        graph = tf.Graph()
        session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                # Exports of distributed training name parameter servers that are not there.
                meta_graph = tf.compat.v1.saved_model.loader.load(session, tags, str(folder), clear_devices=True)
            servable = TensorFlowServable(tf, session, read_bindings(tf, meta_graph, folder))
        except Exception as error:
            session.close()
            if isinstance(error, LoadFailed):
                raise
            raise LoadFailed(f"{folder}: {told(str(error)) or type(error).__name__}") from error
        servable.on_gpu = _uses_gpu(tf, options.device)
        servable.runtime = f"tensorflow {tf.__version__}, {'GPU' if _uses_gpu(tf, options.device) else 'CPU'}"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


class TensorFlowServable(Servable):
    """A session and one route a signature; ``run`` may be called on many threads at once."""

    platform = TensorFlowPlatform.name
    concurrent = True
    # TensorFlow: sessions are safe for concurrent Run (session.h, and its public API's documentation).

    def __init__(self, tf: Any, session: Any, bindings: Mapping[str, Binding]) -> None:
        self._session = session
        self._bindings = bindings
        self.signatures = {name: binding.signature for name, binding in bindings.items()}
        self._routes: dict[str, Route] = {name: _route(session, b.feeds, b.fetches) for name, b in bindings.items()}
        self._blames_input = (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, ValueError, TypeError)
        self._op_error = tf.errors.OpError

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`.

        TensorFlow checks that inputs fit the graph, not that they have equal numbers of rows:
        ``Signature.bind`` has done that.
        """
        binding = self._bindings[signature_name]
        values = [
            inputs[name] if dtype is None else inputs[name].astype(dtype)
            for name, dtype in zip(binding.input_names, binding.feed_dtypes, strict=True)
        ]
        try:
            fetched = self._routes[signature_name](values)
        except self._blames_input as error:
            raise InvalidRequest(told(str(error)) or type(error).__name__) from error
        except self._op_error as error:
            raise ModelFailed(told(str(error)) or type(error).__name__) from error
        outputs: Tensors = {}
        for name, spec, source in zip(binding.output_names, binding.signature.outputs, binding.sources, strict=True):
            value = values[-1 - source] if source < 0 else fetched[source]
            # Scalars come bare from Session.run; bfloat16 is shown to clients as float32.
            outputs[name] = _detached(np.asarray(value, dtype=spec.dtype), values)
        return outputs

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._routes.clear()  # callables give their handles back to a session that is still open
        self._session.close()
        self._session = None


def _detached(array: Array, inputs: Sequence[Array]) -> Array:
    """What TensorFlow returned, so that no write reaches the caller's inputs or the model.

    An identity hands back the input's own memory, if that is aligned; a constant or a variable hands out its own.
    Small arrays are copied, which is cheaper than asking; of large ones, those in an input's memory are copied, and
    the rest made read-only, since constants cannot be told from results.
    """
    if array.nbytes <= COPY_BYTES:
        return array.copy()
    array = owned(array, inputs)
    array.flags.writeable = False
    return array


def _route(session: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Route:
    """From values in the order of ``feeds`` to those of ``fetches``: the fast route, or where it is gone, the plain."""
    try:
        from tensorflow.core.protobuf import config_pb2

        settings = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        settings.run_options.inter_op_thread_pool = -1  # on the calling thread: no hand-over between threads
        call = session._make_callable_from_options(settings)
    except (ImportError, AttributeError, TypeError) as error:
        logger.warning("this TensorFlow has no fast route (%s): requests take Session.run", one_line(error))
        return lambda values: list(session.run(list(fetches), dict(zip(feeds, values, strict=True))))
    return lambda values: list(call(*values))


def session_config(tf: Any, options: LoadOptions) -> Any:
    """``ConfigProto`` of the options; raises :class:`ConfigError` for a key of ``session_config`` that there is not."""
    # 0 lets TensorFlow take every core; where some are left to others, it has to be told.
    threads = options.threads or (usable_cores() if usable_cores() < all_cores() else 0)
    config = tf.compat.v1.ConfigProto(allow_soft_placement=True, intra_op_parallelism_threads=threads)
    # TensorFlow's own default takes all memory of the device, and leaves none to the models of other frameworks.
    config.gpu_options.allow_growth = True
    if options.device == "cpu":
        config.device_count["GPU"] = 0
    elif options.memory_limit_bytes:
        # Each of them, since the list has to tell of all; in a process of its own the model takes no more than one.
        for _ in tf.config.list_physical_devices("GPU"):
            limit_mb = options.memory_limit_bytes / (1 << 20)
            config.gpu_options.experimental.virtual_devices.add(memory_limit_mb=[limit_mb])
    for key, value in options.session_config.items():
        if key not in SESSION_KEYS:
            raise ConfigError(f'session_config: unknown key "{key}"; there are {", ".join(SESSION_KEYS)}')
        target = config.gpu_options if key in SESSION_KEYS[2:] else config
        try:
            setattr(target, key, float(value) if key == SESSION_KEYS[3] else _boolean(value))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"session_config: {key} cannot be {value!r}") from error
    return config


def op_libraries(paths: Iterable[Path]) -> list[Path]:
    """The shared libraries that ``paths`` name: each a ``.so`` file, or a folder of them.

    Raises :class:`ConfigError` for a path that is neither.
    """
    libraries: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix == ".so")
            if not inside:
                raise ConfigError(f"custom_op_paths: {path} holds no .so file")
            libraries += inside
        elif not path.exists():
            raise ConfigError(f"custom_op_paths: {path} does not exist")
        elif path.suffix != ".so":
            raise ConfigError(f"custom_op_paths: {path} is not a .so file")
        else:
            libraries.append(path)
    return libraries


def told(message: str) -> str:
    """TensorFlow's message without the names of nodes, traces and counts of errors around it: one line."""
    if "root error(s) found" in message:
        found = re.search(r"^\s*\(0\) (?:[A-Z_]+: )?(.*)$", message, re.MULTILINE)
        message = found.group(1) if found else message
    if message.startswith("Graph execution error:"):
        _, _, message = message.rpartition("\nNode: ")
        message = message.partition("\n")[2]
    message = re.sub(r"\{\{.*?\}\}\s*|\[Op:\w+\]", "", message)
    return one_line(message)


def _boolean(value: Any) -> bool:
    """True of ``True``, ``1``, ``"true"``, ``"1"``; config files and flags bring both kinds."""
    text = str(value).strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text in ("true", "1")


def _import(platform: Platform) -> Any:
    """TensorFlow, told beforehand not to chat; 3 to 15 s the first time."""
    quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        import tensorflow
    except ImportError as error:
        raise PlatformMissing(platform.name, platform.extra, one_line(error)) from error
    if quiet:
        tensorflow.get_logger().setLevel(logging.ERROR)  # deprecation of the v1 API, which serves both kinds of model
    return tensorflow


def _uses_gpu(tf: Any, device: str) -> bool:
    return device != "cpu" and bool(tf.config.list_physical_devices("GPU"))


def _check_device(tf: Any, device: str, folder: Path) -> None:
    if device == "cuda" and not _uses_gpu(tf, device):
        raise LoadFailed(
            f"{folder}: device cuda was asked for, but TensorFlow sees no GPU: "
            'run pip install "stfs[tensorflow-gpu]", and check that the driver works'
        )
