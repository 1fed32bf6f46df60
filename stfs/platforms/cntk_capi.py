"""CNTK's C evaluation interface (``CNTKLibraryC.h``, 2.7) by ctypes. Knows no signatures and no batching.

CNTK's arrays are in column-major order: a tensor that CNTK calls ``[28 x 14 x 3]`` lies in memory as a C-contiguous
array of shape ``(3, 14, 28)``. Shapes are turned round here, so everywhere else they are numpy's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stfs.platforms.cntk_mpi import SONAMES, missing_names, stand_in
from stfs.signature import Array, Shape

CORE = "libCntk.Core-2.7.so"
LINKED_WITH_MPI = (CORE, "libCntk.Math-2.7.so", "libCntk.PerformanceProfiler-2.7.so")
VERSION = "2.7"
NO_SIZE = 2**31
"""Sizes from here on are CNTK's marks for a dimension that is free or inferred, negative numbers made unsigned."""


class CntkError(Exception):
    """What CNTK says went wrong, in one line."""


class _Status(ctypes.Structure):
    _fields_ = (("value", ctypes.c_int32), ("description", ctypes.c_char * 4096))


class _Shape(ctypes.Structure):
    _fields_ = (("value", ctypes.POINTER(ctypes.c_uint32)), ("size", ctypes.c_uint32))


class _Variable(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("shape", _Shape))


class _Value(ctypes.Structure):
    _fields_ = (("shape", _Shape), ("data", ctypes.POINTER(ctypes.c_float)))


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("id", ctypes.c_uint32))


CPU = _Device(0, 0)


class Library:
    """CNTK's native libraries, loaded. Never unloaded. Every call releases the GIL.

    A C++ exception in a thread of CNTK's own ends the process, so they belong in a worker process.
    """

    def __init__(self, folder: Path) -> None:
        """``folder`` holds ``libCntk.Core-2.7.so`` and what it needs. Raises ``OSError`` or ``ValueError``."""
        names = sorted(set().union(*(missing_names(folder / name) for name in LINKED_WITH_MPI)))
        # The loader takes a library that is loaded already for the one of that soname which CNTK asks for.
        _load_from_memory([stand_in(SONAMES[0], names), *(stand_in(soname, ()) for soname in SONAMES[1:])])
        self._lib = ctypes.CDLL(str(folder / CORE))
        model, out = ctypes.c_void_p, ctypes.POINTER
        for name, arguments in {
            "CNTK_LoadModel": (ctypes.c_char_p, out(_Device), out(model)),
            "CNTK_GetModelArgumentsInfo": (model, out(out(_Variable)), out(ctypes.c_uint32)),
            "CNTK_GetModelOutputsInfo": (model, out(out(_Variable)), out(ctypes.c_uint32)),
            "CNTK_EvaluateSequence": (
                *(model, out(_Variable), out(_Value), out(ctypes.c_bool), ctypes.c_uint32),
                *(out(_Variable), ctypes.c_uint32, out(out(_Value))),
            ),
        }.items():
            function = getattr(self._lib, name)
            function.argtypes, function.restype = arguments, _Status
        for name, kind in {
            "CNTK_ReleaseModel": model,
            "CNTK_ReleaseArray": model,
            "CNTK_CleanVariable": out(_Variable),
            "CNTK_CleanValue": out(_Value),
        }.items():
            function = getattr(self._lib, name)
            function.argtypes, function.restype = (kind,), None

    def call(self, function: str, *arguments: Any) -> None:
        """Raises :class:`CntkError` if the function fails."""
        status = getattr(self._lib, function)(*arguments)
        if status.value != 0:
            raise CntkError(told(status.description.decode(errors="replace")))

    def free(self, function: str, pointer: Any) -> None:
        """One of the releasing functions, which cannot fail."""
        getattr(self._lib, function)(pointer)


@cache
def _library(folder: Path) -> Library:
    return Library(folder)


_loading = threading.Lock()


def load_library(folder: Path, threads: int) -> Library:
    """The library in ``folder``, loaded by the first call; ``threads`` for one run is the first caller's for good.

    Raises ``OSError`` if it does not load and ``ValueError`` if a file of it is damaged.
    """
    with _loading:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        return _library(folder)


@dataclass(frozen=True, slots=True)
class Variable:
    """An input or output of a model: the shape of one sample, in numpy's order, ``None`` for a free dimension."""

    name: str
    shape: Shape


class NativeModel:
    """A model in CNTK's memory. Safe on any thread; runs take turns, for CNTK's own state is the model's."""

    def __init__(self, library: Library, file: Path) -> None:
        """Blocking. Raises :class:`CntkError` for a file that CNTK does not take."""
        self._library = library
        self._handle = ctypes.c_void_p()
        self._lock = threading.Lock()  # two runs of one handle at a time would mix their answers
        library.call("CNTK_LoadModel", os.fsencode(file), ctypes.byref(CPU), ctypes.byref(self._handle))
        self.inputs = self._variables("CNTK_GetModelArgumentsInfo")
        self.outputs = self._variables("CNTK_GetModelOutputsInfo")

    def evaluate(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs for one sequence; ``inputs`` are float32 arrays of shape ``[steps, *sample]``, by name.

        An input without a sequence axis must have one step. Outputs are the caller's, float32 ``[steps, *sample]`` in
        the order of :attr:`outputs`, of one step if they have no sequence axis. Raises :class:`CntkError`.
        """
        arrays = [np.ascontiguousarray(inputs[variable.name], np.float32) for variable in self.inputs]
        # CNTK takes the size of a free dimension from the values, and the other way round it fails.
        shapes = [array.shape[1:] for array in arrays]
        given, kept = _described([variable.name for variable in self.inputs], shapes)
        wanted, more = _described(
            [variable.name for variable in self.outputs],
            [tuple(NO_SIZE if dim is None else dim for dim in variable.shape) for variable in self.outputs],
        )
        values = (_Value * len(arrays))()
        for value, array in zip(values, arrays, strict=True):
            dims = _dims(array.shape)
            kept.append(dims)
            value.shape = _Shape(dims, len(dims))
            value.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        begins = (ctypes.c_bool * len(arrays))(*([True] * len(arrays)))
        found = ctypes.POINTER(_Value)()
        with self._lock:
            self._library.call(
                "CNTK_EvaluateSequence", self._handle, given, values, begins, len(arrays),
                wanted, len(self.outputs), ctypes.byref(found),
            )  # fmt: skip
        del kept, more  # until here CNTK read them
        try:
            return [_array(found[i], variable) for i, variable in enumerate(self.outputs)]
        finally:
            for i in range(len(self.outputs)):
                self._library.free("CNTK_CleanValue", ctypes.byref(found[i]))
            self._library.free("CNTK_ReleaseArray", found)

    def close(self) -> None:
        """Frees the model; once, when no run is under way."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._library.free("CNTK_ReleaseModel", handle)

    def _variables(self, function: str) -> list[Variable]:
        found, count = ctypes.POINTER(_Variable)(), ctypes.c_uint32()
        self._library.call(function, self._handle, ctypes.byref(found), ctypes.byref(count))
        try:
            return [Variable(found[i].name.decode(), _read_shape(found[i].shape)) for i in range(count.value)]
        finally:
            for i in range(count.value):
                self._library.free("CNTK_CleanVariable", ctypes.byref(found[i]))
            self._library.free("CNTK_ReleaseArray", found)


def told(description: str) -> str:
    """CNTK's description without its call stack, in one line."""
    text = re.split(r"\s*,?\s*(?:CallStack:|\[CALL STACK\])", description)[0]
    text = " ".join(text.split())
    text = re.sub(r"^Exception occurred: '(.*?)'?$", r"\1", text)
    return text[:400] or "CNTK failed and does not say why"


def _load_from_memory(images: Sequence[bytes]) -> None:
    """Loads shared objects that are in no folder, so that none need be writable or allow programs."""
    with contextlib.ExitStack() as stack:
        for image in images:
            file = stack.enter_context(os.fdopen(os.memfd_create("stfs-cntk-mpi"), "wb"))
            file.write(image)
            file.flush()
            # All stay open until all are loaded: the loader would take the same number for the same library.
            ctypes.CDLL(f"/proc/self/fd/{file.fileno()}")


def _described(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Any, list[Any]]:
    """Variables as CNTK wants them, and what must outlive their use."""
    variables = (_Variable * len(names))()
    kept: list[Any] = []
    for variable, name, shape in zip(variables, names, shapes, strict=True):
        dims = _dims(shape)
        kept.append(dims)
        variable.name = name.encode()
        variable.shape = _Shape(dims, len(dims))
    return variables, kept


def _dims(shape: Sequence[int]) -> Any:
    return (ctypes.c_uint32 * len(shape))(*reversed(shape))


def _read_shape(shape: _Shape) -> Shape:
    dims = [shape.value[i] for i in range(shape.size)]
    return tuple(dim if dim < NO_SIZE else None for dim in reversed(dims))


def _array(value: _Value, variable: Variable) -> Array:
    """A copy, ``[steps, *sample]``, whether or not CNTK's own shape has a dimension for steps and one for batches."""
    shape = [dim or 0 for dim in _read_shape(value.shape)]
    count = int(np.prod(shape))
    sample = tuple(shape[len(shape) - len(variable.shape) :])
    flat: Array = np.ctypeslib.as_array(value.data, (count,)).copy()
    return flat.reshape(-1, *sample)
