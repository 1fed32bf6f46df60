"""Page-locked memory of this machine, which a GPU reads and writes by itself and at full speed.

By the CUDA runtime that the framework has loaded, through ctypes; where there is none, ordinary memory does the same
more slowly. Must not live here: frameworks, the GPU's own memory.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from typing import Any, Protocol

import numpy as np

from stfs.signature import Array

RUNTIMES = ("libcudart.so.12", "libcudart.so.13", "libcudart.so")
PORTABLE = 1
"""``cudaHostAllocPortable``: page-locked for every GPU, not only for the calling thread's."""

logger = logging.getLogger(__name__)


class HostMemory(Protocol):
    """Where buffers come from that are copied to a device and back."""

    def bytes(self, size: int) -> Array:
        """Uninitialised uint8 ``[size]``, freed with the last array that shows it. Any thread."""


class PlainMemory:
    """Ordinary memory."""

    def bytes(self, size: int) -> Array:
        """See :class:`HostMemory`."""
        return np.empty(size, np.uint8)


class PinnedMemory:
    """Page-locked memory. ``runtime`` is ``libcudart`` as a library of ctypes."""

    def __init__(self, runtime: Any) -> None:
        self._allocate = runtime.cudaHostAlloc
        self._allocate.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_uint)
        self._free = runtime.cudaFreeHost
        self._free.argtypes = (ctypes.c_void_p,)
        for call in (self._allocate, self._free):
            call.restype = ctypes.c_int

    def bytes(self, size: int) -> Array:
        """See :class:`HostMemory`. Raises :class:`MemoryError` if no more can be locked."""
        place = ctypes.c_void_p()
        if size == 0:
            return np.empty(0, np.uint8)
        if (status := self._allocate(ctypes.byref(place), size, PORTABLE)) != 0 or place.value is None:
            raise MemoryError(f"cudaHostAlloc of {size} bytes: error {status}")
        block = (ctypes.c_uint8 * size).from_address(place.value)
        # Not at the interpreter's end: by then the CUDA runtime may be gone, and the memory goes with the process.
        weakref.finalize(block, self._free, place.value).atexit = False
        return np.frombuffer(memoryview(block), np.uint8)


def host_memory(*, pinned: bool) -> HostMemory:
    """Page-locked memory if it is wanted and can be had, else ordinary memory."""
    if not pinned:
        return PlainMemory()
    for name in RUNTIMES:
        try:
            memory = PinnedMemory(ctypes.CDLL(name))
            memory.bytes(1)
        except (OSError, AttributeError, MemoryError):
            continue
        return memory
    logger.info("no page-locked memory: the CUDA runtime (%s) is not loaded", RUNTIMES[0])
    return PlainMemory()
