"""The hot path: plain POSTs to a predict address, answered without aiohttp's Request, task, future or stream.

:class:`HotHandler` is aiohttp's own connection handler with a look at the bytes put before its parser. What arrives at
a message boundary is scanned (``_headscan``). A plain POST to a predict address is decoded and encoded by the same
dialect as on the stock path, submitted with a callback, and answered with one bytes object. Everything else goes to the
stock path untouched. It can be switched off (``--hot_path=off``), and then nothing here is used; answers are the same.

Private attributes of aiohttp are relied on; :func:`fits` checks at start that they are there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from stfs import errors
from stfs.carry import called, log_failure, record, snake_case, sooner
from stfs.context import Lease
from stfs.protocols.request import Payload
from stfs.signature import Tensors
from stfs.web import compression, hot_large
from stfs.web.access_log import CLIENT_CLOSED, Carried
from stfs.web.hot_shared import HotPath, Logged, echoed, lines, logged, request_id_of
from stfs.web.infer import error_parts
from stfs.web.off_loop import is_large

if TYPE_CHECKING:
    from stfs.web._express import Express

try:
    from stfs.web._headscan import BODY_SHORT, OTHER, WHOLE, Frame, Head

    COMPILED = True
except ImportError:
    COMPILED = False

log = logging.getLogger("stfs.web")

HELD_LIMIT_BYTES = 1 << 16
"""What a connection may send ahead while a request of its own is being answered; then it is not read from."""

_PRIVATE = {
    "_waiter",
    "_messages",
    "_force_close",
    "_close",
    "_request_in_progress",
    "_handler_waiter",
    "_request_count",
    "_keepalive_timeout",
    "_next_keepalive_close_time",
    "_keepalive_handle",
    "_manager",
    "_lingering_time",
    "_paused",
    "_reading_paused",
    "_buffer_paused",
}


def fits() -> str | None:
    """Why the hot path cannot be used here; ``None`` if it can."""
    if not COMPILED:
        return "it is not compiled in"
    slots = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    missing = sorted(_PRIVATE - slots)
    methods = ("data_received", "connection_lost", "resume_writing", "_process_keepalive", "_pause_transport_reading")
    missing += [name for name in methods if not hasattr(RequestHandler, name)]
    return f"this aiohttp is not one it knows (no {', '.join(missing)})" if missing else None


class Ticket(Protocol):
    """A submitted request, as far as this room sees it."""

    def cancel(self) -> object:
        """Take it back; its reply is not called."""


class HotHandler(RequestHandler):
    """One connection. At most one of its requests is in flight on the hot path, and none on the stock path meanwhile.

    ``_held`` are bytes that wait: an incomplete plain request, or what came behind the request in flight. ``_stock`` is
    a frame while the stock parser has part of a message, whose end is seen by it; the next bytes are looked at here
    again. It is ``True`` where that end cannot be told: from then on the stock parser has the connection for good.
    """

    __slots__ = (
        "_accept",
        "_dialect",
        "_echo",
        "_encode",
        "_held",
        "_hot",
        "_hot_paused",
        "_lease",
        "_logged",
        "_need",
        "_started_s",
        "_stock",
        "_ticket",
    )

    def __init__(self, hot: HotPath, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hot = hot
        self._held = bytearray()
        self._need = 0  # bytes that _held must have before another look is worth it
        self._stock: Frame | bool = False
        self._hot_paused = False
        self._ticket: Ticket | None = None
        self._logged: Logged | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes from the transport, or ``b""`` when the stock path has resumed reading."""
        if self._stock is True or not data or self._force_close or self._close:
            super().data_received(data)
        elif self._stock is not False:
            if rest := self._follow(self._stock, bytes(data)):
                self.data_received(rest)
        elif self._ticket is not None or self._paused:
            self._held += data
            if len(self._held) > HELD_LIMIT_BYTES:  # perhaps again: the stock path may have resumed reading
                self._hot_paused = True
                self._pause_transport_reading()
        elif self._held:
            self._held += data
            # A request that is still arriving is not an idle connection.
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if len(self._held) >= self._need:
                self._take(self._unhold())
        else:
            self._take(data)

    def _unhold(self) -> bytearray:
        """What was held, which is the caller's from now on: bodies may be looked at where they lie."""
        data, self._held = self._held, bytearray()
        self._need = 0
        return data

    def _take(self, data: bytes | bytearray) -> None:
        """Handle what lies at a message boundary, message by message, while the connection is free for the next."""
        head = self._hot.head
        while data and not self._close and not self._force_close:
            verdict = head.scan(data)
            is_long = verdict == BODY_SHORT and head.total - head.body_at >= hot_large.LARGE_BYTES
            if is_long and hot_large.begin(self, data, head):
                return
            if verdict == OTHER or (verdict == BODY_SHORT and not self._is_candidate(head)):
                self._stock = frame = Frame()
                data = self._follow(frame, bytes(data))
                continue
            if verdict != WHOLE:
                self._held += data
                self._need = head.total if verdict == BODY_SHORT else 0
                return
            total = head.total
            message, data = (data, b"") if len(data) == total else (data[:total], data[total:])
            if not self._try_hot(message, head):
                # One whole message: the stock parser ends at its boundary too, or closes the connection.
                super().data_received(bytes(message))
            elif data and (self._ticket is not None or self._paused):
                self._held += data
                return

    def _follow(self, frame: Frame, data: bytes) -> bytes:
        """Hand on what belongs to the message that the stock path has; what is left lies at a message boundary."""
        count = frame.take(data)
        if count < 0:
            self._stock = True
            super().data_received(data)
            return b""
        if frame.done:
            self._stock = False
        super().data_received(data if count == len(data) else data[:count])
        return data[count:]

    def _is_candidate(self, head: Head) -> bool:
        """Whether an incomplete request is worth holding, rather than streaming it into the stock path.

        Not if the stock path refuses it by its head alone, or bounds the time that the body may take.
        """
        return not self._hot.timeout_s and self._hot.takes(head) is not None

    def _try_hot(self, message: bytes | bytearray, head: Head) -> bool:
        """Submit or refuse the request; ``False``, with nothing done, if the stock path is to have it."""
        hot = self._hot
        if not self._stock_is_idle() or (route := hot.takes(head)) is None:
            return False
        self._dialect, name, version = route
        self._accept = head.accept_encoding
        self._echo = echoed(head) if head.request_id is not None or head.traceparent is not None else b""
        self._started_s = time.monotonic()
        self._lease = lease = Lease(hot.context, name, version)
        if hot.client_share:
            lease.client = hot.client(head.authorization, self.transport)
        if hot.access_log is not None and self.transport is not None:
            peer = self.transport.get_extra_info("peername")
            self._logged = logged(hot, head, peer, Carried(self._dialect.name, lease))
            self._echo = lines(self._logged.headers)
        try:
            if self._dialect.looks:
                body: bytes | memoryview = memoryview(message)[head.body_at :]
            else:
                body = bytes(message[head.body_at :])
            signature, inputs, self._encode = self._dialect.decode(body, lease)
            model = lease.model
            assert model is not None, "a decoded request holds its model"
            deadline_s = self._started_s + hot.timeout_s if hot.timeout_s else None
            lease.decode_s = time.monotonic() - self._started_s
            if self._logged is not None:
                self._logged.carried.count(signature, inputs)
            if lease.timeout_s is not None:
                deadline_s = sooner(deadline_s, lease, self._started_s)
            self._ticket = model.submit(signature, inputs, self._reply, deadline_s, lease.priority, lease.client)
            self._request_in_progress = True
        except errors.RequestError as error:
            self._answer(None, error)
        except Exception:
            # Not foreseen: the stock path will meet it again, log it and answer 500.
            lease.release()
            return False
        assert self._manager is not None
        self._manager.requests_count += 1
        return True

    def _stock_is_idle(self) -> bool:
        """No message is queued or handled by aiohttp's own loop (which may not have begun on a new connection)."""
        waiter = self._waiter
        if waiter is None:
            return self._request_count == 0
        return not (waiter.done() or self._messages or self._buffer_paused or self._reading_paused)

    def _reply(self, outputs: Tensors | None, error: errors.RequestError | None) -> None:
        """The batcher's answer. Loop thread, never from inside ``submit``."""
        self._answer(outputs, error)
        self._go_on()

    def _answer(self, outputs: Tensors | None, error: errors.RequestError | None) -> None:
        """Write the response, or have it encoded or compressed first."""
        if outputs is None:
            assert error is not None, "a reply has outputs or an error"
            self._refuse(snake_case(type(error).__name__), error)
            return
        started_s = time.monotonic()
        if is_large(outputs):
            job = self._hot.off_loop.start(self._encode, outputs)
            self._after(job, lambda: self._answer_encoded(job.result, started_s))
        else:
            self._answer_encoded(partial(self._encode, outputs), started_s)

    def _answer_encoded(self, encoded: Callable[[], bytes | Payload], started_s: float) -> None:
        """Write what ``encoded`` gives or raises, which was begun at ``started_s``."""
        try:
            payload = encoded()
        except errors.RequestError as error:
            self._refuse(snake_case(type(error).__name__), error)
            return
        except Exception as failure:
            told = called(request_id_of(self._echo))
            log.exception("an answer could not be encoded for %s%s", self._dialect.name, told)
            self._refuse("internal", errors.ModelFailed(f"{type(failure).__name__}: {failure}"))
            return
        self._lease.encode_s = time.monotonic() - started_s
        if isinstance(payload, bytes):
            is_worth_it = len(payload) > self._hot.compress_over_bytes
        else:
            is_worth_it = (
                len(payload.body) > self._hot.compress_over_bytes and payload.content_type == compression.COMPRESSIBLE
            )
        if is_worth_it:
            self._answer_compressed(payload if isinstance(payload, Payload) else Payload(payload))
        else:
            self._write("ok", 200, payload, self._echo)

    def _refuse(self, outcome: str, error: errors.RequestError) -> None:
        if self._echo:
            log_failure(error, self._dialect.name, request_id_of(self._echo))
        status, body, headers = error_parts(self._dialect, error, self._lease)
        self._write(outcome, status, body, lines(headers) + self._echo)

    def _answer_compressed(self, payload: Payload) -> None:
        """Answer with a body that is worth compressing: on a thread, if the client takes it so."""
        more = b"Vary: Accept-Encoding\r\n" + self._echo
        coding = compression.choose((self._accept or b"").decode("latin-1"))
        if coding is None:
            self._write("ok", 200, payload, more)
            return
        more = b"Content-Encoding: " + coding.encode() + b"\r\n" + more
        job = self._loop.run_in_executor(None, compression.compress, coding, payload.body)
        self._after(job, lambda: self._write("ok", 200, replace(payload, body=job.result()), more))

    def _after(self, job: asyncio.Future[Any], answer: Callable[[], None]) -> None:
        """Answer when a thread has done its job; until then the request is in flight."""
        self._ticket = job

        def done(job: asyncio.Future[Any]) -> None:
            if self._ticket is job:
                try:
                    answer()
                except Exception as failure:
                    log.exception("an answer was not written")
                    self._refuse("internal", errors.ModelFailed(f"{type(failure).__name__}: {failure}"))
                self._go_on()
            elif not job.cancelled():
                job.exception()  # nobody asks for it any more

        job.add_done_callback(done)

    def _write(self, outcome: str, status: int, payload: bytes | Payload, more: bytes) -> None:
        """The end of the request: its response leaves, it is counted, its model is let go."""
        served = self._lease.served
        if self.transport is not None:
            self.transport.write(self._hot.response(status, payload, None if served is None else served.version, more))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._end(outcome, status)

    def _end(self, outcome: str, status: int) -> None:
        self._ticket = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)  # a shutdown waits for the request in flight
        seconds = time.monotonic() - self._started_s
        record(self._hot.context, self._lease, self._dialect.name, outcome, seconds)
        if self._logged is not None and self._hot.access_log is not None:
            self._logged.write(self._hot.access_log, status, seconds)
        self._lease.release()

    def _go_on(self) -> None:
        """Handle what was held back, if the connection is free and its answers are being read."""
        if self._ticket is not None or self._paused:
            return
        if self._held and self._stock is False and len(self._held) >= self._need:
            self._take(self._unhold())
        waits = self._ticket is not None or self._paused  # if not, what is held is one request, still incomplete
        if self._hot_paused and not (waits and len(self._held) > HELD_LIMIT_BYTES):
            self._hot_paused = False
            if not (self._reading_paused or self._buffer_paused):
                self._resume_transport_reading()

    def resume_writing(self) -> None:
        """The client has read enough of its answers: take its next requests."""
        super().resume_writing()
        self._go_on()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody waits for the answer any more: it is not worked out if it has not begun to be."""
        if self._ticket is not None:
            self._ticket.cancel()
            self._end("cancelled", CLIENT_CLOSED)
        self._held = bytearray()
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        if self._ticket is not None and not self._force_close:
            # aiohttp takes a parked waiter for an idle connection; here a request is in flight beside it.
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()


class _HotServer(web.Server):
    """aiohttp's server with :class:`HotHandler` for its connections."""

    hot: HotPath
    express: Express | None

    def __call__(self) -> RequestHandler:
        if self.express is not None:
            from stfs.web._express import ExpressHandler

            return ExpressHandler(self.express, self.hot, self, loop=self._loop, **self._kwargs)
        return HotHandler(self.hot, self, loop=self._loop, **self._kwargs)


class HotRunner(web.AppRunner):
    """aiohttp's runner of an application, with the hot path before it."""

    __slots__ = ("_hot",)

    def __init__(self, app: web.Application, hot: HotPath, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._hot = hot

    async def _make_server(self) -> web.Server:
        stock = await super()._make_server()
        server = _HotServer(
            stock.request_handler,
            request_factory=stock.request_factory,
            handler_cancellation=stock.handler_cancellation,
            loop=stock._loop,
            **stock._kwargs,
        )
        server.hot = self._hot
        server.express = self._hot.express()
        return server
