"""The hot path's large requests: received into their last buffer, and read with the help of threads.

When a head announces a large body (:data:`LARGE_BYTES`), the connection's transport is given a protocol of its own for
as long as the body takes (:class:`LargeRequest`), into whose buffer the kernel's bytes are copied once. Bytes behind
the body go to the connection's handler again. What ``off_loop`` takes for large enough is read on a thread,
the rest on the loop.

Must not live here: what makes a request one for the hot path (``hot_shared``), what happens on threads (``off_loop``).
All of it runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from stfs import errors
from stfs.carry import called, sooner
from stfs.context import Lease
from stfs.signature import Signature, Tensors
from stfs.web.access_log import CLIENT_CLOSED, Carried
from stfs.web.hot_shared import echoed, lines, logged, request_id_of
from stfs.web.infer import LATE_BODY, Encode
from stfs.web.off_loop import AwayLease, is_for_thread

if TYPE_CHECKING:
    from stfs.web._headscan import Head
    from stfs.web.hot import HotHandler

log = logging.getLogger("stfs.web")

LARGE_BYTES = 1 << 16
"""Bodies of this size and over are received here. What the loop reads at once is a quarter of a megabyte."""

_SCRATCH_BYTES = 1 << 16
_ON_ITS_WAY_BYTES = 1 << 20

_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
"""Memory like any other, where there is a choice; without, it would be shared memory."""

Decoded = tuple[Signature, Tensors, Encode]


def begin(handler: HotHandler, data: bytes | bytearray, head: Head) -> bool:
    """Take over the request that ``data`` begins with, whose head is whole and whose body is not.

    ``False``, with nothing done, if it is not for here: then it is received as any other.
    """
    route = handler._hot.takes(head)
    transport = handler.transport
    if route is None or transport is None or not handler._stock_is_idle():
        return False
    try:
        request = LargeRequest(handler, _room(head.total - head.body_at), transport)
        transport.set_protocol(request)
    except (MemoryError, OSError, NotImplementedError):
        return False
    handler._dialect, name, version = route
    handler._accept = head.accept_encoding
    handler._echo = echoed(head)
    handler._started_s = time.monotonic()
    handler._lease = lease = Lease(handler._hot.context, name, version)
    if handler._hot.client_share:
        lease.client = handler._hot.client(head.authorization, transport)
    if handler._hot.access_log is not None:
        peer = transport.get_extra_info("peername")
        handler._logged = logged(handler._hot, head, peer, Carried(handler._dialect.name, lease))
        handler._echo = lines(handler._logged.headers)
    request.go(memoryview(data)[head.body_at :])
    return True


def _room(size_bytes: int) -> memoryview:
    """Memory that is not there until something is written to it, however much a client announces.

    numpy makes small arrays of memory that has been used before, whose pages need not be made anew; for those of 4 MiB
    and over it asks the kernel for pages of 2 MB at once, and one byte would cost as much.
    """
    if size_bytes < 1 << 22:
        return np.empty(size_bytes, np.uint8).data
    return memoryview(mmap.mmap(-1, size_bytes, **_PRIVATE))


class LargeRequest(asyncio.BufferedProtocol):
    """One request: the transport's protocol until its body is here, then the handler's ticket until it is submitted.

    While it receives, the handler sees none of the connection's bytes, and is told of all else. A request that is still
    arriving is no reason to wait at the server's end, and one that stops arriving is an idle connection.
    """

    def __init__(self, handler: HotHandler, body: memoryview, transport: asyncio.Transport) -> None:
        self._handler = handler
        self._transport = transport
        self._body: memoryview | None = body  # None once it has come too late: then the rest goes nowhere
        self._free = body
        self._left = len(body)
        # Worth asking for once the body is really on its way: a third of what receiving 16 MB costs is made of pages.
        self._wants_large_pages = body.obj if isinstance(body.obj, mmap.mmap) else None
        self._away: AwayLease | None = None
        self._job: asyncio.Future[Decoded] | None = None
        self._cancelled = False
        self._timer: asyncio.TimerHandle | None = None

    # --- its body arrives

    def go(self, start: memoryview) -> None:
        """Begin with what has come in one piece with the head."""
        timeout_s = self._handler._hot.timeout_s
        if timeout_s:
            self._timer = self._handler._loop.call_later(timeout_s, self._late)
        self._free[: len(start)] = start
        self._got(len(start))

    def get_buffer(self, sizehint: int) -> memoryview:
        """The place for the next bytes; never more than the body has."""
        return self._free[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        handler = self._handler
        if handler._force_close or handler._close:
            return  # as aiohttp does: the connection is about to be closed
        self._got(nbytes)
        if not self._left:
            self._arrived()

    def _got(self, nbytes: int) -> None:
        handler = self._handler
        handler._next_keepalive_close_time = handler._loop.time() + handler._keepalive_timeout
        self._left -= nbytes
        if (body := self._body) is None:
            return
        self._free = self._free[nbytes:]
        if self._wants_large_pages is not None and len(body) - self._left >= _ON_ITS_WAY_BYTES:
            with contextlib.suppress(OSError, AttributeError):  # a kernel, or a system, without them
                self._wants_large_pages.madvise(mmap.MADV_HUGEPAGE)
            self._wants_large_pages = None

    def _late(self) -> None:
        """The deadline passes before the body is here: say so, and read on for a while for the client's sake."""
        handler = self._handler
        self._body = None
        self._free = memoryview(bytearray(_SCRATCH_BYTES))
        self._timer = handler._loop.call_later(handler._lingering_time, handler.force_close)
        self._count()
        handler._answer(None, errors.DeadlineExceeded(LATE_BODY))

    def _arrived(self) -> None:
        handler, body = self._handler, self._body
        if self._timer is not None:
            self._timer.cancel()
        self._transport.set_protocol(handler)
        if body is None:
            handler._go_on()
            return
        self._body, self._free, self._wants_large_pages = None, memoryview(b""), None
        handler._request_in_progress = True
        self._count()
        decode, lease = handler._dialect.decode, handler._lease
        readable = body.toreadonly()
        self._decoding_s = time.monotonic()
        if is_for_thread(len(readable), handler._dialect.looks):
            self._away = AwayLease(lease, handler._loop)
            self._job = job = handler._hot.off_loop.start(decode, readable, self._away)
            handler._ticket = self
            job.add_done_callback(self._read)
        else:
            self._submit(partial(decode, readable, lease))
            handler._go_on()

    def _count(self) -> None:
        assert self._handler._manager is not None
        self._handler._manager.requests_count += 1

    def eof_received(self) -> None:
        """The client sends no more: the connection is closed."""
        self._handler.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client went before its body was here."""
        if self._timer is not None:
            self._timer.cancel()
        if self._body is not None:
            self._handler._end("cancelled", CLIENT_CLOSED)
        self._body, self._free = None, memoryview(b"")
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """See ``HotHandler``."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """See ``HotHandler``."""
        self._handler.resume_writing()

    # --- its body is here

    def cancel(self) -> None:
        """What a thread is at work on is not wanted any more; nothing is answered."""
        self._cancelled = True  # the thread may be done, and its callback on its way
        if self._away is not None:
            self._away.withdraw()
        if self._job is not None:
            self._job.cancel()

    def _read(self, job: asyncio.Future[Decoded]) -> None:
        if not self._cancelled:
            self._submit(job.result)
            self._handler._go_on()

    def _submit(self, decoded: Callable[[], Decoded]) -> None:
        handler = self._handler
        lease = handler._lease
        try:
            signature, inputs, handler._encode = decoded()
            lease.decode_s = time.monotonic() - self._decoding_s
            model = lease.model
            assert model is not None, "a decoded request holds its model"
            if handler._logged is not None:
                handler._logged.carried.count(signature, inputs)
            timeout_s = handler._hot.timeout_s
            deadline_s = sooner(handler._started_s + timeout_s if timeout_s else None, lease, handler._started_s)
            handler._ticket = model.submit(signature, inputs, handler._reply, deadline_s, lease.priority, lease.client)
        except errors.RequestError as error:
            handler._answer(None, error)
        except Exception as error:
            told = called(request_id_of(handler._echo))
            log.exception("a request of dialect %s failed%s", handler._dialect.name, told)
            handler._refuse("internal", errors.ModelFailed(f"{type(error).__name__}: {error}"))
