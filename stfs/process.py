"""The life of a serving process: start, say so, wait for a signal, finish what was taken, end in bounded time.

Bad configuration and models that do not load come out as :class:`stfs.errors.SetupError`; whatever else happens, the
process ends with status 0 after SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from stfs import codec
from stfs.batcher.thread import share_interpreter
from stfs.config import ServerConfig
from stfs.server import Server

log = logging.getLogger("stfs")


Beside = Callable[[Server], Coroutine[Any, Any, None]]
"""What runs on the loop while the server serves; cancelled when it stops."""


async def _nothing(_: Server) -> None:
    """Nothing runs beside the server."""


def serve(config: ServerConfig, started_at_s: float, beside: Beside = _nothing) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends at once. ``started_at_s`` is of ``time.monotonic``.

    Raises :class:`SetupError` if the server cannot start. Does not return while a thread is stuck in a model or in a
    load that no longer matters: then it ends the process itself, with status 0.
    """
    share_interpreter()
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        clean = runner.run(_serve(config, started_at_s, beside))
        if not clean:
            _exit_past_stuck_threads()
    finally:
        runner.close()
    if _is_any_stuck():
        _exit_past_stuck_threads()


async def _serve(config: ServerConfig, started_at_s: float, beside: Beside) -> bool:
    """Whether everything was finished and freed."""
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal(name: str) -> None:
        if first.is_set():
            log.warning("%s again: ending at once", name)
            second.set()
        else:
            log.info("%s: finishing the requests in flight", name)
            first.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    server = Server(config)
    if await _unless(first, server.start()):
        with contextlib.suppress(OSError):  # nobody reads what is printed; that is no reason not to serve
            _announce(server, started_at_s)
        companion = asyncio.create_task(beside(server))
        await first.wait()
        companion.cancel()
    clean = await _unless(second, _stop(server))
    log.info("stopped")
    return clean


async def _stop(server: Server) -> bool:
    """Stop within the configured time; whether everything came to its end in it."""
    config = server.config
    # A second more, so that requests which took all the time there was leave some for the models.
    end_s = time.monotonic() + config.shutdown_delay_s + config.shutdown_timeout_s + 1.0
    await server.stop_listening()
    try:
        async with asyncio.timeout(end_s - time.monotonic()):
            await server.free()
    except TimeoutError:
        log.warning("a model is still running or loading: ending without it")
        return False
    return True


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, bool | None]) -> bool:
    """Do ``work``, or give it up when ``event`` is set first. Whether it was done; what it raises is raised.

    ``False`` from the work itself counts as not done. Work that was given up is cancelled and not waited for: it may
    stand in a thread that cannot be interrupted.
    """
    task, waiter = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if not task.done():
        task.cancel()
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 0.1)
        return False
    return task.result() is not False


def _announce(server: Server, started_at_s: float) -> None:
    if not codec.ACCELERATED:
        log.warning("fast JSON is not compiled in, so its Python twin serves: install a C++ compiler, then reinstall")
    config = server.config
    if config.enable_auth and (config.auth_username, config.auth_password) == ("admin", "admin"):
        log.warning("--enable_auth with the well-known password: choose one with --auth_username and --auth_password")
    log.info("ready in %.2f s", time.monotonic() - started_at_s)
    places = [f"over gRPC at {', '.join(server.rpc_addresses)}"] if server.rpc_addresses else []
    if config.http:
        places.append(f"at {server.url}")
    names = ", ".join(model.name for model in config.models) or "no model yet"
    print(f"Serving {names} {' and '.join(places)}", flush=True)
    if server.example is not None:
        print(f"Try:\n  {server.example}", flush=True)


def _is_any_stuck() -> bool:
    """Whether a thread that the interpreter's exit waits for does not end: a poll of a mount that hangs, say."""
    end_s = time.monotonic() + 1.0
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                return True
    return False


def _exit_past_stuck_threads() -> None:
    """End now, with status 0. The interpreter's own exit would wait for threads that nobody will give back."""
    stuck = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    log.debug("left behind: %s", ", ".join(stuck))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's loop where it is installed; ``None``, asyncio's own, where it is not."""
    try:
        import uvloop
    except ImportError:
        log.info("uvloop is not installed: serving on asyncio's own loop, which is slower")
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
