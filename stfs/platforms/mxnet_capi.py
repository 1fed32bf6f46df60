"""MXNet's C interface (``mxnet/c_api.h``, 1.x) by ctypes. Owns handles and their freeing; knows no model files.

The executor is used rather than the smaller predict interface, for two reasons seen with 1.9.1: handles that
``MXPredReshape`` makes share their working memory, so that two of them running at once give wrong answers or hang; and
``MXPredGetOutputType`` may name a smaller dtype than the library then writes.

A handle is freed with the last reference to the object that holds it. Every call releases the GIL.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stfs.platforms.mxnet_params import DTYPES
from stfs.signature import Array

CPU = 1
MOST_ITEMS = 2**31 - 1  # larger tensors need another build of MXNet

Strings = ctypes.POINTER(ctypes.c_char_p)
Handle = ctypes.c_void_p


class MxnetError(Exception):
    """What MXNet says went wrong, in one line."""


class Library:
    """``libmxnet.so``, loaded. One an address space, and never unloaded; safe on any thread."""

    def __init__(self, path: Path) -> None:
        """Blocking, about 0.3 s. Raises ``OSError`` if the loader cannot load it."""
        self._lib = ctypes.CDLL(str(path))
        self._lib.MXGetLastError.restype = ctypes.c_char_p
        # Registers the operators that are still declared in the old way; graphs that use them do not bind without.
        self.call("MXListAllOpNames", ctypes.byref(ctypes.c_uint()), ctypes.byref(Strings()))
        number = ctypes.c_int()
        self.call("MXGetVersion", ctypes.byref(number))
        self.version = dotted(number.value)

    def call(self, function: str, *arguments: Any) -> None:
        """Raises :class:`MxnetError` if the function fails; the error's text belongs to the calling thread."""
        if getattr(self._lib, function)(*arguments) != 0:
            raise MxnetError(told(self._lib.MXGetLastError().decode(errors="replace")))


@cache
def _library(path: Path) -> Library:
    return Library(path)


_loading = threading.Lock()


def load_library(path: Path, threads: int) -> Library:
    """The library at ``path``, loaded by the first call; ``threads`` for one run is the first caller's for good.

    Raises ``OSError`` if it does not load.
    """
    with _loading:  # two models may load at once, and MXNet reads its settings only when it starts
        os.environ.setdefault("MXNET_OMP_MAX_THREADS", str(threads))
        os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # otherwise it prints a line for every binding
        return _library(path)


class NdArray:
    """A dense tensor in MXNet's memory."""

    def __init__(self, library: Library, handle: Handle) -> None:
        """Takes over ``handle``."""
        self._library = library
        self.handle = handle
        ndim, dims, flag = ctypes.c_int(), ctypes.POINTER(ctypes.c_int)(), ctypes.c_int()
        library.call("MXNDArrayGetShapeEx", handle, ctypes.byref(ndim), ctypes.byref(dims))
        self.shape: tuple[int, ...] = tuple(dims[i] for i in range(ndim.value))
        library.call("MXNDArrayGetDType", handle, ctypes.byref(flag))
        if not 0 <= flag.value < len(DTYPES):
            raise MxnetError(f"a tensor has MXNet's type {flag.value}, which numpy does not have")
        self.dtype = DTYPES[flag.value]

    @classmethod
    def of(cls, library: Library, values: Array) -> NdArray:
        """A copy of ``values``. Raises :class:`MxnetError` for more than 2^31 - 1 elements."""
        if values.size > MOST_ITEMS:
            raise MxnetError(f"a tensor of shape {list(values.shape)} is too large for this build of MXNet")
        handle, dims = Handle(), (ctypes.c_int64 * values.ndim)(*values.shape)
        flag = DTYPES.index(values.dtype)
        library.call("MXNDArrayCreateEx64", dims, values.ndim, CPU, 0, 0, flag, ctypes.byref(handle))
        made = cls(library, handle)
        made.write(np.ascontiguousarray(values))
        return made

    def write(self, values: Array) -> None:
        """Copies ``values`` in; they must be C-contiguous and of this shape and dtype. Waits for runs that read it."""
        assert values.shape == self.shape and values.dtype == self.dtype and values.flags.c_contiguous  # noqa: PT018
        self._library.call("MXNDArraySyncCopyFromCPU", self.handle, _address(values), ctypes.c_size_t(values.size))

    def read(self) -> Array:
        """A copy, once what is being written into the tensor is done; raises :class:`MxnetError` if that failed."""
        values = np.empty(self.shape, self.dtype)
        self._library.call("MXNDArraySyncCopyToCPU", self.handle, _address(values), ctypes.c_size_t(values.size))
        return values

    def __del__(self) -> None:
        self._library.call("MXNDArrayFree", self.handle)


class Symbol:
    """A graph: the names of its arguments, auxiliary states and outputs, in order."""

    def __init__(self, library: Library, json_text: bytes) -> None:
        """Raises :class:`MxnetError` for a graph that MXNet does not take.

        ``json_text`` must refer to no node and no output that is not there: MXNet does not check.
        """
        self._library = library
        self.handle = Handle()
        library.call("MXSymbolCreateFromJSON", json_text, ctypes.byref(self.handle))
        self.arguments = self._names("MXSymbolListArguments")
        self.states = self._names("MXSymbolListAuxiliaryStates")
        self.outputs = self._names("MXSymbolListOutputs")

    def _names(self, function: str) -> tuple[str, ...]:
        count, names = ctypes.c_uint(), Strings()
        self._library.call(function, self.handle, ctypes.byref(count), ctypes.byref(names))
        return tuple(names[i].decode() for i in range(count.value))

    def internals_json(self) -> bytes:
        """The graph with every output of every node for a head, as JSON."""
        internals, text = Handle(), ctypes.c_char_p()
        self._library.call("MXSymbolGetInternals", self.handle, ctypes.byref(internals))
        try:
            self._library.call("MXSymbolSaveToJSON", internals, ctypes.byref(text))
            return text.value or b""
        finally:
            self._library.call("MXSymbolFree", internals)

    def infer_shapes(self, known: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...] | None]:
        """The shape of every argument, ``None`` where it does not follow from the ``known`` ones.

        Raises :class:`MxnetError` if those contradict one another.
        """
        names = (ctypes.c_char_p * len(known))(*(name.encode() for name in known))
        flat = [dim for shape in known.values() for dim in shape]
        ends = [0, *np.cumsum([len(shape) for shape in known.values()]).tolist()]
        starts, dims = (ctypes.c_uint * len(ends))(*ends), (ctypes.c_int * max(1, len(flat)))(*flat)
        counts = [ctypes.c_uint() for _ in range(3)]  # of arguments, outputs and states
        ranks = [ctypes.POINTER(ctypes.c_int)() for _ in range(3)]
        shapes = [ctypes.POINTER(ctypes.POINTER(ctypes.c_int))() for _ in range(3)]
        complete = ctypes.c_int()
        places = [ctypes.byref(place) for of in zip(counts, ranks, shapes, strict=True) for place in of]
        self._library.call(
            "MXSymbolInferShapePartialEx", self.handle, len(known), names, starts, dims, *places, ctypes.byref(complete)
        )
        found: dict[str, tuple[int, ...] | None] = dict.fromkeys(self.arguments)
        for i in range(counts[0].value):
            shape = tuple(shapes[0][i][j] for j in range(ranks[0][i]))
            found[self.arguments[i]] = shape if shape and all(dim > 0 for dim in shape) else None
        return found

    def __del__(self) -> None:
        if self.handle:
            self._library.call("MXSymbolFree", self.handle)


class Executor:
    """A graph bound to tensors: one set of shapes, ready to run. Runs on any thread, one at a time.

    It holds ``arrays`` (arguments) and ``states`` and may share them with other executors, as long as only its own
    inputs are written to.
    """

    def __init__(self, library: Library, symbol: Symbol, arrays: Sequence[NdArray], states: Sequence[NdArray]) -> None:
        """Blocking, about a millisecond. Raises :class:`MxnetError` if shapes or dtypes do not fit the graph."""
        self._library = library
        self._kept = (symbol, *arrays, *states)
        self.handle = Handle()
        count = len(arrays)
        none, no_gradients = (Handle * max(1, count))(), (ctypes.c_uint * max(1, count))()
        args = (Handle * max(1, count))(*(array.handle for array in arrays))
        aux = (Handle * max(1, len(states)))(*(array.handle for array in states))
        library.call(
            "MXExecutorBindEX", symbol.handle, CPU, 0, 0, None, None, None, count, args, none, no_gradients,
            len(states), aux, None, ctypes.byref(self.handle),
        )  # fmt: skip
        number, outputs = ctypes.c_uint(), ctypes.POINTER(Handle)()
        library.call("MXExecutorOutputs", self.handle, ctypes.byref(number), ctypes.byref(outputs))
        handles = [Handle(outputs[i]) for i in range(number.value)]
        self.outputs = [NdArray(library, handle) for handle in handles]
        if any(not output.shape for output in self.outputs):
            raise MxnetError("the shape of an output is known only once it has run, which cannot be served")

    def run(self) -> list[Array]:
        """The outputs for what the inputs hold now. Raises :class:`MxnetError`."""
        self._library.call("MXExecutorForward", self.handle, 0)
        return [output.read() for output in self.outputs]

    def __del__(self) -> None:
        if self.handle:
            self._library.call("MXExecutorFree", self.handle)


def dotted(number: int) -> str:
    """``10901`` as ``1.9.1``."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def told(message: str) -> str:
    """MXNet's message without its traces and its own source's places: one line."""
    lines = [line.strip() for line in message.split("Stack trace:")[0].splitlines()]
    told = [line for line in lines if line and not line.startswith(("Traceback", "File "))]
    text = " ".join(told) or message.strip() or "MXNet failed and does not say why"
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", text)
    return text.removeprefix("MXNetError: ").removeprefix("Check failed: ")[:400]


def _address(values: Array) -> ctypes.c_void_p:
    return values.ctypes.data_as(ctypes.c_void_p)
