"""ONNX models on onnxruntime. Owns sessions, providers and the mapping of ONNX types to numpy.

How a model with a fixed batch of one learns to take many rows is told in :mod:`stfs.platforms.onnx_rows`, how an old
one is read in :mod:`stfs.platforms.onnx_opset`, how a signature file names things in :mod:`stfs.platforms.onnx_names`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed, ModelFailed, PlatformMissing
from stfs.platforms.base import (
    DEFAULT_SIGNATURE,
    LoadOptions,
    Platform,
    Servable,
    as_bytes,
    gpu_of,
    model_file,
    model_files,
    object_array,
    one_line,
    usable_cores,
)
from stfs.platforms.memory import out_of_memory
from stfs.platforms.onnx_binding import BoundRuns, CapturedRuns
from stfs.platforms.onnx_device import bound_runs, captured_runs, tuned
from stfs.platforms.onnx_names import Names, names_from
from stfs.platforms.onnx_opset import is_old, upgraded
from stfs.platforms.onnx_rows import free_rows, rows_agree
from stfs.platforms.sidecar import find_sidecar
from stfs.signature import STRING, Array, Shape, Signature, Tensors, TensorSpec, can_batch

SUFFIXES = (".onnx",)
NAMES = ("onnx_model.proto",)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

# More threads than this have never paid on the small models that need no tuning; larger ones are told with `threads`.
MOST_DEFAULT_THREADS = 8

DTYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype("float32"),
    "tensor(double)": np.dtype("float64"),
    **{f"tensor({name})": np.dtype(name) for name in ("float16", "bool")},
    **{f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "tensor(string)": STRING,
}
ZIP_MAP = re.compile(r"seq\(map\((?:int64|string),(tensor\((?:float|double)\))\)\)")

logger = logging.getLogger(__name__)


class OnnxPlatform(Platform):
    """``model.onnx``, a single ``*.onnx``, or ``onnx_model.proto``; weights in external files lie beside it."""

    name = "onnx"
    aliases = ("onnxruntime", "ort", "pytorch_onnx")
    extra = "onnx"
    places_on_gpus = True

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`."""
        return bool(model_files(path, SUFFIXES, NAMES))

    def load(self, path: Path, options: LoadOptions) -> OnnxServable:
        """See :meth:`Platform.load`.

        ``options.threads`` is onnxruntime's intra-op threads; 0 means as many as there are usable cores, up to 8.
        Raises :class:`LoadFailed` for ``device="cuda"`` where CUDA does not start.
        """
        file = model_file(path, SUFFIXES, NAMES)
        return load_graph(self, file, options, None, OnnxServable, partial(names_from, find_sidecar(file, options)))


def load_graph(
    platform: Platform,
    file: Path,
    options: LoadOptions,
    content: bytes | None,
    kind: type[Loaded],
    name: Callable[[Signature], Names],
) -> Loaded:
    """The model in ``file``, or the ``content`` that was made of it, as a servable of that ``kind``; blocking.

    ``name`` is given the graph's own signature and says what its inputs and outputs are called here. A batch fixed to
    one is made free where that can be shown to be right. Raises as :meth:`Platform.load` does, on behalf of
    ``platform``.
    """
    # Its wheel records events under the home directory and can send them away: nobody asked for that here.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise PlatformMissing(platform.name, platform.extra, one_line(error)) from error
    wanted = providers(options.device, onnxruntime.get_available_providers())
    if wanted != [CPU] and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # the CUDA libraries of pip's nvidia-* packages are on no loader path

    def open_session(model: Path | bytes, graphs: bool = False) -> Any:
        settings = session_options(onnxruntime, options.threads, file.parent)
        told = tuned(wanted, options, graphs=graphs)
        return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), settings, providers=told)

    source: Path | bytes = file if content is None else content
    try:
        session = open_session(source)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        runtime = f"onnxruntime {onnxruntime.__version__}"
        if content is not None or not is_old(file):
            raise LoadFailed(f"{file}: {_why_not(error, runtime)}") from error
        source = upgraded(file, runtime)
        try:
            session = open_session(source)
        except Exception as second:
            raise LoadFailed(f"{file}: after its upgrade to opset 7: {_why_not(second, runtime)}") from second
    runs_on = session.get_providers()
    if options.device.startswith("cuda") and CUDA not in runs_on:
        raise LoadFailed(
            f"{file}: device {options.device} was asked for, but onnxruntime runs on {', '.join(runs_on)}: "
            'run pip install "stfs[onnx-gpu]" (and uninstall onnxruntime), and check that the driver works'
        )
    names = name(graph_signature(session, file))
    servable = kind(session, file, names)
    servable.source = source
    if fixed_to_one(servable.signature):
        servable = _freed(servable, source, open_session, names)
    if CUDA in runs_on:
        _use_gpu(servable, onnxruntime, partial(open_session, servable.source, graphs=True), options)
    elif options.cuda_graphs:
        logger.warning('model "%s" runs without CUDA graphs: it runs on the CPU', options.model_name)
    servable.on_gpu = CUDA in runs_on
    servable.runtime = f"onnxruntime {onnxruntime.__version__}, {runs_on[0]}"
    by = f", by {servable.bound_by}" if servable.bound_by else ""
    logger.info("model %s runs on %s%s", options.model_name, servable.runtime, by)
    return servable


class OnnxServable(Servable):
    """One onnxruntime session; its ``run`` may be called on many threads at once."""

    platform = OnnxPlatform.name
    concurrent = True
    # onnxruntime: "Run" of one session may be called from several threads (InferenceSession's documentation).
    source: Path | bytes
    """What the session was opened with: the model's file, or what was made of it."""

    def __init__(self, session: Any, file: Path, names: Names) -> None:
        self.file = file
        self.graph = graph_signature(session, file)
        self.session = session
        self._raised = _error_types()
        self.signature = names.rename(self.graph)
        self.signatures = {DEFAULT_SIGNATURE: self.signature}
        self._wanted = [spec.name for spec in self.graph.outputs]
        self._names = [spec.name for spec in self.signature.outputs]
        self._text_inputs = [spec.name for spec in self.signature.inputs if spec.dtype == STRING]
        pairs = zip(self.graph.inputs, self.signature.inputs, strict=True)
        self._fed = {here.name: theirs.name for theirs, here in pairs} if names.inputs else {}
        self._edges = [_edge(node.type) for node in session.get_outputs()]
        self._bound: BoundRuns | CapturedRuns | None = None

    def bind(self, session: Any, runs: BoundRuns | CapturedRuns | None) -> None:
        """Run by ``runs`` of ``session``, which is one of the same model, from now on; ``None``: by plain runs."""
        self.session, self._bound = session, runs
        if isinstance(runs, CapturedRuns):
            self.concurrent = False

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`."""
        feed = inputs
        if self._text_inputs:
            feed = dict(inputs) | {name: _text(name, inputs[name]) for name in self._text_inputs}
        if self._fed:
            feed = {self._fed[name]: value for name, value in feed.items()}
        try:
            bound = self._bound
            values = self.session.run(self._wanted, feed) if bound is None else self._run_bound(bound, feed)
        except self._raised as error:
            raise InvalidRequest(_told(error)) from error
        except Exception as error:
            raise ModelFailed(_told(error)) from error
        return {
            name: value if edge is None else edge(value)
            for name, value, edge in zip(self._names, values, self._edges, strict=True)
        }

    @property
    def bound_by(self) -> str:
        """How it is run: ``IO binding``, ``CUDA graphs``, or empty for plain runs."""
        return {BoundRuns: "IO binding", CapturedRuns: "CUDA graphs"}.get(type(self._bound), "")

    def _run_bound(self, bound: BoundRuns | CapturedRuns, feed: Mapping[str, Array]) -> Sequence[Any]:
        """By kept memory, unless only ``session.run`` works: that is the truth for what the input is to blame for.

        ``bound`` is this run's own: one beside it may just have found out that it does not work.
        """
        try:
            return bound.run(feed)
        except Exception as error:
            if out_of_memory(error) is not None:
                raise
            values = bound.plain(feed)
            if isinstance(bound, BoundRuns):
                self._bound = None
            logger.warning("%s: does not run by IO binding, so requests take session.run: %s", self.file, _told(error))
            return values

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self.session = self._bound = None


Loaded = TypeVar("Loaded", bound=OnnxServable)


def _use_gpu(servable: OnnxServable, onnxruntime: Any, open_graphs: Callable[[], Any], options: LoadOptions) -> None:
    """Have a model that runs on a GPU run by CUDA graphs if they are wanted and it can, else by IO binding."""
    if options.cuda_graphs and (found := captured_runs(onnxruntime, open_graphs, servable.graph, options)):
        servable.bind(*found)
    elif (runs := bound_runs(servable.session, servable.graph)) is not None:
        servable.bind(servable.session, runs)


def graph_signature(session: Any, file: Path) -> Signature:
    """The inputs and outputs of a session under the graph's own names."""
    inputs = tuple(_spec(node, file) for node in session.get_inputs())
    outputs = tuple(_spec(node, file) for node in session.get_outputs())
    return Signature(DEFAULT_SIGNATURE, inputs, outputs, can_batch(inputs, outputs))


def providers(device: str, listed: Sequence[str]) -> list[Any]:
    """The execution providers to ask for. What is listed need not start: the session's own list is the truth."""
    if device == "cpu" or CUDA not in listed:
        return [CPU]
    number = gpu_of(device)
    return [CUDA if number is None else (CUDA, {"device_id": number}), CPU]


def session_options(onnxruntime: Any, threads: int, folder: Path) -> Any:
    """Settings of one session; ``folder`` holds external weights, for a model that is given as bytes."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or min(usable_cores(), MOST_DEFAULT_THREADS)
    settings.inter_op_num_threads = 1  # read in parallel mode only, which is off by default
    # A spinning pool burns the cores that the event loop and the other models need.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    settings.log_severity_level = 4  # errors are raised; printing them too would let clients write our log
    return settings


def fixed_to_one(signature: Signature) -> bool:
    """Whether dimension 0 is 1 in every input, and could be rows in every output."""
    return bool(signature.inputs) and all(
        spec.shape is not None and len(spec.shape) > 0 and spec.shape[0] == 1
        for spec in (*signature.inputs, *(output for output in signature.outputs if output.shape is not None))
    )


def _freed(fixed: Loaded, source: Path | bytes, open_session: Callable[[bytes], Any], names: Names) -> Loaded:
    """The same model taking any number of rows, if that can be shown to give the same answers; else ``fixed``."""
    graph, file = fixed.graph, fixed.file
    try:
        content = free_rows(source, [s.name for s in graph.inputs], [s.name for s in graph.outputs])
        free = type(fixed)(open_session(content), file, names)
        free.source = content
        if free.signature.batchable and rows_agree(
            fixed.signature,
            lambda tensors: fixed.run(DEFAULT_SIGNATURE, tensors),
            lambda tensors: free.run(DEFAULT_SIGNATURE, tensors),
        ):
            logger.info("%s: its fixed batch of 1 was made free, and checked to give the same answers", file)
            return free
        reason = "rows run together do not give the answers of rows run alone"
    except Exception as error:  # whatever goes wrong here, the model as it was written still serves
        reason = one_line(error)
    logger.warning("%s: keeps its fixed batch of 1, so requests cannot share a run: %s", file, reason)
    return fixed


def _spec(node: Any, file: Path) -> TensorSpec:
    if zipped := ZIP_MAP.fullmatch(node.type):
        # One map a row, from class to probability; the classes are known only once it runs.
        return TensorSpec(node.name, DTYPES[zipped.group(1)], (None, None), doc="one column a class, in sorted order")
    if node.type not in DTYPES:
        raise LoadFailed(f'{file}: "{node.name}" is of type {node.type}, which cannot be served')
    return TensorSpec(node.name, DTYPES[node.type], _shape(node.shape))


def _shape(dims: Sequence[Any]) -> Shape | None:
    """Symbolic dimensions come as names or ``None``, and both a scalar and an unknown rank as an empty list."""
    return tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in dims) if dims else None


def _edge(kind: str) -> Callable[[Any], Array] | None:
    """What turns onnxruntime's value of that type into ours; ``None`` if it is ours already."""
    if kind == "tensor(string)":
        return as_bytes
    if zipped := ZIP_MAP.fullmatch(kind):
        dtype = DTYPES[zipped.group(1)]
        return lambda maps: np.array([list(row.values()) for row in maps], dtype).reshape(len(maps), -1 if maps else 0)
    return None


def _text(name: str, values: Array) -> Array:
    """``bytes`` as the ``str`` that onnxruntime wants: given bytes, it would serve their Python repr."""
    try:
        return object_array([v.decode() for v in values.ravel().tolist()], values.shape)
    except UnicodeDecodeError as error:
        raise InvalidInput(name, f"not UTF-8: {error}") from error


def _error_types() -> tuple[type[Exception], ...]:
    """What a session raises for input that it blames."""
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    return (InvalidArgument,)


def _why_not(error: Exception, runtime: str) -> str:
    """Why a session does not open, and what to do where that is plain."""
    text = " ".join(str(error).split())
    if newer := re.search(r"Opset (\d+) is .*till opset (\d+)", text):
        return (
            f"Opset {newer[1]} is newer than {newer[2]}, the newest that {runtime} knows: "
            "upgrade onnxruntime, or export the model for an older opset"
        )
    if newer := re.search(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", text):
        return f"IR version {newer[1]} is newer than {newer[2]}, the newest that {runtime} knows: upgrade onnxruntime"
    if re.search("protobuf parsing failed|No graph was found|Missing opset", text, re.IGNORECASE):
        return f"is damaged, or not an ONNX model: {_told(error)}"
    return _told(error)


def _told(error: Exception) -> str:
    """``[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status ... Status Message: text`` as ``text``."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed: ?", "", text)
    text = re.sub(r"^Non-zero status code returned while running (\w+) node\..*?Status Message: ", r"\1: ", text)
    # Places in onnxruntime's own source: /path/file.h:46 void ns::function(arguments) message
    text = re.sub(r"/\S+\.(?:h|cc|cpp):\d+ (?:[^()]*::\w+\(.*?\)(?: const)? )?", "", text)
    return one_line(text)
