"""The way between a front process and the engine: a ring, memory for large tensors, descriptors handed over.

What leaves in one turn of the event loop leaves together at its end. Tensors over :data:`INLINE_BYTES` lie in a segment
(``platforms.shared_memory``), whose descriptor goes by a socket the first time, before the record that names it. The
side that made a segment owns it: it is told when the other side is done with it, and uses it again.

For the event-loop thread. Must not live here: what records mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stfs.errors import Overloaded
from stfs.front import records
from stfs.front.records import Record
from stfs.front.ring import Ring
from stfs.front.tensors import size_of
from stfs.platforms.shared_memory import Segment
from stfs.signature import STRING, Array

log = logging.getLogger(__name__)

RING_BYTES = 4 << 20
"""Of each direction: room for a thousand requests of a thousand numbers each."""

INLINE_BYTES = 128 << 10
"""Larger tensors lie in a segment of their own: beyond this, copying them costs more than telling where they are."""

MAX_WAITING_BYTES = 64 << 20
"""What may wait for room in the ring before requests are refused."""

KEEP_SEGMENTS = 16
KEEP_SEGMENT_BYTES = 32 << 20
"""How many segments are kept for the next large tensors, and up to which size."""

HAND_OVER_BYTES = 8 << 20
"""From this size on, tensors stay where they lie and the memory is given away; smaller ones are copied out of it."""

_SEGMENT = b"segment "
_CONNECTION = b"connection"


class Wire:
    """One end. ``on_record`` is called with each record that comes, ``on_broken`` once if what comes is none.

    ``on_connection`` gets each socket that the other end has sent by :meth:`send_connection`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ring: Ring,
        descriptors: socket.socket,
        on_record: Callable[[Record], None],
        on_broken: Callable[[BaseException], None],
        on_connection: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self._loop = loop
        self._ring = ring
        self._descriptors = descriptors
        self._on_record = on_record
        self._on_broken = on_broken
        self._on_connection = on_connection
        self._due = False
        self._closed = False
        self._last_segment = 0
        self._made: dict[int, Segment] = {}
        self._free: list[Segment] = []
        self._seen: dict[int, Segment] = {}
        descriptors.setblocking(False)
        loop.add_reader(ring.bell_fd, self._on_bell)
        loop.add_reader(descriptors, self._on_descriptors)

    def send(
        self,
        kind: int,
        number: int,
        arrays: Sequence[Array] = (),
        *,
        model: int = 0,
        signature: int = 0,
        deadline_s: float = math.inf,
        told: dict[str, Any] | None = None,
        priority: int = 0,
        give: bool = False,
    ) -> int | None:
        """Send a record at the end of this turn; the number of the segment that its arrays lie in, if they do.

        With ``give`` large arrays are given away: the segment is not this side's any more. The arrays must not change
        in this turn. Raises :class:`Overloaded` if there is no room, and :class:`TypeError` for a dtype that cannot be
        told.
        """
        if self._closed:
            return None
        ring = self._ring
        said = {"model": model, "signature": signature, "deadline_s": deadline_s, "priority": priority}
        if arrays and size_of(arrays) > INLINE_BYTES:
            return self._send_by_segment(kind, number, arrays, said, told, give=give)
        if not records.write(ring, kind, number, arrays, **said, told=told):  # type: ignore[arg-type]
            return self._send_by_segment(kind, number, arrays, said, told, give=give)
        self._flush_soon()
        return None

    def has_room(self) -> bool:
        """Whether another request may be sent: it will find room soon."""
        return self._ring.waiting_bytes < MAX_WAITING_BYTES

    def send_connection(self, theirs: socket.socket) -> None:
        """Give the other end a copy of this socket. Raises :class:`OSError` if it does not take them fast enough."""
        socket.send_fds(self._descriptors, [_CONNECTION], [theirs.fileno()])

    def arrays_of(self, record: Record) -> tuple[list[Array], bool]:
        """The tensors of a record, and whether they are the caller's own for good.

        If not, they show a segment of the other side's: they are good until :meth:`done_with`.
        """
        told = record.told
        if told is None or "segment" not in told:
            return record.arrays, True
        number = told["segment"]
        segment = self._seen.get(number)
        if segment is None:
            self._on_descriptors()  # it was sent before the record
            segment = self._seen[number]
        segment.see(told["size"])
        arrays = list(segment.read(told["places"]).values())
        if told.get("given"):
            del self._seen[number]
            return arrays, True
        return arrays, all(array.dtype == STRING for array in arrays)

    def done_with(self, record: Record) -> None:
        """Nobody looks at the arrays of that record any more: its maker may use their memory again."""
        told = record.told
        if told is not None and "segment" in told and not told.get("given"):
            self.send(records.FREED, told["segment"])

    def freed(self, number: int) -> None:
        """The other end has said, or it is known otherwise, that nobody looks at our segment any more."""
        segment = self._made.get(number)
        if segment is None:
            return
        if len(self._free) < KEEP_SEGMENTS and segment.size_bytes <= KEEP_SEGMENT_BYTES:
            self._free.append(segment)
        else:
            self.drop(number)

    def drop(self, number: int) -> None:
        """Give up a segment of ours that somebody may still be looking at; they keep the memory."""
        segment = self._made.pop(number, None)
        if segment is not None:
            segment.close()
            self.send(records.FORGET, number)

    def forget(self, number: int) -> None:
        """The other end has given up its segment."""
        segment = self._seen.pop(number, None)
        if segment is not None:
            segment.close()

    def close(self) -> None:
        """Let go of everything; what is sent from now on is dropped. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._ring.bell_fd)
        self._loop.remove_reader(self._descriptors)
        self._ring.close()
        self._descriptors.close()
        for segment in (*self._made.values(), *self._seen.values()):
            segment.close()
        self._made, self._seen, self._free = {}, {}, []

    def _send_by_segment(
        self,
        kind: int,
        number: int,
        arrays: Sequence[Array],
        said: Mapping[str, Any],
        told: dict[str, Any] | None,
        *,
        give: bool,
    ) -> int | None:
        give = give and size_of(arrays) >= HAND_OVER_BYTES
        if self._free and not give:
            segment, is_new = self._free.pop(), False
        else:
            self._last_segment += 1
            segment, is_new = Segment.create(self._last_segment), True
        try:
            places, _ = segment.write({str(place): array for place, array in enumerate(arrays)})
            if is_new:
                socket.send_fds(self._descriptors, [_SEGMENT + str(segment.number).encode()], [segment.fd])
                self._made[segment.number] = segment
        except BaseException as error:
            if is_new:
                segment.close()
            else:
                self._free.append(segment)
            if isinstance(error, OSError):
                raise Overloaded(f"there is no shared memory for large tensors now: {error.strerror}") from error
            raise
        where = {"segment": segment.number, "size": segment.size_bytes, "places": places}
        if give:
            where["given"] = True
            self._made.pop(segment.number).close()
        if not records.write(self._ring, kind, number, **said, told={**(told or {}), **where}):
            self.drop(segment.number)
            raise TypeError("there are more tensors than can be told of")
        self._flush_soon()
        return None if give else segment.number

    def _flush_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        if not self._closed:
            self._ring.flush()

    def _on_bell(self) -> None:
        try:
            for record in records.read(self._ring.read()):
                self._on_record(record)
                if self._closed:
                    return
        except Exception as error:  # not ours: something wrote over its memory
            self._on_broken(error)

    def _on_descriptors(self) -> None:
        while not self._closed:
            try:
                data, fds, _, _ = socket.recv_fds(self._descriptors, 256, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:  # the end of the other process, which is noticed elsewhere
                self._loop.remove_reader(self._descriptors)
                return
            if data.startswith(_SEGMENT) and len(fds) == 1:
                number = int(data.removeprefix(_SEGMENT))
                self._seen[number] = Segment(fds[0], number)
            elif data == _CONNECTION and len(fds) == 1 and self._on_connection is not None:
                self._on_connection(socket.socket(fileno=fds[0]))
            else:
                for fd in fds:
                    with contextlib.suppress(OSError):
                        os.close(fd)
