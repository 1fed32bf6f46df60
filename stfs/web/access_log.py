"""The access log: one JSON object a line for each answered HTTP request, or for one in so many.

For the event-loop thread, but for a thread of its own that writes: a slow disk or a full pipe must not hold up answers.
Where it is off none of this exists, and requests do not pass through here.

Must not live here: what a request is answered, and the server's own log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from aiohttp import web

from stfs.carry import REQUEST_ID, echoed
from stfs.config import ServerConfig
from stfs.context import Lease
from stfs.errors import ConfigError
from stfs.signature import Signature, Tensors
from stfs.web.key import CONTEXT
from stfs.web.request_ids import request_id

log = logging.getLogger("stfs.web")

MAX_WAITING_LINES = 100_000
"""Lines that may wait to be written; beyond them lines are dropped, and how many is told in the next one."""

CLIENT_CLOSED = 499
"""The status of a request whose client did not wait for its answer; nothing was sent."""

_END_WAIT_S = 5.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Carried:
    """What the carrying of an inference knows of it and an access log tells."""

    __slots__ = ("dialect", "lease", "rows")

    def __init__(self, dialect: str, lease: Lease) -> None:
        self.dialect = dialect
        self.lease = lease
        self.rows: int | None = None

    def count(self, signature: Signature, inputs: Tensors) -> None:
        """Note how many rows a decoded request has."""
        self.rows = rows_of(signature, inputs)


# Aiohttp before 3.14 has no keys of this kind, and warns of others from then on.
CARRIED: Any = web.RequestKey("stfs_carried", Carried) if hasattr(web, "RequestKey") else "stfs_carried"
"""Under which an inference on the stock path leaves what it knows."""


def rows_of(signature: Signature, inputs: Tensors) -> int | None:
    """The rows of a decoded request; ``None`` where its inputs have none."""
    first = next(iter(inputs.values()), None)
    return first.shape[0] if signature.batchable and first is not None and first.ndim else None


@dataclass(frozen=True, slots=True)
class Who:
    """Who has sent a request: the address that it came from, and the user whose right credentials it came with."""

    address: str | None
    user: str | None = None


class AccessLog:
    """Where lines go. Made by :func:`open_log`; the loop's thread asks and writes, :meth:`close` may block."""

    def __init__(self, sink: TextIO, every: int, *, owns_sink: bool) -> None:
        self._sink = sink
        self._owns_sink = owns_sink
        self._every = every
        self._seen = 0
        self._dropped = 0
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="stfs-access-log", daemon=True)
        self._thread.start()

    def takes(self) -> bool:
        """Whether this request is one of those that are logged. Ask once for each, when it has been answered."""
        self._seen += 1
        if self._seen < self._every:
            return False
        self._seen = 0
        return True

    def write(
        self,
        method: str,
        path: str,
        status: int,
        duration_s: float,
        who: Who,
        headers: Mapping[str, str],
        carried: Carried | None,
    ) -> None:
        """One line. ``headers`` are what the request is called by, ``path`` is without its query.

        A line is described by ``docs/access-log.schema.json``.
        """
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "client": who.address,
            "method": method,
            "path": path,
            "status": status,
            "duration_ms": round(duration_s * 1e3, 3),
        }
        if who.user is not None:
            line["user"] = who.user
        if carried is not None:
            line["dialect"] = carried.dialect
            if (served := carried.lease.served) is not None:
                line |= {"model": served.name, "version": served.version}
            if carried.rows is not None:
                line["rows"] = carried.rows
        for key, name in (("request_id", "X-Request-Id"), ("traceparent", "traceparent")):
            if name in headers:
                line[key] = headers[name]
        if self._lines.qsize() >= MAX_WAITING_LINES:
            self._dropped += 1
            return
        if self._dropped:
            line["dropped"], self._dropped = self._dropped, 0
        self._lines.put(json.dumps(line) + "\n")

    def close(self) -> None:
        """Write what waits, within a few seconds, and close the file. Safe to call twice."""
        if self._thread.is_alive():
            self._lines.put(None)
            self._thread.join(_END_WAIT_S)

    def _write_all(self) -> None:
        has_failed = False
        is_open = True
        while is_open:
            lines = [self._lines.get()]
            while not self._lines.empty():  # nobody else takes from it
                lines.append(self._lines.get())
            is_open = None not in lines
            try:
                self._sink.write("".join(line for line in lines if line is not None))
                self._sink.flush()
            except (OSError, ValueError) as error:
                if not has_failed:  # once: a disk that is full stays so for a while
                    log.error("the access log cannot be written: %s", error)
                has_failed = True
            else:
                has_failed = False
        if self._owns_sink:
            self._sink.close()


def open_log(config: ServerConfig) -> AccessLog | None:
    """The log that is configured, ``None`` if none is. Raises :class:`ConfigError` if its file cannot be opened."""
    if config.access_log == "off":
        return None
    path = config.access_log_file
    if path is None:
        return AccessLog(sys.stderr, config.access_log_sample, owns_sink=False)
    try:
        sink = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - it is closed with the log
    except OSError as error:
        raise ConfigError(f"--access_log_file: cannot write {path}: {error.strerror}") from None
    return AccessLog(sink, config.access_log_sample, owns_sink=True)


def _who(request: web.Request) -> Who:
    door, given = request.app[CONTEXT].door, request.headers.getall("Authorization", [])
    user = None
    if door is not None and len(given) == 1:
        user = door.name_of(given[0].encode(errors="surrogateescape"))
    return Who(request.remote, user)


def logging_middleware(access_log: AccessLog) -> Any:
    """What logs each request of the stock path, whatever becomes of it. To stand before all others."""

    @web.middleware
    async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
        started_s = time.monotonic()
        status = 500
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as answer:
            status = answer.status
            raise
        except asyncio.CancelledError:
            status = CLIENT_CLOSED
            raise
        finally:
            if access_log.takes():
                path, seconds = request.rel_url.raw_path, time.monotonic() - started_s
                told, carried = echoed(request.headers), request.get(CARRIED)
                if (name := request_id(request)) is not None:
                    told[REQUEST_ID] = name
                access_log.write(request.method, path, status, seconds, _who(request), told, carried)

    return logged
