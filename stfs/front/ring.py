"""A ring of bytes in shared memory, one for each direction, between two processes. Owns positions and wake-ups.

Each side has two things to tell the other: how much it has written, and how much of the other's it has read, so that
there is room again. Both travel as one number through an eventfd(2): the kernel adds up what was told until the other
side reads it, wakes that side if it sleeps, and orders the memory accesses of both, so that no position is shared and
no memory barrier is needed. In a told number the low 32 bits count units written, the bits above them units freed;
neither can run over, since no more than a whole ring can be unread or unfreed.

Records are bytes whose length is a multiple of :data:`UNIT_BYTES`; what they mean is ``records``'s to say. The reader
always gets whole records, in memory of its own.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Sequence

UNIT_BYTES = 16
"""Records are a multiple of this: positions are told in it, and tensors in a record can be aligned to it."""

Piece = bytes | bytearray | memoryview
"""What a record is put together of. (Arrays of numpy will do as well, if they are contiguous.)"""

_LOW = (1 << 32) - 1


class Ring:
    """One end of both directions. For one thread; made over descriptors that it owns from then on.

    ``memory_fd``: a file of twice ``size_bytes``, the first half written by the side that is ``first``. ``bell_fd`` is
    the eventfd that wakes this side, ``wake_fd`` the one that wakes the other; both non-blocking.
    """

    def __init__(self, memory_fd: int, bell_fd: int, wake_fd: int, size_bytes: int, *, first: bool) -> None:
        if size_bytes % UNIT_BYTES or not 0 < size_bytes // UNIT_BYTES < 1 << 30:
            raise ValueError(f"a ring cannot have {size_bytes} bytes")
        self.size_bytes = size_bytes
        self.bell_fd = bell_fd
        self._wake_fd = wake_fd
        self._map = mmap.mmap(memory_fd, 2 * size_bytes)
        os.close(memory_fd)
        whole = memoryview(self._map)
        halves = whole[:size_bytes], whole[size_bytes:]
        self._out, self._in = halves if first else halves[::-1]
        self._write_at = self._read_at = 0
        self._room = size_bytes
        self._freed = 0  # bytes read that the other side has not been told of
        self._waiting: deque[tuple[int, Sequence[Piece]]] = deque()
        self.waiting_bytes = 0
        """Bytes of records that have not found room yet, or wait for :meth:`flush`."""

    def put(self, size_bytes: int, pieces: Sequence[Piece]) -> None:
        """Let a record, the concatenation of ``pieces``, leave with the next :meth:`flush`, or as soon as it fits.

        The pieces are not copied before that and must not change.
        """
        self._waiting.append((size_bytes, pieces))
        self.waiting_bytes += size_bytes

    def flush(self) -> None:
        """Write what fits, in order, and tell the other side of it and of what was read."""
        chunk: list[Piece] = []
        taken = 0
        while self._waiting and taken + self._waiting[0][0] <= self._room:
            size, pieces = self._waiting.popleft()
            taken += size
            chunk.extend(pieces)
        if taken:
            self._write(b"".join(chunk), taken)
        self._tell(taken)

    def read(self) -> bytearray:
        """All records that have come, empty if none has: whole ones, the caller's own. Call it when the bell rings.

        What could not leave for lack of room leaves now, as far as there is room again. Raises :class:`ValueError` if
        the other side has lost its mind.
        """
        try:
            told = os.eventfd_read(self.bell_fd)
        except BlockingIOError:
            return bytearray()
        come_bytes, room_bytes = (told & _LOW) * UNIT_BYTES, self._room + (told >> 32) * UNIT_BYTES
        if come_bytes > self.size_bytes or room_bytes > self.size_bytes:
            raise ValueError("the other side of the ring tells what cannot be")
        self._room = room_bytes
        data = self._copy(come_bytes)
        self._freed += len(data)
        if self._waiting and told >> 32:
            self.flush()
        elif self._freed >= self.size_bytes // 4:  # else it is told with what this side writes next
            self._tell(0)
        return data

    def fits(self, size_bytes: int) -> bool:
        """Whether a record of that size is sure to leave: at most a quarter of the ring is free without being told."""
        return size_bytes <= self.size_bytes // 2

    def close(self) -> None:
        """Let go of the memory and the descriptors. Safe to call twice."""
        if self.bell_fd >= 0:
            self._out.release()
            self._in.release()
            os.close(self.bell_fd)
            os.close(self._wake_fd)
            self.bell_fd = self._wake_fd = -1
            self._waiting.clear()

    def _write(self, data: bytes, size: int) -> None:
        if len(data) != size:
            raise ValueError(f"records of {size} bytes have {len(data)}")
        at, end = self._write_at, self._write_at + size
        if end <= self.size_bytes:
            self._out[at:end] = data
        else:
            first = self.size_bytes - at
            self._out[at:] = data[:first]
            self._out[: size - first] = data[first:]
        self._write_at = end % self.size_bytes
        self._room -= size
        self.waiting_bytes -= size

    def _tell(self, written: int) -> None:
        told = written // UNIT_BYTES + (self._freed // UNIT_BYTES << 32)
        if told:
            self._freed = 0
            os.eventfd_write(self._wake_fd, told)

    def _copy(self, size: int) -> bytearray:
        at, end = self._read_at, self._read_at + size
        self._read_at = end % self.size_bytes
        if end <= self.size_bytes:
            return bytearray(self._in[at:end])
        data = bytearray(self._in[at:])
        data += self._in[: end - self.size_bytes]
        return data


def create(size_bytes: int) -> tuple[int, int, int]:
    """What two ends need: the memory's descriptor, the first side's bell, the second side's bell. The caller's own.

    Raises :class:`OSError`. The memory is taken now, so that it cannot be found missing while writing.
    """
    made: list[int] = []
    try:
        made.append(os.memfd_create("stfs-ring", os.MFD_CLOEXEC))
        os.posix_fallocate(made[0], 0, 2 * size_bytes)
        for _ in range(2):
            made.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    memory, first_bell, second_bell = made
    return memory, first_bell, second_bell
