"""The front processes of a server: so many, each replaced when it dies, all told what is served.

Must not live here: what one of them is told and asked (``process``), how requests travel.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from itertools import count
from weakref import WeakKeyDictionary

from stfs.config import ModelConfig, ServerConfig
from stfs.context import FrontStatus
from stfs.front import sockets
from stfs.front.process import Front
from stfs.front.table import Replicas, WatchedRegistry
from stfs.metrics import Metrics
from stfs.model import Model
from stfs.platforms.worker_policy import crashes_in_a_row, restart_delay_s
from stfs.tracing import Tracing

log = logging.getLogger("stfs.front")

SYNC_LIMIT_S = 1.0
"""How long an answer that tells of the whole server waits for one front."""

BACK_AT_ONCE_S = 0.2
"""A front that is started again within this time keeps its listening socket, and the connections that wait on it."""


class Fronts:
    """``config.workers`` front processes. Event-loop thread; :meth:`begin`, :meth:`open` and :meth:`stop` are called
    once each, in that order.

    ``configured`` tells the models that are to be served. ``on_connection`` gets sockets whose other end
    speaks HTTP for a front, about whatever is not an inference. ``tracing`` is where spans of batches go.
    """

    def __init__(
        self,
        config: ServerConfig,
        registry: WatchedRegistry,
        metrics: Metrics,
        configured: Callable[[], Sequence[ModelConfig]],
        on_connection: Callable[[socket.socket], None],
        tracing: Tracing | None = None,
    ) -> None:
        self._config = config
        self._tracing = tracing
        self._registry = registry
        self._metrics = metrics
        self._configured = configured
        self._on_connection = on_connection
        self._slots: list[_Slot] = []
        self._numbers: WeakKeyDictionary[Model, int] = WeakKeyDictionary()
        self._last_number = count(1)
        self._replicas = Replicas(config.engine)
        self._opened = asyncio.Event()  # there is something to serve
        self._is_stale = False  # the fronts have yet to be told of a change
        self._stopping = False
        registry.on_change = self._changed

    def begin(self, held: socket.socket) -> None:
        """Start the processes, which make ready while models load; nobody listens before :meth:`open`.

        ``held`` is bound to the address, stays the caller's, and does not listen. Raises :class:`OSError` if there is
        no process to be had; call :meth:`stop` then, as whenever the fronts are not wanted after all.
        """
        address, family = held.getsockname(), held.family
        listeners = sockets.bound(held, self._config.workers)
        self._slots = [_Slot(self, listener, address, family) for listener in listeners]
        for slot in self._slots:
            slot.begin()

    async def open(self, held: socket.socket) -> socket.socket:
        """Serve what is published; return when every front accepts connections.

        ``held`` is closed; a socket that is bound to the same address is returned, for its address alone. Raises
        :class:`OSError` if somebody listens there already, and :class:`stfs.front.process.FrontEnded`.
        """
        listeners = [slot.listener for slot in self._slots if slot.listener is not None]
        sockets.listen(held, listeners)
        self._opened.set()
        await asyncio.gather(*(slot.opened() for slot in self._slots))
        return listeners[0]

    async def sync(self) -> None:
        """Return when every front serves what is published and its counts are in; bounded."""
        if self._is_stale:
            self._tell()
        await asyncio.gather(*(front.sync(SYNC_LIMIT_S) for front in self._fronts()))

    @property
    def is_stale(self) -> bool:
        """Whether a change of what is served has not been told yet."""
        return self._is_stale

    def status(self) -> list[FrontStatus]:
        """Of each place for a front."""
        return [FrontStatus(slot.is_up, slot.restarts) for slot in self._slots]

    async def stop(self, limit_s: float) -> None:
        """Accept no more, let each front finish what it has for so long, end them. Nothing is left afterwards."""
        self._stopping = True
        self._registry.on_change = lambda: None
        for slot in self._slots:
            slot.close_listener()
        fronts = self._fronts()
        for slot in self._slots:
            slot.give_up()
        for front in fronts:
            if front.started.done():
                front.stop()
            else:  # it has nothing to finish
                front.kill()
        if not fronts:
            return
        _, late = await asyncio.wait([front.ended for front in fronts], timeout=limit_s)
        for front in fronts:
            if front.ended in late:
                log.warning("front process %d has not finished: ending it", front.pid)
                front.kill()
        if late:
            await asyncio.wait(late)

    def _fronts(self) -> list[Front]:
        return [slot.front for slot in self._slots if slot.front is not None]

    def _changed(self) -> None:
        if not self._is_stale:  # what changes together is told together
            self._is_stale = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        if self._is_stale:
            self._is_stale = False
            for front in self._fronts():
                if front.started.done() and not front.ended.done():
                    front.tell_table(self._configured())

    def _number_of(self, model: Model) -> int:
        number = self._numbers.get(model)
        if number is None:
            number = self._numbers[model] = next(self._last_number)
        return number


class _Slot:
    """The place of one front, which another takes when it dies."""

    def __init__(self, fronts: Fronts, listener: socket.socket, address: object, family: int) -> None:
        self.front: Front | None = None
        self.restarts = 0
        self._fronts = fronts
        self.listener: socket.socket | None = listener
        self._address = address
        self._family = family
        self._crashes = 0
        self._opening: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether the front accepts connections."""
        front = self.front
        return front is not None and front.started.done() and not front.ended.done()

    def begin(self) -> None:
        """Start a front here."""
        fronts = self._fronts
        if self.listener is None:
            self.listener = sockets.another(self._address, self._family)
        self.front = Front(
            fronts._config,
            self.listener,
            fronts._registry,
            fronts._metrics,
            fronts._number_of,
            fronts._replicas.wants,
            fronts._on_connection,
            self._ended,
            tracing=fronts._tracing,
            is_replacement=self.restarts > 0,
        )
        self._opening = asyncio.get_running_loop().create_task(self._open(self.front))
        self._opening.add_done_callback(_told)

    async def opened(self) -> None:
        """Return when the front that was begun accepts connections. Raises :class:`FrontEnded` if it does not."""
        assert self._opening is not None, "it has been begun"
        await self._opening

    def give_up(self) -> None:
        """Wait for the front no more."""
        if self._opening is not None:
            self._opening.cancel()

    async def _open(self, front: Front) -> None:
        await front.begin()
        await self._fronts._opened.wait()
        await front.open(self._fronts._configured())
        # What changed while it started is told now.
        front.tell_table(self._fronts._configured())

    def close_listener(self) -> None:
        """Accept no more here. The front has the socket too, and closes it when it is told to stop."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    def _ended(self, front: Front) -> None:
        if self._fronts._stopping:
            return
        if not self._fronts._opened.is_set():
            return  # the server does not come up, which is told when its models have been loaded
        loop = asyncio.get_running_loop()
        self._crashes = crashes_in_a_row(self._crashes, loop.time() - front.started_s)
        delay_s = restart_delay_s(self._crashes)
        log.error("front process %d ended (status %s): another starts in %g s", front.pid, front.status, delay_s)
        self.front = None
        if delay_s > BACK_AT_ONCE_S:
            self.close_listener()  # the others get its connections meanwhile
        loop.call_later(delay_s, self._begin_again)

    def _begin_again(self) -> None:
        if self._fronts._stopping:
            return
        self.restarts += 1
        try:
            self.begin()
        except OSError as error:
            log.error("no front process can be started: %s", error)
            self._crashes += 1
            asyncio.get_running_loop().call_later(restart_delay_s(self._crashes), self._begin_again)


def _told(task: asyncio.Task[None]) -> None:
    """Whoever waits for it hears what it raised; one that takes another's place has nobody who does, but the log."""
    if not task.cancelled():
        task.exception()
