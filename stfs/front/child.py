"""The inside of a front process: accepts connections, answers inferences with the engine's help, passes on the rest.

Run as ``python -m stfs.front.child`` by the main process, and by nobody else. It lives as long as the main process
wants it: a signal of the terminal or of a service manager, which reaches every process of the service, does not end it,
since it still has requests to answer; the main process's end does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from stfs.access.door import Door, make_door
from stfs.access.tls import make_tls
from stfs.batcher.slots import RunSlots
from stfs.batcher.thread import share_interpreter
from stfs.config import ModelConfig, ServerConfig
from stfs.context import Context
from stfs.errors import StfsError, Unavailable
from stfs.front import counts
from stfs.front.messages import Message, Messages, decode_config
from stfs.front.outside import Outside
from stfs.front.remote import Engine, remote_model
from stfs.front.ring import Ring
from stfs.front.sockets import BACKLOG
from stfs.front.table import Mirror
from stfs.front.wire import RING_BYTES, Wire
from stfs.lifecycle.manager import Manager
from stfs.loader import ModelLoader
from stfs.metrics import Metrics
from stfs.model import Model
from stfs.platforms.base import usable_cores
from stfs.repository import Repository
from stfs.tracing import Tracing

log = logging.getLogger("stfs.front")

COUNTS_S = 0.5
"""How often counts are handed over where nobody asks for them."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Serve until the main process says ``stop`` or is gone."""
    told = json.loads(sys.argv[1])
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != told["parent"]:  # it went before that was arranged
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    listener, control, descriptors, memory, its_bell, bell = told["fds"]
    for fd in told["fds"]:
        os.set_inheritable(fd, False)
    share_interpreter()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(
            FrontProcess(
                socket.socket(fileno=listener),
                socket.socket(fileno=control),
                socket.socket(fileno=descriptors),
                Ring(memory, bell, its_bell, RING_BYTES, first=False),
            ).serve()
        )


class FrontProcess:
    """What the process does. Made outside of the loop; :meth:`serve` is called once."""

    def __init__(self, listener: socket.socket, control: socket.socket, descriptors: socket.socket, ring: Ring) -> None:
        self._listener = listener
        self._control = control
        self._descriptors = descriptors
        self._ring = ring
        self._engine = Engine()
        self._metrics = Metrics()
        self._mirror = Mirror(lambda message: remote_model(self._engine, message), self._load, self._released)
        self._messages = Messages(self._take, _main_has_gone)

    async def serve(self) -> None:
        """Serve until the main process says ``stop``; returns when what was in flight has been answered."""
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[Message] = loop.create_future()
        self._has_table = asyncio.Event()
        self._stopped = asyncio.Event()
        self._engine.wire = Wire(loop, self._ring, self._descriptors, self._engine.take, _broken)
        await loop.create_connection(lambda: self._messages, sock=self._control)
        message = await self._started
        config: ServerConfig = decode_config(message["config"])
        logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        try:
            tls, door = make_tls(config), make_door(config)
            tracing = Tracing(config.tracing, config.tracing_sample) if config.tracing else None
            runner = Outside(self._context(config, door, tracing), self._engine.wire.send_connection).make_runner()
            await runner.setup()
            await self._has_table.wait()  # nothing is accepted before there is something to answer with
            if not message["replacement"]:  # one that died is missed: it accepts first, and loads then
                await self._mirror.settled()
        except StfsError as error:
            self._messages.send({"op": "failed", "why": str(error)})
            return
        context = None if tls is None else tls.context
        await web.SockSite(runner, self._listener, ssl_context=context, backlog=BACKLOG).start()
        gc.collect()
        gc.freeze()  # what is there now stays: looking through it again and again would cost requests their time
        self._messages.send({"op": "listening"})
        followed = [part.followed for part in (tls, door) if part is not None and part.followed is not None]
        beside = [loop.create_task(work) for work in (self._hand_over_counts(), *(one.follow() for one in followed))]
        await self._stopped.wait()
        # aiohttp waits this long for requests, and once more after cancelling them: the first wait is the promise.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(config.shutdown_timeout_s + 0.5):
                await runner.cleanup()
        for task in beside:
            task.cancel()
        if door is not None:
            door.close()
        if tracing is not None:
            await loop.run_in_executor(None, tracing.close)
        self._send_counts()
        self._messages.send({"op": "bye"})
        self._messages.close()
        await asyncio.sleep(0)

    def _context(self, config: ServerConfig, door: Door | None, tracing: Tracing | None) -> Context:
        """What inferences are served from. Of the rest, which the main process answers, nothing is here to be found."""
        registry = self._mirror.registry
        manager: Manager[Model] = Manager(
            _load_nothing, registry, poll_interval_s=0, drain_timeout_s=0, max_load_retries=0
        )

        def models() -> tuple[ModelConfig, ...]:
            return tuple(ModelConfig(name, Path()) for name in self._mirror.configured)

        return Context(
            config,
            registry,
            manager,
            self._metrics,
            lambda: not self._stopped.is_set(),
            models,
            _change_nothing,
            Repository(models, _change_nothing, manager, explicit=False),
            door,
            tracing,
        )

    async def _load(self, message: Message) -> Model:
        """A model of the main process, loaded here too. The main process has replayed what was recorded for it."""
        config: ModelConfig = decode_config(message["replica"])
        loader = ModelLoader(self._metrics, slots=self._slots)
        loader.configure([config])
        return await loader(message["name"], message["version"], Path(message["path"]))

    def _take(self, message: Message) -> None:
        match message["op"]:
            case "start":
                self._slots = RunSlots(decode_config(message["config"]).run_slots, usable_cores())
                self._started.set_result(message)
            case "table":
                self._mirror.take(message)
                self._has_table.set()
            case "sync":
                told = counts.encode(self._metrics.take())
                self._messages.send({"op": "synced", "number": message["number"], "counts": told})
            case "stop":
                self._stopped.set()

    def _released(self, number: int) -> None:
        self._send_counts()  # first, for then the version may be forgotten
        self._messages.send({"op": "released", "number": number})

    def _send_counts(self) -> None:
        if (told := counts.encode(self._metrics.take())) is not None:
            self._messages.send({"op": "counts", "counts": told})

    async def _hand_over_counts(self) -> None:
        while True:
            await asyncio.sleep(COUNTS_S)
            self._send_counts()


async def _load_nothing(name: str, version: int, path: Path) -> Model:
    raise Unavailable("models are loaded by the main process")


async def _change_nothing(models: object) -> dict[str, str]:
    raise Unavailable("what is served is the main process's to change")


def _main_has_gone() -> None:
    os._exit(0)  # nobody answers any more


def _broken(error: BaseException) -> None:
    log.critical("the main process sent what is no record", exc_info=error)
    logging.shutdown()
    os._exit(1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main()
