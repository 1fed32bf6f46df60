"""What the hot path's connections share: where addresses lead, who is let in, how an answer is put together.

For the event-loop thread. The connections themselves are in ``hot``.
"""

from __future__ import annotations

import sys
import time
from asyncio import BaseTransport
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp.http import SERVER_SOFTWARE

from stfs import codec
from stfs.access.client import client_of
from stfs.access.origins import Origins
from stfs.access.scopes import Scope
from stfs.carry import REQUEST_ID, is_sane, make_request_id
from stfs.context import Context
from stfs.protocols.request import Payload
from stfs.web.access_log import AccessLog, Carried, Who
from stfs.web.infer import STFS, Dialect
from stfs.web.off_loop import OffLoop
from stfs.web.oip import OIP, V2_INFER
from stfs.web.oip import dialect as oip_dialect
from stfs.web.tfserving import PREDICT_PATH, dialect_of

if TYPE_CHECKING:
    from stfs.web._express import Express
    from stfs.web._headscan import Head

ROUTES_KEPT = 1024
"""Addresses remembered; clients can spell one in many ways, so the memory is emptied when it is full."""


class HotPath:
    """What the connections of one server share: routes, prepared pieces of answers, the scan's result. Loop thread."""

    def __init__(self, context: Context, access_log: AccessLog | None = None, off_loop: OffLoop | None = None) -> None:
        from stfs.web._headscan import Head  # here, so that this module can be imported where it is not compiled

        config = context.config
        self.context = context
        self.access_log = access_log
        self.off_loop = off_loop or OffLoop()
        self.head = Head()
        self.limit_bytes = config.max_request_bytes
        self.timeout_s = config.request_timeout_s
        self._door = context.door
        self.client_share = "" if config.client_share == "off" else config.client_share
        self.compress_over_bytes = config.compress_over_bytes or sys.maxsize
        self._fixed = lines(Origins(config.enable_cors, config.cors_origins).fixed())
        self._routes: dict[bytes, tuple[Dialect, str | None, int | None] | None] = {}
        self._second = 0
        self._tail = b""

    def route(self, path: bytes) -> tuple[Dialect, str | None, int | None] | None:
        """Dialect, model name and version of a predict address; ``None`` for every other."""
        try:
            return self._routes[path]
        except KeyError:
            if len(self._routes) >= ROUTES_KEPT:
                self._routes.clear()
            found = self._routes[path] = self._find(path)
            return found

    def _find(self, path: bytes) -> tuple[Dialect, str | None, int | None] | None:
        if path == b"/":
            return STFS, None, None
        if (match := V2_INFER.fullmatch(text := path.decode("ascii"))) is not None:
            dialect = OIP
        else:
            match = PREDICT_PATH.fullmatch(text)
            if match is None or match["label"] is not None:  # what a label stands for may change
                return None
            dialect = dialect_of(self.context.config.dialect, match["verb"])
        name, version = unquote(match["name"]), match["version"]
        if "\n" in name or not (version is None or (version.isdigit() and len(version) <= 18)):
            return None  # the stock path's routes do not match a line feed
        return dialect, name, None if version is None else int(version)

    def takes(self, head: Head) -> tuple[Dialect, str | None, int | None] | None:
        """Where the request of this head leads, if the hot path answers it, as far as its head can tell."""
        if not head.is_post or head.asks_more or not self.admits(head.authorization):
            return None
        route = self.route(head.path)
        if route is None or head.total - head.body_at > self.limit_bytes:
            return None
        if route[0] is OIP and head.inference_header is not None:
            spoken = oip_dialect(head.inference_header)
            return None if spoken is None else (spoken, *route[1:])
        return None if route[0] is STFS and not _is_json(head.content_type) else route

    def client(self, authorization: bytes | None, transport: BaseTransport | None) -> str | None:
        """Who asks, where clients share queues."""
        peer = None if transport is None else transport.get_extra_info("peername")
        return client_of(self.client_share, self._door, authorization, peer[0] if isinstance(peer, tuple) else None)

    def admits(self, authorization: bytes | None) -> bool:
        """Whether these credentials are known to be right, and to allow inference. If not, the stock path looks."""
        return self._door is None or self._door.lets_in(authorization, Scope.INFER)

    def name_of(self, authorization: bytes | None) -> str | None:
        """The user whose credentials these are, if users are asked for them."""
        return None if self._door is None else self._door.name_of(authorization)

    def response(self, status: int, payload: bytes | Payload, served: int | None, more: bytes = b"") -> bytes:
        """A whole HTTP/1.1 response with the headers that the stock path sends.

        ``served`` is the version that answered, ``more`` whole header lines.
        """
        start = b"HTTP/1.1 200 OK\r\n" if status == 200 else _status_line(status)
        if isinstance(payload, bytes):
            body, kind = payload, b"application/json"
        else:
            body, kind = payload.body, payload.content_type.encode()
            more = lines(payload.headers) + more
        if served is not None:
            more = b"X-Served-Model-Version: %d\r\n%b" % (served, more)
        parts = (start, kind, more, self._fixed, len(body), self.tail(), body)
        return b"%bContent-Type: %b\r\n%b%bContent-Length: %d%b%b" % parts

    def opening(self, served: int) -> bytes:
        """What :meth:`response` begins with, up to the length of the body, for JSON of that version of a model."""
        kind = b"Content-Type: application/json\r\n"
        return b"HTTP/1.1 200 OK\r\n%bX-Served-Model-Version: %d\r\n%bContent-Length: " % (kind, served, self._fixed)

    def tail(self) -> bytes:
        """What a response has between the length of its body and the body; it tells the time of day."""
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            date = formatdate(self._second, usegmt=True).encode()
            self._tail = b"\r\nDate: " + date + b"\r\nServer: " + SERVER_SOFTWARE.encode() + b"\r\n\r\n"
        return self._tail

    def express(self) -> Express | None:
        """The express lanes, if they are compiled in and nothing is switched on that asks for more of each request."""
        if self.access_log is not None or self._door is not None or self.timeout_s or not codec.ACCELERATED:
            return None
        try:
            from stfs.web._express import Express
        except ImportError:
            return None
        return Express(self)


@dataclass(frozen=True, slots=True)
class Logged:
    """What the access log tells of a request on the hot path, but for how it ended."""

    path: str
    who: Who
    headers: Mapping[str, str]
    carried: Carried

    def write(self, access_log: AccessLog, status: int, duration_s: float) -> None:
        """The request's line, if it is one of those that are logged."""
        if access_log.takes():
            access_log.write("POST", self.path, status, duration_s, self.who, self.headers, self.carried)


def logged(hot: HotPath, head: Head, peer: object, carried: Carried) -> Logged:
    """``peer`` is the transport's ``peername``. A request without an id is given one, as on the stock path."""
    client = peer[0] if isinstance(peer, tuple | list) and peer else None
    headers = _names(head)
    headers.setdefault(REQUEST_ID, make_request_id())
    return Logged(head.path.decode("latin-1"), Who(client, hot.name_of(head.authorization)), headers, carried)


def echoed(head: Head) -> bytes:
    """What the client calls its request by, as header lines; as :func:`stfs.carry.echoed`."""
    return lines(_names(head))


def request_id_of(echo: bytes) -> str | None:
    """The request's id in the header lines that come back to its client, if it is there."""
    name, _, rest = echo.partition(b": ")
    return rest.partition(b"\r\n")[0].decode("latin-1") if name == REQUEST_ID.encode() else None


def _names(head: Head) -> dict[str, str]:
    told = ((REQUEST_ID, head.request_id), ("traceparent", head.traceparent))
    texts = {name: value.decode("latin-1") for name, value in told if value is not None}
    return {name: text for name, text in texts.items() if is_sane(text)}


def lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they stand in a response."""
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())


def _is_json(content_type: bytes | None) -> bool:
    """Whether the stock path would take it for JSON, as far as can be told at a glance."""
    return content_type is None or content_type.partition(b";")[0].strip().lower() == b"application/json"


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()
