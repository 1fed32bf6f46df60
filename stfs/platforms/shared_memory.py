"""Tensor bytes that the server and a worker process both see. Owns the layout; knows no messages and no processes.

A :class:`Segment` is one anonymous file in memory (``memfd_create(2)``), mapped by both sides. One run has a segment to
itself: its inputs lie from byte 0, its outputs from the first page boundary behind them. Where each tensor lies is
told beside the bytes, as a :data:`Place`. Each begins at a multiple of :data:`ALIGN_BYTES`:

* numbers and booleans: their bytes in C order, in the dtype of ``numpy.dtype.str`` (byte order and all);
* strings: n + 1 offsets as int64 in the machine's byte order, then the bytes of all elements, back to back. Element i,
  in C order, is what lies between offsets i and i + 1, counted from the end of the offsets.

Nothing here is for two threads at once: a segment belongs to one run at a time.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from stfs.signature import STRING, Array, Tensors

ALIGN_BYTES = 64
"""A cache line, and as much as any vector instruction wants."""

GROW_BYTES = 256 << 10
"""Segments grow in steps of this size."""

Place = list[Any]
"""``[name, dtype, shape, offset, size_bytes]``: what one tensor is, and where it lies in its segment."""

_TEXT = "string"
_NUMBERS = "biufc"


class Segment:
    """Shared memory that grows on demand and never shrinks; owns its file descriptor until :meth:`close`, or its end.

    Arrays that were read from it keep the memory alive, also after :meth:`close`.
    """

    __slots__ = ("_map", "fd", "number", "size_bytes")

    def __init__(self, fd: int, number: int) -> None:
        self.fd = fd
        self.number = number
        self.size_bytes = 0
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls, number: int) -> Segment:
        """A new one, empty. Raises :class:`OSError`."""
        fd = os.memfd_create("stfs-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Were it ever to shrink, reading what is gone would end the process that reads, with SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return cls(fd, number)

    def reserve(self, size_bytes: int) -> None:
        """Make it at least that large, and visible so far. Raises :class:`OSError` if there is no memory.

        Memory is taken now: to be refused it here is an error, to be refused it while writing ends the process.
        """
        if size_bytes > self.size_bytes:
            wanted = -(-size_bytes // GROW_BYTES) * GROW_BYTES
            os.posix_fallocate(self.fd, self.size_bytes, wanted - self.size_bytes)
            self.see(wanted)

    def see(self, size_bytes: int) -> None:
        """The other side has made it that large: let its new end be visible here too."""
        if size_bytes > self.size_bytes:
            self._map = mmap.mmap(self.fd, size_bytes)  # arrays on the old mapping keep that one
            self.size_bytes = size_bytes

    def write(self, tensors: Mapping[str, Array], start: int = 0) -> tuple[list[Place], int]:
        """Copy ``tensors`` in from byte ``start`` on; where they lie, and the first byte behind them.

        Raises :class:`TypeError` for a dtype that cannot be shared and :class:`OSError` if there is no memory.
        """
        places: list[Place] = []
        pieces: list[tuple[int, Array]] = []
        end = start
        for name, array in tensors.items():
            offset = end = _round_up(end, ALIGN_BYTES)
            for piece in (dtype := _share(name, array))[1]:
                pieces.append((end, piece))
                end += piece.nbytes
            places.append([name, dtype[0], list(array.shape), offset, end - offset])
        self.reserve(max(end, 1))
        for offset, piece in pieces:
            np.copyto(self._array(piece.dtype, piece.shape, offset), piece)
        return places, end

    def read(self, places: Sequence[Place]) -> Tensors:
        """The tensors that lie there: numbers as views of this memory, strings as objects of their own.

        Raises :class:`TypeError` or :class:`ValueError` for places that do not lie in it.
        """
        return {name: self._read(dtype, tuple(shape), offset, size) for name, dtype, shape, offset, size in places}

    def give_back(self, end: int) -> None:
        """Let the system have the memory of the whole pages before byte ``end`` again; they read as zeros then."""
        pages = end // mmap.PAGESIZE * mmap.PAGESIZE
        if pages and self._map is not None:
            self._map.madvise(mmap.MADV_REMOVE, 0, pages)

    def close(self) -> None:
        """Let go of the descriptor, and of the memory unless arrays still show it. Safe to call twice."""
        self._map = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Array:
        return np.ndarray(shape, dtype, buffer=self._map, offset=offset)

    def _read(self, dtype: str, shape: tuple[int, ...], offset: int, size: int) -> Array:
        if dtype != _TEXT:
            return self._array(np.dtype(dtype), shape, offset)
        count = int(np.prod(shape, dtype=np.int64))
        ends = self._array(np.dtype(np.int64), (count + 1,), offset)
        text = self._array(np.dtype(np.uint8), (size - ends.nbytes,), offset + ends.nbytes).tobytes()
        strings = np.empty(count, STRING)
        strings[:] = [text[first:last] for first, last in pairwise(ends.tolist())]
        return strings.reshape(shape)


def output_start(end: int) -> int:
    """Where outputs begin, behind inputs that end before byte ``end``: on a page of their own."""
    return _round_up(end, mmap.PAGESIZE)


def _share(name: str, array: Array) -> tuple[str, tuple[Array, ...]]:
    """The dtype as it is told, and the arrays of plain bytes that ``array`` consists of."""
    if array.dtype.kind in _NUMBERS:
        return array.dtype.str, (array,)
    if array.dtype != STRING:
        raise TypeError(f'"{name}" is of dtype {array.dtype}, which cannot go to or from a worker process')
    flat: list[bytes] = array.ravel().tolist()
    ends = np.zeros(len(flat) + 1, np.int64)
    np.cumsum([len(value) for value in flat], out=ends[1:])
    return _TEXT, (ends, np.frombuffer(b"".join(flat), np.uint8))


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
