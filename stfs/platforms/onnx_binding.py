"""Runs of onnxruntime with memory that is kept from run to run: IO binding, and CUDA graphs on top of it.

What ``session.run`` does for every call on a GPU is done once here: inputs lie in page-locked buffers that the GPU
reads by itself, outputs are written into such buffers, and with CUDA graphs the whole run is one launch. The same code
runs on the CPU, where tests hold its answers to those of ``session.run``. Must not live here: what errors mean, names,
strings.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stfs.platforms.pinned import HostMemory
from stfs.signature import STRING, Array, Signature, TensorSpec

MOST_KEPT_BYTES = 256 << 20
"""Of page-locked memory that waits for the next run: what one large batch needed is not held for ever."""

NO_GRAPH = "-1"
"""``gpu_graph_id`` of a run that is neither captured nor replayed, in a session with CUDA graphs."""


def can_bind(graph: Signature) -> bool:
    """Whether all sizes of the outputs follow from the number of rows, and everything is numbers."""
    return (
        bool(graph.inputs)
        and all(spec.dtype != STRING and spec.shape for spec in (*graph.inputs, *graph.outputs))
        and all(_has_rows(spec) and None not in (spec.shape or ())[1:] for spec in graph.outputs)
    )


def can_capture(graph: Signature) -> bool:
    """Whether the number of rows settles every size, as a captured graph needs it."""
    return can_bind(graph) and all(_has_rows(spec) and None not in (spec.shape or ())[1:] for spec in graph.inputs)


def _has_rows(spec: TensorSpec) -> bool:
    return spec.varies_in_rows


@dataclass(slots=True)
class _Slot:
    """Buffers of one run at a time, of so many bytes each, and the binding that shows them to the session."""

    binding: Any
    inputs: list[Array]
    outputs: list[Array]

    @property
    def size_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in (*self.inputs, *self.outputs))


class BoundRuns:
    """Runs of one session through kept buffers. Several threads may run at once: each run has buffers to itself.

    ``graph`` is the session's own signature, of which :func:`can_bind` is true.
    """

    def __init__(self, session: Any, graph: Signature, memory: HostMemory) -> None:
        self._session = session
        self._graph = graph
        self._memory = memory
        self._free: list[_Slot] = []
        self._free_bytes = 0
        self._lock = threading.Lock()  # of the two above: runs come in on threads of their own

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """As ``session.run`` with all outputs, by the graph's names; the arrays are new. Raises what it raises."""
        arrays = [feed[spec.name] for spec in self._graph.inputs]
        rows = arrays[0].shape[0]
        shapes = [(rows, *_known(spec)[1:]) for spec in self._graph.outputs]
        sizes = [_bytes(spec, shape) for spec, shape in zip(self._graph.outputs, shapes, strict=True)]
        slot = self._take([array.nbytes for array in arrays], sizes)
        try:
            return self._run(slot, arrays, shapes, sizes)
        finally:
            slot.binding.clear_binding_inputs()
            slot.binding.clear_binding_outputs()
            self._give_back(slot)

    def plain(self, feed: Mapping[str, Array]) -> list[Array]:
        """The same by ``session.run``."""
        return list(self._session.run([spec.name for spec in self._graph.outputs], dict(feed)))

    def _run(
        self, slot: _Slot, arrays: Sequence[Array], shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]
    ) -> list[Array]:
        binding = slot.binding
        for spec, array, buffer in zip(self._graph.inputs, arrays, slot.inputs, strict=True):
            staged = buffer[: array.nbytes].view(array.dtype).reshape(array.shape)
            np.copyto(staged, array)
            binding.bind_input(spec.name, "cpu", 0, spec.dtype.type, array.shape, buffer.ctypes.data)
        for spec, shape, buffer in zip(self._graph.outputs, shapes, slot.outputs, strict=True):
            binding.bind_output(spec.name, "cpu", 0, spec.dtype.type, shape, buffer.ctypes.data)
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return [
            buffer[:size].view(spec.dtype).reshape(shape).copy()
            for spec, shape, size, buffer in zip(self._graph.outputs, shapes, sizes, slot.outputs, strict=True)
        ]

    def _take(self, inputs: Sequence[int], outputs: Sequence[int]) -> _Slot:
        """Buffers of at least so many bytes: the smallest that are free, or new ones with room to grow."""
        with self._lock:
            fitting = [slot for slot in self._free if _fits(slot.inputs, inputs) and _fits(slot.outputs, outputs)]
            if fitting:
                slot = min(fitting, key=lambda slot: slot.size_bytes)
                self._free = [one for one in self._free if one is not slot]
                self._free_bytes -= slot.size_bytes
                return slot
        # Twice the power of two below: batches differ by a row or two, and page-locking memory is slow.
        made = [[self._memory.bytes(_rounded(size)) for size in sizes] for sizes in (inputs, outputs)]
        return _Slot(self._session.io_binding(), *made)

    def _give_back(self, slot: _Slot) -> None:
        with self._lock:
            if self._free_bytes + slot.size_bytes <= MOST_KEPT_BYTES:
                self._free.append(slot)
                self._free_bytes += slot.size_bytes


class CapturedRuns:
    """One CUDA graph for each of ``sizes``, captured when it is made; one run at a time. Blocking.

    ``device_type`` and ``device_id`` say where its tensors lie. Raises what onnxruntime raises if the model cannot be
    captured. A session with graphs must not be run by several threads at once, so they wait for each other here.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        graph: Signature,
        sizes: Sequence[int],
        device_type: str,
        device_id: int,
        memory: HostMemory,
    ) -> None:
        self._session = session
        self._graph = graph
        self._on_cpu = device_type == "cpu"
        self._lock = threading.Lock()
        self._outputs = [spec.name for spec in graph.outputs]
        self._plain = onnxruntime.RunOptions()
        self._plain.add_run_config_entry("gpu_graph_id", NO_GRAPH)
        self._captured: dict[int, _Captured] = {}
        for number, rows in enumerate(sizes, 1):
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(number))
            binding = session.io_binding()

            def value(spec: TensorSpec, rows: int = rows) -> Any:
                shape = [rows, *_known(spec)[1:]]
                return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, spec.dtype.type, device_type, device_id)

            inputs, outputs = [value(spec) for spec in graph.inputs], [value(spec) for spec in graph.outputs]
            staged = []
            for spec, one in zip(graph.inputs, inputs, strict=True):
                binding.bind_ortvalue_input(spec.name, one)
                shape = (rows, *_known(spec)[1:])
                staged.append(memory.bytes(_bytes(spec, shape)).view(spec.dtype).reshape(shape))
                staged[-1][...] = 0
            for spec, one in zip(graph.outputs, outputs, strict=True):
                binding.bind_ortvalue_output(spec.name, one)
            captured = _Captured(binding, options, staged, inputs, outputs)
            captured.run(session)  # it is captured by the first run
            self._captured[rows] = captured

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of the batches that have a graph."""
        return tuple(self._captured)

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """As :meth:`BoundRuns.run`; batches of other sizes run without a graph."""
        arrays = [feed[spec.name] for spec in self._graph.inputs]
        captured = self._captured.get(arrays[0].shape[0])
        # Where rows do not stack inputs may differ in theirs, and a single row would be copied to all of a larger one.
        if captured is None or any(a.shape != b.shape for a, b in zip(arrays, captured.staged, strict=True)):
            return self.plain(feed)
        with self._lock:
            for staged, array in zip(captured.staged, arrays, strict=True):
                np.copyto(staged, array)
            captured.run(self._session)
            outputs = [value.numpy() for value in captured.outputs]
            # On a GPU that was a copy; on the CPU it is the very memory that the next run writes to.
            return [array.copy() for array in outputs] if self._on_cpu else outputs

    def plain(self, feed: Mapping[str, Array]) -> list[Array]:
        """The same without a graph."""
        with self._lock:
            return list(self._session.run(self._outputs, dict(feed), self._plain))


@dataclass(slots=True)
class _Captured:
    """A graph: tensors at fixed addresses, and host buffers to fill them from."""

    binding: Any
    options: Any
    staged: list[Array]
    inputs: list[Any]
    outputs: list[Any]

    def run(self, session: Any) -> None:
        for value, staged in zip(self.inputs, self.staged, strict=True):
            value.update_inplace(staged)
        session.run_with_iobinding(self.binding, self.options)
        self.binding.synchronize_outputs()


def _known(spec: TensorSpec) -> tuple[int, ...]:
    """Its sizes, 0 for one that varies."""
    return tuple(size or 0 for size in spec.shape or ())


def _bytes(spec: TensorSpec, shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize


def _fits(buffers: Sequence[Array], sizes: Sequence[int]) -> bool:
    return all(buffer.nbytes >= size for buffer, size in zip(buffers, sizes, strict=True))


def _rounded(size: int) -> int:
    return 1 << max(size - 1, 1).bit_length()
