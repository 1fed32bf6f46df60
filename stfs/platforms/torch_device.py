"""How torch's runs reach a GPU: page-locked memory, a stream for each thread, one wait at the end; CUDA graphs.

On the CPU none of it is needed, and the same calls do nothing. Tests run the path of a GPU there, with ordinary memory
and a stand-in for graphs. Must not live here: kinds of models, dtypes, names.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from stfs.platforms.base import LoadOptions, one_line
from stfs.platforms.torch_tensors import to_tensor
from stfs.signature import STRING, Array, Signature

WARM_UP_RUNS = 3
"""Runs before a capture: TorchScript optimises in its first two, and libraries set themselves up."""

Call = Callable[[dict[str, Any]], Any]
"""A model as a function of tensors by the names of its inputs."""
Capture = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""From a function to what it returned, and what computes that anew in the same memory."""

logger = logging.getLogger(__name__)


class Device:
    """Where a model runs. ``name`` is ``cpu``, ``cuda`` or ``cuda:1``. Any number of threads.

    On a GPU each thread has a stream of its own, so that several instances do not wait for each other, and a run is
    over when its own stream is.
    """

    def __init__(self, torch: Any, name: str) -> None:
        self.torch = torch
        self.name = name
        self.is_gpu = name != "cpu"
        self._streams = threading.local()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around one run: everything inside goes to this thread's stream."""
        if not self.is_gpu:
            yield
            return
        with self.torch.cuda.stream(self._stream()):
            yield

    def put(self, array: Array, dtype: Any) -> Any:
        """A tensor on the device, in memory of its own: models write into their inputs, and hand them back.

        ``dtype`` is torch's, ``None`` for the array's own. Within :meth:`running`; it need not have arrived yet.
        """
        if not self.is_gpu:
            return to_tensor(self.torch, array, dtype, "cpu")
        return self.stage(array, dtype).to(self.name, non_blocking=True)

    def stage(self, array: Array, dtype: Any) -> Any:
        """A tensor of this machine that the GPU can read by itself. Torch keeps such memory for the next run."""
        torch = self.torch
        own = torch.from_numpy(np.empty(0, array.dtype)).dtype
        staged = torch.empty(array.shape, dtype=own, pin_memory=self.is_gpu)
        np.copyto(staged.numpy(), array)
        return staged if dtype in (None, own) else staged.to(dtype)

    def fetch(self, returned: Any) -> Any:
        """What a model returned, its tensors in memory of this machine; waits once, for all of them. Within
        :meth:`running`.
        """
        if not self.is_gpu:
            return returned
        torch = self.torch

        def start(tensor: Any) -> Any:
            if tensor.device.type == "cpu" or tensor.layout is not torch.strided:
                return tensor
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            return host.copy_(tensor.detach(), non_blocking=True)

        fetched = torch.utils._pytree.tree_map_only(torch.Tensor, start, returned)
        self._stream().synchronize()
        return fetched

    def limit(self, limit_bytes: int) -> None:
        """Let this process have so much of the GPU's memory. It is the process's: of one that has one model."""
        if self.is_gpu and limit_bytes:
            total_bytes = self.torch.cuda.get_device_properties(self.name).total_memory
            fraction = min(1.0, limit_bytes / total_bytes)
            self.torch.cuda.set_per_process_memory_fraction(fraction, self.torch.device(self.name))

    def _stream(self) -> Any:
        stream = getattr(self._streams, "stream", None)
        if stream is None:
            cuda = self.torch.cuda
            stream = self._streams.stream = cuda.Stream(self.name)
            stream.wait_stream(cuda.default_stream(self.name))  # where the model was loaded
        return stream


class Graphs:
    """One captured run for each of ``sizes`` rows, made when this is; one run at a time. Blocking.

    ``call`` is the model; ``dtypes`` are torch's, by input. Raises what torch raises if the model cannot be captured.
    """

    def __init__(
        self,
        torch: Any,
        device: Device,
        signature: Signature,
        dtypes: Mapping[str, Any],
        sizes: Sequence[int],
        call: Call,
        capture: Capture | None = None,
    ) -> None:
        self._device = device
        self._dtypes = dtypes
        self._first = signature.inputs[0].name
        self._lock = threading.Lock()
        self._graphs: dict[int, _Graph] = {}
        capture = capture or cuda_capture(torch)
        for rows in sizes:
            with device.running(), torch.inference_mode():
                inputs = {
                    spec.name: torch.zeros(
                        (rows, *(size or 0 for size in (spec.shape or ())[1:])),
                        dtype=dtypes.get(spec.name) or torch.from_numpy(np.empty(0, spec.dtype)).dtype,
                        device=device.name,
                    )
                    for spec in signature.inputs
                }

                def run(inputs: dict[str, Any] = inputs) -> Any:
                    return call(dict(inputs))

                for _ in range(WARM_UP_RUNS):
                    run()
                returned, replay = capture(run)
            self._graphs[rows] = _Graph(inputs, returned, replay)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of the batches that have a graph."""
        return tuple(self._graphs)

    def has(self, inputs: Mapping[str, Array]) -> bool:
        """Whether there is a graph for so many rows, of which each input has as many."""
        rows = inputs[self._first].shape[0]
        return rows in self._graphs and all(array.shape[0] == rows for array in inputs.values())

    def run(self, inputs: Mapping[str, Array]) -> Any:
        """What the model returns for ``inputs``, of which :meth:`has` is true; its tensors are the caller's own."""
        graph = self._graphs[inputs[self._first].shape[0]]
        device = self._device
        with self._lock, device.running(), device.torch.inference_mode():
            for name, tensor in graph.inputs.items():
                tensor.copy_(device.stage(inputs[name], self._dtypes.get(name)), non_blocking=True)
            graph.replay()
            if device.is_gpu:
                return device.fetch(graph.returned)
            torch = device.torch
            return torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.clone(), graph.returned)


@dataclass(slots=True)
class _Graph:
    inputs: dict[str, Any]
    returned: Any
    replay: Callable[[], None]


def cuda_capture(torch: Any) -> Capture:
    """By ``torch.cuda.CUDAGraph``, on the current stream."""

    def capture(run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        stream = torch.cuda.current_stream()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other models go on meanwhile, on threads of their own.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            returned = run()
        return returned, graph.replay

    return capture


def captured(
    torch: Any,
    device: Device,
    signature: Signature,
    dtypes: Mapping[str, Any],
    options: LoadOptions,
    call: Call,
    capture: Capture | None = None,
) -> Graphs | None:
    """Graphs for each of ``options.batch_sizes``; ``None``, with a warning that says why, if there can be none."""
    if not options.cuda_graphs:
        return None
    told = 'model "%s" runs without CUDA graphs: %s'
    if not (device.is_gpu or capture is not None):
        logger.warning(told, options.model_name, "it runs on the CPU")
        return None
    fixed = all(
        spec.dtype != STRING and spec.varies_in_rows and None not in (spec.shape or ())[1:] for spec in signature.inputs
    )
    if not (signature.batchable and fixed):
        logger.warning(told, options.model_name, "sizes other than the number of rows vary, or rows do not stack")
        return None
    try:
        graphs = Graphs(torch, device, signature, dtypes, options.batch_sizes, call, capture)
    except Exception as error:  # torch's errors share no base but Exception
        logger.warning(told, options.model_name, one_line(error))
        return None
    logger.info('model "%s": CUDA graphs for batches of %s rows', options.model_name, ", ".join(map(str, graphs.sizes)))
    return graphs
