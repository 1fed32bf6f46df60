"""A server that a command talks to: its address in any of the forms people have at hand, credentials, TLS, one call.

For one request at a time; many at once are ``load``'s. Must not live here: what bodies hold (``bodies``).
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote, urlsplit

from stfs.commands.arguments import Parser
from stfs.errors import ConfigError, SetupError

DIALECTS = ("stfs", "tfserving", "oip")
CREDENTIALS = """Credentials are read from STFS_AUTH_USERNAME and STFS_AUTH_PASSWORD, or STFS_AUTH_TOKEN."""
TIMEOUT_S = 60.0

_V1 = re.compile(r"(.*)/v1/models/([^/:]+)(?:/versions/([0-9]+))?(?::(predict|classify|regress))?/?")
_V2 = re.compile(r"(.*)/v2/models/([^/:]+)(?:/versions/([0-9]+))?(?:/(?:infer|ready))?/?")


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go and what goes with each. ``prefix`` is the path before ``/v1``, empty or with a slash first."""

    host: str
    port: int
    prefix: str = ""
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = TIMEOUT_S

    @property
    def url(self) -> str:
        """For people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.tls is None else 'https'}://{host}:{self.port}{self.prefix}"


@dataclass(frozen=True, slots=True)
class Target:
    """A model on a server. ``version`` ``None``: the latest. ``dialect`` and ``verb`` are empty where nobody said."""

    server: Server
    model: str = "default"
    version: int | None = None
    dialect: str = ""
    verb: str = ""

    def path(self, dialect: str) -> str:
        """Where a request of that dialect is posted to."""
        name = quote(self.model, safe="")
        version = "" if self.version is None else f"/versions/{self.version}"
        match dialect:
            case "tfserving":
                return f"{self.server.prefix}/v1/models/{name}{version}:{self.verb or 'predict'}"
            case "oip":
                return f"{self.server.prefix}/v2/models/{name}{version}/infer"
            case _:
                return f"{self.server.prefix}/"

    def named(self, body: bytes, dialect: str) -> bytes:
        """``body`` with the model's name put first, where the dialect's address does not tell it.

        What the body itself says comes later, and counts.
        """
        if dialect != "stfs" or (self.model == "default" and self.version is None):
            return body
        opening, brace, rest = body.partition(b"{")
        if not brace or opening.strip():
            return body
        keys = b'"model_name":' + json.dumps(self.model).encode()
        if self.version is not None:
            keys += b',"model_version":%d' % self.version
        return opening + b"{" + keys + (b"" if rest.lstrip()[:1] == b"}" else b",") + rest


def add_arguments(parser: Parser) -> None:
    """The options that say how to reach a server."""
    parser.add("model_name", default="", metavar="NAME", help="the model, where the address does not say")
    parser.add("header", action="append", default=[], metavar="'NAME: VALUE'", help="a header to send; repeatable")
    parser.add("timeout_s", type=float, default=TIMEOUT_S, metavar="S", help=f"for an answer (default: {TIMEOUT_S:g})")
    parser.add("ca_file", metavar="FILE", help="certificates to trust (or STFS_CA_FILE)")
    parser.add("client_cert", metavar="FILE", help="this client's certificate and key, PEM")
    parser.add("insecure", action="store_true", help="accept any certificate of the server")


def is_url(text: str) -> bool:
    """Whether it is an address rather than a path."""
    return text.startswith(("http://", "https://"))


def target(url: str, given: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Target:
    """What ``url`` and the options of :func:`add_arguments` mean. Raises :class:`ConfigError`."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise ConfigError(f"{url!r} is no address of a server: expected http://HOST:PORT, with or without a path")
    if parts.username is not None:
        raise ConfigError("credentials do not belong into an address, where others see them. " + CREDENTIALS)
    headers = dict(_header(line) for line in given.header)
    server = Server(
        parts.hostname,
        port,
        parts.path.rstrip("/"),
        _tls(given, environ) if parts.scheme == "https" else None,
        _authorization(environ) | headers,
        given.timeout_s,
    )
    for pattern, dialect in ((_V1, ""), (_V2, "oip")):
        if found := pattern.fullmatch(parts.path):
            prefix, name, version = found[1], unquote(found[2]), found[3]
            verb = (found[4] or "") if pattern is _V1 else ""
            if given.model_name not in ("", name):
                raise ConfigError(f"the address says model {name}, and --model_name says {given.model_name}")
            number = None if version is None else int(version)
            return Target(replace(server, prefix=prefix), name, number, "tfserving" if verb else dialect, verb)
    return Target(server, given.model_name or "default")


def call(
    server: Server, method: str, path: str, body: bytes = b"", kind: str = "application/json"
) -> tuple[int, bytes]:
    """Status and body of the answer; blocking. Raises :class:`SetupError` if there is none."""
    connection: http.client.HTTPConnection
    if server.tls is None:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=server.timeout_s)
    else:
        connection = http.client.HTTPSConnection(server.host, server.port, timeout=server.timeout_s, context=server.tls)
    headers = {**server.headers, **({"Content-Type": kind} if method == "POST" else {})}
    try:
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise SetupError(f"no answer from {server.url}: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()


def hint(status: int) -> str:
    """What to do about an answer of that status, where that is known."""
    return f" ({CREDENTIALS.rstrip('.')})" if status in (401, 403) else ""


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or not line.isascii() or not line.isprintable():
        raise ConfigError(f"--header: expected NAME: VALUE, not {line!r}")
    return name.strip(), value.strip()


def _authorization(environ: Mapping[str, str]) -> dict[str, str]:
    if token := environ.get("STFS_AUTH_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if "STFS_AUTH_USERNAME" in environ and "STFS_AUTH_PASSWORD" in environ:
        both = f"{environ['STFS_AUTH_USERNAME']}:{environ['STFS_AUTH_PASSWORD']}"
        return {"Authorization": "Basic " + base64.b64encode(both.encode()).decode()}
    return {}


def _tls(given: argparse.Namespace, environ: Mapping[str, str]) -> ssl.SSLContext:
    trusted = given.ca_file or environ.get("STFS_CA_FILE")
    try:
        context = ssl.create_default_context(cafile=trusted)
        if given.client_cert:
            context.load_cert_chain(given.client_cert)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{trusted or given.client_cert}: {error}") from None
    if given.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
