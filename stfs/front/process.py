"""One front process as the main process sees it: from its start to its end.

Must not live here: how many there are, and when one is started again (``fronts``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from stfs.config import ModelConfig, ServerConfig
from stfs.errors import SetupError
from stfs.front import counts
from stfs.front.engine import Desk
from stfs.front.messages import Message, Messages, encode_config
from stfs.front.policy import cores_left_by_front
from stfs.front.ring import Ring, create
from stfs.front.table import Told, WatchedRegistry
from stfs.front.wire import RING_BYTES, Wire
from stfs.metrics import Metrics
from stfs.model import Model
from stfs.platforms.base import CORES_LEFT, all_cores
from stfs.tracing import Tracing

log = logging.getLogger("stfs.front")

END_LIMIT_S = 2.0
"""From the end of its socket to its exit, before it is killed."""


class FrontEnded(SetupError):
    """A front process ended before it served."""


class Front:
    """A process that accepts connections on ``listener``, which stays the caller's. Made with a running loop.

    ``on_connection`` gets sockets whose other end speaks HTTP for it; ``on_end`` is called once, when it has gone.
    With ``is_replacement`` it does not wait for what it loads before it accepts connections.
    Raises :class:`OSError` if there is no process or memory to be had.
    """

    def __init__(
        self,
        config: ServerConfig,
        listener: socket.socket,
        registry: WatchedRegistry,
        metrics: Metrics,
        number_of: Callable[[Model], int],
        is_replicated: Callable[[Model, ModelConfig], bool],
        on_connection: Callable[[socket.socket], None],
        on_end: Callable[[Front], None],
        *,
        tracing: Tracing | None = None,
        is_replacement: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._metrics = metrics
        self._on_end = on_end
        self._is_replacement = is_replacement
        self.desk = Desk(tracing)
        self._told = Told(registry, self.desk, number_of, is_replicated)
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.started_s = self._loop.time()
        self._synced: dict[int, asyncio.Future[None]] = {}
        self._last_sync = 0
        self._is_late = False
        self._is_ending = False
        self._messages = Messages(self._take, self._end)
        control, its_control = socket.socketpair()
        descriptors, its_descriptors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory, bell, its_bell = create(RING_BYTES)
        inherited = [listener.fileno(), its_control.fileno(), its_descriptors.fileno(), memory, bell, its_bell]
        try:
            self._popen = _start(inherited, config.workers)
        except BaseException:
            for fd in (memory, bell, its_bell):
                os.close(fd)
            for sock in (control, descriptors):
                sock.close()
            raise
        finally:
            its_control.close()
            its_descriptors.close()
        ring = Ring(memory, bell, its_bell, RING_BYTES, first=True)
        self.desk.wire = Wire(self._loop, ring, descriptors, self.desk.take, self._broken, on_connection)
        self.pid = self._popen.pid
        self._control = control

    async def begin(self) -> None:
        """Tell it how to serve, which it makes ready for."""
        await self._loop.create_connection(lambda: self._messages, sock=self._control)
        config = encode_config(replace(self._config, models=()))
        self._messages.send({"op": "start", "config": config, "replacement": self._is_replacement})

    async def open(self, configured: Sequence[ModelConfig]) -> None:
        """Tell it what to serve; return when it accepts connections. Raises :class:`FrontEnded` if it does not."""
        if not self._is_ending:  # who has gone would hold what it is told of for ever
            self.tell_table(configured)
        await self.started

    def tell_table(self, configured: Sequence[ModelConfig]) -> None:
        """Tell it what is served now."""
        self._messages.send(self._told.message(configured))

    async def sync(self, limit_s: float) -> None:
        """Return when it has done all it was told, and its counts are in; after ``limit_s`` in any case.

        One that was late is not waited for again before it has caught up.
        """
        if self.ended.done() or not self.started.done() or self._is_late:
            return
        self._last_sync += 1
        number = self._last_sync
        done = self._synced[number] = self._loop.create_future()
        self._messages.send({"op": "sync", "number": number})
        try:
            await asyncio.wait_for(asyncio.shield(done), limit_s)
        except TimeoutError:
            self._is_late = True
            log.warning("front process %d has not answered for %g s", self.pid, limit_s)

    def stop(self) -> None:
        """Let it accept no more, finish what it has, and end; see ``ended``."""
        self._messages.send({"op": "stop"})

    def kill(self) -> None:
        """End it now. For one that was never spoken to this is the end; of any other its socket's end tells."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()
        if not self._messages.is_connected and not self._is_ending:
            self._control.close()
            self._end()

    def _take(self, message: Message) -> None:
        try:
            match message["op"]:
                case "listening":
                    if not self.started.done():
                        self.started.set_result(None)
                case "released":
                    self.desk.let_go(message["number"])
                case "counts":
                    self._count(message)
                case "synced":
                    self._count(message)
                    self._is_late = False
                    if (done := self._synced.pop(message["number"], None)) is not None and not done.done():
                        done.set_result(None)
                case "failed":
                    log.error("front process %d: %s", self.pid, message["why"])
        except Exception as error:
            self._broken(error)

    def _count(self, message: Message) -> None:
        if message["counts"] is not None:
            held = {(handle.name, str(handle.version)) for handle in self.desk.held.values()}
            self._metrics.absorb(counts.decode(message["counts"], lambda *key: key in held))

    def _broken(self, error: BaseException) -> None:
        log.error("front process %d sent what is no message, and is ended", self.pid, exc_info=error)
        self.kill()
        self._messages.close()

    def _end(self) -> None:
        """Its socket has ended."""
        if self._is_ending:
            return
        self._is_ending = True
        self.desk.close()
        for done in self._synced.values():
            if not done.done():
                done.set_result(None)
        self._synced.clear()
        self._loop.create_task(self._reap()).add_done_callback(lambda task: task.exception())

    async def _reap(self) -> None:
        wait = self._loop.run_in_executor(None, self._popen.wait)
        try:
            await asyncio.wait_for(asyncio.shield(wait), END_LIMIT_S)
        except TimeoutError:
            self.kill()
            await wait
        if not self.started.done():
            self.started.set_exception(FrontEnded(f"a front process ended with status {self._popen.returncode}"))
            self.started.exception()  # nobody may wait for it any more, which is no news then
        self.ended.set_result(None)
        self._on_end(self)

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; ``None`` while it lives."""
        return self._popen.returncode


def _start(inherited: Sequence[int], fronts: int) -> subprocess.Popen[bytes]:
    """Run ``stfs.front.child`` with these descriptors: found as this stfs was, whatever lies in the current folder."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
    told = json.dumps({"parent": os.getpid(), "fds": list(inherited)})
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "stfs.front.child", told],
        stdin=subprocess.DEVNULL,
        pass_fds=tuple(inherited),
        env={**os.environ, "PYTHONPATH": path, CORES_LEFT: str(cores_left_by_front(all_cores(), fronts))},
        process_group=0,  # so that the terminal's signals pass it by: it ends when the main process says so
    )
