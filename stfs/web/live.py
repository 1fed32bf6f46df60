"""``GET /live``: what the server is doing, once a second, as server-sent events; and the history that it begins with.

Owns the one task that samples, for all clients together, and the clients: how many there may be, and that one who does
not read is dropped. What is computed is ``stfs.history``'s; which pages show it is ``web.dashboard``'s. Everything here
is for the event-loop thread.

The stream (https://html.spec.whatwg.org/multipage/server-sent-events.html) has these events, each with JSON:

``hello``
    First. ``server`` (a name for this run of the server), ``version``, ``at`` (seconds since 1970), ``columns``, and
    ``fine`` and ``coarse``: ``{"times": [...], "points": [[...], ...]}``, a row for each moment, ``null`` for what was
    not there to be measured. Of the whole server, or with ``?model=NAME`` of that model (of some models there is none:
    see :data:`stfs.history.MAX_SERIES`).
``tick``
    Each second. ``at``, ``ready``, ``server``, ``total``, ``models`` (with ``?model=NAME`` only that one, with its
    outcomes and labels), ``fine`` and, each ten seconds, ``coarse``: the newest point, as ``[at, [...]]``.
``bye``
    Last, if the server is stopping.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from stfs import __version__, codec
from stfs.context import Context
from stfs.history import FINE_S, History, Ring, Series
from stfs.web.key import CONTEXT
from stfs.web.sample import Sample, Sampler, Teller
from stfs.web.usage import Gpu, Gpus

log = logging.getLogger("stfs.web")

MAX_CLIENTS = 64
"""Streams at once. A page that nobody looks at has none."""

MAX_BEHIND = 10
"""Messages that may wait for a client; one that is further behind does not read, and is dropped."""

GPU_EVERY = 2
"""Ticks between two looks at the GPUs, on a thread, while somebody watches."""


class Client:
    """One stream: the messages that wait for it. ``drop`` ends its connection at once."""

    def __init__(self, model: str | None, drop: Callable[[], None]) -> None:
        self.model = model
        self._drop = drop
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_BEHIND)
        self.dropped = False

    def send(self, message: bytes | None) -> None:
        """Hand a message over, ``None`` for the end; drops a client that has too many waiting."""
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            if not self.dropped:
                self.dropped = True
                log.info("a dashboard does not read what it is sent: dropped")
                self._drop()

    async def next(self) -> bytes | None:
        """The next message; ``None`` after the last."""
        return await self._waiting.get()


class Live:
    """Samples the server and tells its clients. ``clock`` is monotonic, ``wall`` the time of day; both in seconds."""

    def __init__(
        self,
        context: Context,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._name = secrets.token_hex(8)
        self._history = History()
        self._sampler = Sampler(context)
        self._teller = Teller(context, self._history)
        self._gpus = Gpus()
        self._gpus_seen: tuple[Gpu, ...] = ()
        self._looking: asyncio.Future[tuple[Gpu, ...]] | None = None
        self._clients: set[Client] = set()
        self._ticks = 0
        self._stopped = False

    async def run(self) -> None:
        """Sample about once a second until cancelled."""
        failed = False
        due_s = self._clock()
        while True:
            try:
                self.tick()
                failed = False
            except Exception:
                if not failed:  # once, and not each second
                    log.exception("the dashboard's numbers could not be taken")
                failed = True
            # What was missed while the loop was busy is not made up for: its point would be of no time.
            now_s = self._clock()
            due_s = max(due_s + FINE_S, now_s + FINE_S / 2)
            await asyncio.sleep(due_s - now_s)

    def tick(self) -> None:
        """Take one sample into the history and send it to the clients."""
        at_s = self._clock()
        self._ticks += 1
        sample = self._sampler.take(at_s)
        self._history.record(at_s, sample.counts, sample.gauges, sample.cpu_cores, sample.memory_bytes)
        if self._clients:
            self._look_at_gpus()
            self._tell(sample)

    def _tell(self, sample: Sample) -> None:
        common = {"at": round(self._wall(), 3), **self._teller.server(sample, self._gpus_seen)}
        made: dict[str | None, bytes] = {}  # each message once, for all who watch the same
        for client in list(self._clients):
            model = client.model
            if model not in made:
                told = {**common, "models": self._teller.models(sample, model)}
                made[model] = _message("tick", json.dumps(told).encode()[:-1] + self._newest(model) + b"}")
            client.send(made[model])

    def _newest(self, model: str | None) -> bytes:
        """The points that came with this sample, as members of a JSON object."""
        series = self._series(model)
        if series is None or not len(series.fine):
            return b""
        told = b', "fine": ' + self._point(series.fine)
        if len(series.coarse) and series.coarse.points(1)[0][0] == series.fine.points(1)[0][0]:
            told += b', "coarse": ' + self._point(series.coarse)
        return told

    def _point(self, ring: Ring) -> bytes:
        times, rows = ring.points(1)
        return b"[" + repr(round(float(times[0]) + self._offset_s(), 3)).encode() + b", " + _json(rows[0]) + b"]"

    def _series(self, model: str | None) -> Series | None:
        return self._history.total if model is None else self._history.models.get(model)

    def _offset_s(self) -> float:
        return self._wall() - self._clock()

    def _look_at_gpus(self) -> None:
        if self._looking is not None:
            if not self._looking.done():
                return
            self._gpus_seen = self._looking.result()
            self._looking = None
        if self._ticks % GPU_EVERY == 0:
            self._looking = asyncio.get_running_loop().run_in_executor(None, self._gpus.read)

    def hello(self, model: str | None) -> bytes:
        """The first message of a stream that watches ``model``, or everything if ``None``."""
        head: dict[str, Any] = {"server": self._name, "version": __version__, "at": self._wall()}
        text = json.dumps(head).encode()[:-1]
        series = self._series(model)
        if series is not None:
            text += b', "columns": ' + json.dumps(series.columns).encode()
            for name, ring in (("fine", series.fine), ("coarse", series.coarse)):
                times, rows = ring.points()
                told = _json(np.round(times + self._offset_s(), 3))
                text += f', "{name}": {{"times": '.encode() + told + b', "points": ' + _json(rows) + b"}"
        return _message("hello", text + b"}")

    def join(self, model: str | None, drop: Callable[[], None]) -> Client | None:
        """A new client, whose first message waits for it; ``None`` if there are too many. It ends by :meth:`leave`."""
        if len(self._clients) >= MAX_CLIENTS:
            return None
        client = Client(model, drop)
        client.send(self.hello(model))
        if self._stopped:
            client.send(None)
        self._clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        """It gets no more messages."""
        self._clients.discard(client)

    def stop(self) -> None:
        """Tell the clients that the server goes, and end their streams."""
        self._stopped = True
        for client in list(self._clients):
            client.send(_message("bye", b"{}"))
            client.send(None)


LIVE = web.AppKey("stfs_live", Live)


def add_routes(app: web.Application) -> None:
    """The stream, and the task that feeds it for as long as the application runs."""
    app[LIVE] = made = Live(app[CONTEXT])

    async def sample(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(made.run(), name="dashboard")
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def end_streams(_: web.Application) -> None:
        made.stop()

    app.cleanup_ctx.append(sample)
    app.on_shutdown.append(end_streams)  # before the server waits for what is in flight: a stream would never end
    app.add_routes([web.get("/live", stream)])


async def stream(request: web.Request) -> web.StreamResponse:
    """Everything, or with ``?model=NAME`` one model. 404 for a model that is not here, 503 for a client too many."""
    context, live = request.app[CONTEXT], request.app[LIVE]
    model = request.query.get("model")
    if model is not None and all(status.name != model for status in context.manager.status()):
        return web.json_response({"error": f'no model "{model[:200]}"'}, status=404)

    def drop() -> None:
        if request.transport is not None:
            request.transport.abort()

    client = live.join(model, drop)
    if client is None:
        text = f"{MAX_CLIENTS} dashboards are open on this server: close one of them"
        return web.json_response({"error": text}, status=503, headers={"Retry-After": "10"})
    # A proxy that gathers what it passes on would make "live" late (X-Accel-Buffering is nginx's).
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    try:
        await response.prepare(request)
        while (message := await client.next()) is not None:
            await response.write(message)
    except ConnectionError:  # it has gone
        pass
    finally:
        live.leave(client)
    return response


def _message(event: str, data: bytes) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


def _json(array: npt.NDArray[Any]) -> bytes:
    """Numbers as JSON, which has no word for NaN but ``null``."""
    return codec.encode(array).replace(b"NaN", b"null")
