"""The gRPC server of one process: its addresses, TLS, limits, start and end. What it serves are the services' files.

It runs on the event loop that it is made on, beside HTTP: handlers are coroutines there, and the batcher's callers.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is told by our own errors and log
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # worker processes are started by exec, and never use it

import grpc
import grpc.aio

from stfs.access.tls import Material, ServerTls
from stfs.context import Context
from stfs.errors import ConfigError
from stfs.rpc import oip, oip_stream, tfserving, unix_socket
from stfs.rpc.auth import Guard
from stfs.rpc.health import Health

MAX_MESSAGE_BYTES = 2**31 - 1
"""The most that the option of gRPC can say."""


class RpcServer:
    """Serves from ``context``; :meth:`start`, :meth:`tell_ready` and :meth:`stop` are called on the event loop.

    ``port`` is a TCP port that nobody listens on, or ``None``; the Unix socket's path is in the configuration. ``tls``
    is what is shown to clients, ``None`` if they are spoken with in the clear.
    """

    def __init__(self, context: Context, port: int | None, tls: ServerTls | None = None) -> None:
        self._config = context.config
        self._port = port
        self._tls = tls
        self._streams = oip_stream.Streams(context)
        services = {
            **tfserving.services(context),
            oip.INFERENCE_SERVICE: {**oip.unary_methods(context), **self._streams.methods()},
        }
        self.services = tuple(services)
        self._health = Health(services)
        config = context.config
        self._server = grpc.aio.server(
            interceptors=() if context.door is None else (Guard(context.door),),
            options=(
                ("grpc.so_reuseport", 0),  # else a second server on the same port would take half of the connections
                ("grpc.max_receive_message_length", min(config.max_request_bytes, MAX_MESSAGE_BYTES)),
                ("grpc.max_send_message_length", -1),
                *config.grpc_channel_arguments,
            ),
        )
        handlers = [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
        self._server.add_generic_rpc_handlers((*handlers, self._health.handlers()))
        self._socket_file: tuple[int, int] | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """What a client on this machine names the server by."""
        told = []
        if self._port is not None:
            host = "127.0.0.1" if self._config.host in ("0.0.0.0", "", "::") else self._config.host
            told.append(f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}")
        if (path := self._config.grpc_socket_path) is not None:
            told.append(f"unix:{path}")
        return tuple(told)

    async def start(self) -> None:
        """Listen and serve. Raises :class:`ConfigError` for an address that cannot be listened on."""
        if self._port is not None:
            host = self._config.host or "0.0.0.0"
            host = f"[{host}]" if ":" in host else host
            self._listen(f"{host}:{self._port}", "choose another --grpc_port or --host")
        if (path := self._config.grpc_socket_path) is not None:
            unix_socket.make_way(path)
            self._listen(f"unix:{path}", "choose another --grpc_socket_path")
            self._socket_file = _identity(path)
        await self._server.start()

    def tell_ready(self, ready: bool) -> None:
        """What the health service tells from now on."""
        self._health.tell(ready)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those taken ``grace_s`` to end, then cancel them."""
        self._health.end()
        self._streams.end()
        await self._server.stop(grace_s)
        path = self._config.grpc_socket_path
        if path is not None and self._socket_file is not None and _identity(path) == self._socket_file:
            with contextlib.suppress(OSError):
                path.unlink()

    def _listen(self, address: str, advice: str) -> None:
        config = self._config
        try:
            if (tls := config.grpc_tls) is not None:
                credentials = grpc.ssl_server_credentials(
                    [(tls.key, tls.certificate)], tls.client_ca or None, tls.verify_client
                )
                self._server.add_secure_port(address, credentials)
            elif self._tls is not None:
                self._server.add_secure_port(address, _followed(self._tls, config.ssl_client_verify == "required"))
            else:
                self._server.add_insecure_port(address)
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"cannot serve gRPC on {address}: {error}; {advice}") from None


def _followed(tls: ServerTls, required: bool) -> grpc.ServerCredentials:
    """The certificate as it is at each handshake. gRPC either requires one of clients or does not ask for it."""
    told = first = tls.material

    def configuration(material: Material) -> Any:
        pair = (material.key, material.certificate)
        return grpc.ssl_server_certificate_configuration([pair], material.client_ca or None)

    def changed() -> Any:
        """Asked before each handshake, on a thread of gRPC's; ``None`` says that nothing has changed."""
        nonlocal told
        if (now := tls.material) is told:
            return None
        told = now
        return configuration(now)

    return grpc.dynamic_ssl_server_credentials(configuration(first), changed, bool(first.client_ca) and required)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at ``path``, if any."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
