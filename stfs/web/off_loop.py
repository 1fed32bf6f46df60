"""Work on large requests away from the event loop: reading bodies and writing answers, on a few threads of its own.

Owns the threads, what counts as large, and how a decoder on a thread gets hold of a model, which only the loop's thread
may do. The C++ reader and writer let the interpreter lock go over large arrays of numbers, so several bodies are read
at once on several cores, and small requests go by meanwhile. Must not live here: how bodies arrive (``hot_large``,
``infer``), what stands in them (``protocols``).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

from aiohttp import web

from stfs.context import Lease
from stfs.lifecycle.registry import Handle
from stfs.model import Model
from stfs.signature import Array, Signature, Tensors

OFF_LOOP_BYTES = 1 << 18
RAW_OFF_LOOP_BYTES = 1 << 20
"""Bodies of this size and over are read on a thread, and those in which most is raw tensors. Going there and back takes
0.1 to 0.2 ms of CPU time, and so does reading this much."""

OFF_LOOP_ELEMENTS = 1 << 16
"""Answers of so many elements and over are written on a thread."""

STRINGS_LOOKED_AT = 256
"""How many strings of an answer are looked at to tell how long it is."""

MAX_THREADS = 8

T = TypeVar("T")


class WithdrawnError(Exception):
    """Ends a decoder whose request is no longer wanted. Nobody is told."""


class AwayLease(Lease):
    """A request's lease as its decoder sees it on a thread: what it acquires is acquired on the loop.

    The lease itself stays with the loop, which releases it as ever. After :meth:`withdraw` it acquires nothing.
    """

    __slots__ = ("_lease", "_loop", "_withdrawn")

    def __init__(self, lease: Lease, loop: asyncio.AbstractEventLoop) -> None:  # it holds nothing of its own
        self._lease = lease
        self._loop = loop
        self._withdrawn = False

    def withdraw(self) -> None:
        """Nobody waits for the request any more. Loop thread, before the lease is released for the last time."""
        self._withdrawn = True

    def __call__(self, model_name: str | None, version: int | None, signature_name: str | None) -> Signature:
        """As :meth:`Lease.__call__`, from a thread: waits for the loop. Raises :class:`WithdrawnError`."""
        found: concurrent.futures.Future[Signature] = concurrent.futures.Future()

        def acquire() -> None:
            try:
                if self._withdrawn:
                    raise WithdrawnError
                found.set_result(self._lease(model_name, version, signature_name))
            except Exception as error:
                found.set_exception(error)

        self._loop.call_soon_threadsafe(acquire)
        while True:
            try:
                return found.result(timeout=1.0)
            except concurrent.futures.TimeoutError:
                if self._loop.is_closed():  # it ended with this call still to come
                    raise WithdrawnError from None

    @property
    def served(self) -> Handle[Model] | None:  # type: ignore[override]
        """What the lease held last."""
        return self._lease.served

    @property
    def timeout_s(self) -> float | None:
        """See :class:`Lease`."""
        return self._lease.timeout_s

    @timeout_s.setter
    def timeout_s(self, value: float | None) -> None:
        self._lease.timeout_s = value

    @property
    def priority(self) -> int:
        """As the lease's own."""
        return self._lease.priority

    @priority.setter
    def priority(self, value: int) -> None:
        self._lease.priority = value


class OffLoop:
    """The threads for large bodies and answers, as many as there are cores: no more of them are worked on at once.

    They start with the first work. Every method is for the event loop's thread.
    """

    def __init__(self) -> None:
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    def start(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """``work`` of these arguments on a thread. A cancelled future does not begin, or drops what it comes to."""
        if self._threads is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            self._threads = concurrent.futures.ThreadPoolExecutor(min(cores, MAX_THREADS), "stfs-large")
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def decode(self, decode: Callable[[Any, Lease], T], body: bytes | memoryview, lease: Lease) -> T:
        """What ``decode`` makes of ``body``, or raises. If this is cancelled, ``lease`` may be released at once."""
        away = AwayLease(lease, asyncio.get_running_loop())
        try:
            return await self.start(decode, body, away)
        finally:
            away.withdraw()

    def close(self) -> None:
        """Let the threads end when what they are at work on is done."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


OFF_LOOP = web.AppKey("off_loop", OffLoop)
"""Under which key the application holds its threads."""


def is_for_thread(size_bytes: int, raw: bool) -> bool:
    """Whether reading a body is worth a thread."""
    return size_bytes >= (RAW_OFF_LOOP_BYTES if raw else OFF_LOOP_BYTES)


def is_large(outputs: Tensors) -> bool:
    """Whether an answer is worth a thread: by its elements, and by the length of some of its strings."""
    return sum([_weight(array) for array in outputs.values()]) >= OFF_LOOP_ELEMENTS


def _weight(array: Array) -> int:
    """How many numbers take as long to write."""
    if array.dtype.kind != "O":
        return array.size
    some = [len(text) for text in islice(array.flat, STRINGS_LOOKED_AT) if isinstance(text, bytes | str)]
    mean_bytes = sum(some) // max(len(some), 1)
    return array.size * (4 + mean_bytes // 16)
