"""Puts the rooms together: the only file that sees every one of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from stfs.access.door import make_door
from stfs.access.tls import ServerTls, make_tls
from stfs.batcher.slots import RunSlots
from stfs.config import ModelConfig, ServerConfig
from stfs.context import Context
from stfs.errors import ConfigError, SetupError
from stfs.front.fronts import Fronts
from stfs.front.inside import Inside
from stfs.front.policy import cores_left_by_engine
from stfs.front.table import WatchedRegistry
from stfs.lifecycle.labels import check_all_labels
from stfs.lifecycle.manager import Manager
from stfs.lifecycle.policy import Latest, State
from stfs.lifecycle.record import ModelSpec
from stfs.lifecycle.source import FolderSource
from stfs.lifecycle.to_its_end import to_its_end
from stfs.loader import ModelLoader, is_model
from stfs.metrics import Metrics
from stfs.model import Model
from stfs.platforms.base import CORES_LEFT, all_cores, usable_cores
from stfs.repository import Repository
from stfs.repository_file import with_file
from stfs.tracing import EXPORT_TIMEOUT_S, Tracing
from stfs.warmup.replay import recorded_requests, replay
from stfs.web.access_log import open_log
from stfs.web.app import make_runner
from stfs.web.pages import example_curl

if TYPE_CHECKING:
    from stfs.rpc.server import RpcServer

log = logging.getLogger("stfs")

BACKLOG = 1024
"""Connections that may wait to be accepted."""


class Server:
    """One server on one event loop. ``start``, ``stop_listening`` and ``free`` are called once each, in that order."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        if config.workers > 1:
            os.environ[CORES_LEFT] = str(cores_left_by_engine(all_cores(), config.workers))
        self._door = make_door(config)
        self.metrics = Metrics()
        self.registry = WatchedRegistry()
        slots = RunSlots(config.run_slots, usable_cores())
        self._loader = ModelLoader(self.metrics, replay, recorded_requests, slots)
        self.models = tuple(with_file(model) for model in config.models)
        self._loader.configure(self.models)
        self.manager: Manager[Model] = Manager(
            self._loader,
            self.registry,
            poll_interval_s=config.model_poll_interval_s,
            drain_timeout_s=config.drain_timeout_s,
            max_load_retries=config.max_load_retries,
            retry_interval_s=config.load_retry_interval_s,
            on_change=self._on_change,
        )
        self._tracing = Tracing(config.tracing, config.tracing_sample) if config.tracing else None
        self.context = Context(
            config,
            self.registry,
            self.manager,
            self.metrics,
            lambda: self._ready,
            lambda: self.models,
            self.apply,
            Repository(
                lambda: self.models,
                self.apply,
                self.manager,
                configured=config.models,
                explicit=config.model_control == "explicit",
            ),
            self._door,
            self._tracing,
            lambda: () if self._fronts is None else self._fronts.status(),
        )
        self._ready = False
        self._applying = asyncio.Lock()
        self._changed = asyncio.Event()  # a version has entered another state
        self._runner: web.AppRunner | None = None
        self._fronts: Fronts | None = None
        self._inside: Inside | None = None
        self._socket: socket.socket | None = None
        self._rpc: RpcServer | None = None
        self._following: list[asyncio.Task[None]] = []

    def _on_change(self, name: str, version: int, state: State, _: str) -> None:
        self._changed.set()
        if state is State.END:
            self.metrics.retire(name, str(version))

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the server."""
        assert self._socket is not None, "the server has not been started"
        port = self._socket.getsockname()[1]
        host = "127.0.0.1" if self.config.host in ("0.0.0.0", "", "::") else self.config.host
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.config.enable_ssl else 'http'}://{host}:{port}"

    @property
    def rpc_addresses(self) -> tuple[str, ...]:
        """Where clients on this machine find it over gRPC."""
        return () if self._rpc is None else self._rpc.addresses

    @property
    def example(self) -> str | None:
        """A curl line for the first model that is served, if HTTP is."""
        if self._socket is None:
            return None
        lines = (example_curl(self.context, model.name, self.url) for model in self.models)
        return next((line for line in lines if line is not None), None)

    async def start(self) -> None:
        """Bind, load, serve. Raises :class:`SetupError`, with nothing left open, if any model cannot be served."""
        tls = make_tls(self.config)
        self._check_labels(self.models, ())
        if self.config.http:
            self._socket = _bind(self.config.host, self.config.port)
        rpc_socket: socket.socket | None = None
        try:
            if self.config.grpc_port is not None:
                # It holds the port while the models load; gRPC makes a socket of its own.
                rpc_socket = _bind(self.config.host, self.config.grpc_port, "grpc_port")
            if self.config.grpc_port is not None or self.config.grpc_socket_path is not None:
                self._rpc = _rpc_server(self.context, rpc_socket, tls)
            if self._socket is not None and self.config.workers > 1:
                await self._begin_fronts(self._socket)  # they make ready while the models load
            with _told_once():
                failures = await self.manager.start(_spec(model) for model in self.models)
                if failures and not self.config.wait_for_models:
                    raise _not_served(failures)
            if failures:
                await self._wait_for_models()
            await self.manager.loaded()  # further versions: who is told that the server serves may ask for any
            if self._socket is not None and self._fronts is not None:
                try:
                    self._socket = await self._fronts.open(self._socket)
                except OSError as error:
                    raise _cannot_listen(self.config.host, self.config.port, error, "port") from None
            elif self._socket is not None:
                self._runner = make_runner(self.context)
                await self._runner.setup()
                _listen(self._socket, self.config)
                await web.SockSite(
                    self._runner, self._socket, ssl_context=None if tls is None else tls.context, backlog=BACKLOG
                ).start()
            if rpc_socket is not None:
                rpc_socket.close()
            if self._rpc is not None:
                await self._rpc.start()
        except Exception:
            await self.stop_listening()
            await self.free()
            raise
        finally:
            if rpc_socket is not None:
                rpc_socket.close()
        self._follow_files(tls)
        self._tell_ready(True)

    def _follow_files(self, tls: ServerTls | None) -> None:
        """Certificates and users change without a restart."""
        followed = [part.followed for part in (tls, self._door) if part is not None and part.followed is not None]
        self._following = [asyncio.create_task(one.follow()) for one in followed]

    async def _begin_fronts(self, held: socket.socket) -> None:
        """Start front processes that are to listen where ``held`` is bound. Raises :class:`SetupError`."""
        if (access_log := open_log(self.config)) is not None:  # so that a file that cannot be written is told here
            access_log.close()
        fronts = self._fronts = Fronts(
            self.config,
            self.registry,
            self.metrics,
            lambda: self.models,
            lambda sock: inside.adopt(sock),
            self._tracing,
        )
        inside = self._inside = Inside(self.context, fronts.sync, lambda: fronts.is_stale)
        await inside.start()
        try:
            fronts.begin(held)
        except OSError as error:
            raise SetupError(f"front processes cannot be started: {error}; choose fewer --workers") from None

    async def _wait_for_models(self) -> None:
        """Return when every model serves. Raises :class:`SetupError` when one has failed for good.

        A model that is not there yet is no failure, unless nobody looks whether it has come.
        """
        told: set[str] = set()
        while lacking := self.manager.lacking():
            self._changed.clear()
            watched = self.config.model_poll_interval_s > 0
            versions = {status.name for status in self.manager.status() if status.versions}
            failed = {
                name: reason
                for name, (reason, may_come) in lacking.items()
                if not may_come or not (watched or name in versions)
            }
            if failed:
                raise _not_served(failed)
            for name in lacking.keys() - told:
                log.warning('waiting for model "%s": %s', name, lacking[name][0])
            told.update(lacking)
            await self._changed.wait()

    async def apply(self, models: Sequence[ModelConfig]) -> Mapping[str, str]:
        """Serve these models from now on, and no others; see :meth:`stfs.lifecycle.manager.Manager.apply`.

        Returns the reason by the name of each model that does not serve. Raises :class:`ConfigError`, having changed
        nothing, for what cannot be meant: an unknown platform, one name twice; and :class:`LabelRefused` for a label
        of a version that is not available, where that is not allowed.
        """
        failures = await to_its_end(self._apply(tuple(models)))
        if self._fronts is not None:
            await self._fronts.sync()
        return failures

    async def _apply(self, models: tuple[ModelConfig, ...]) -> Mapping[str, str]:
        # What the loader and the pages go by must not be ahead of what the manager is at work on.
        async with self._applying:
            specs = [_spec(model) for model in models]
            if len({spec.name for spec in specs}) < len(specs):
                raise ConfigError("two models have one name: give each its own")
            self._check_labels(models, self.models)
            self._loader.configure(models)
            self.models = models
            return await self.manager.apply(specs)

    def _check_labels(self, models: Sequence[ModelConfig], before: Sequence[ModelConfig]) -> None:
        if self.config.label_rule == "any":
            return
        check_all_labels(
            {model.name: model.version_labels for model in models},
            {model.name: model.version_labels for model in before},
            self.registry.serving(),
            allow_unavailable=self.config.label_rule == "new",
        )

    async def stop_listening(self) -> None:
        """Answer 'not ready', then close the port and finish the requests that were taken, within the time for it."""
        was_ready = self._ready
        self._tell_ready(False)
        if was_ready and self.config.shutdown_delay_s:
            await asyncio.sleep(self.config.shutdown_delay_s)
        await asyncio.gather(self._stop_http(), self._stop_rpc())
        if self._socket is not None:
            self._socket.close()

    async def _stop_http(self) -> None:
        if self._fronts is not None:
            # They keep to the time by themselves; the second is for their own end, and the last spans take theirs.
            spans_s = EXPORT_TIMEOUT_S if self._tracing is not None else 0.0
            await self._fronts.stop(self.config.shutdown_timeout_s + 1.5 + spans_s)
        if self._inside is not None:
            await self._inside.stop()
        if self._runner is not None:
            # aiohttp waits this long for requests, and once more after cancelling them: the first wait is the promise.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.shutdown_timeout_s + 0.5):
                    await self._runner.cleanup()

    async def _stop_rpc(self) -> None:
        if self._rpc is not None:
            await self._rpc.stop(self.config.shutdown_timeout_s)

    def _tell_ready(self, ready: bool) -> None:
        self._ready = ready
        if self._rpc is not None:
            self._rpc.tell_ready(ready)

    async def free(self) -> None:
        """Close the models. Waits for runs and loads under way, however long they take: the caller bounds it."""
        for task in self._following:
            task.cancel()
        if self._door is not None:
            self._door.close()
        await self.manager.stop()
        if self._tracing is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._tracing.close)


def _not_served(failures: Mapping[str, str]) -> SetupError:
    return SetupError("; ".join(f'model "{name}": {problem}' for name, problem in failures.items()))


def _spec(model: ModelConfig) -> ModelSpec:
    """All of the configuration but the versions to serve and their names is what a version is loaded with."""
    return ModelSpec(
        model.name,
        FolderSource(model.base_path, partial(is_model, model.platform)),
        model.version_policy,
        model.version_labels,
        revision=replace(model, version_policy=Latest(), version_labels={}),
    )


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """What goes wrong while models load for the first time is told by the error that ends the start, or else logged."""
    manager = logging.getLogger(Manager.__module__)
    kept: list[logging.LogRecord] = []

    def keep_warnings(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kept.append(record)
        return False

    manager.addFilter(keep_warnings)
    try:
        yield
    finally:
        manager.removeFilter(keep_warnings)
    for record in kept:
        manager.handle(record)


def _rpc_server(context: Context, reserved: socket.socket | None, tls: ServerTls | None) -> RpcServer:
    """The gRPC server, on the port that ``reserved`` holds if there is one."""
    try:
        from stfs.rpc.server import RpcServer
    except ImportError as error:
        raise ConfigError(f'--grpc_port: gRPC is not installed ({error}): run pip install "stfs[grpc]"') from None
    return RpcServer(context, None if reserved is None else reserved.getsockname()[1], tls)


def _bind(host: str, port: int, option: str = "port") -> socket.socket:
    """A bound socket, not listening yet. Raises :class:`ConfigError` naming the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error, option) from None
    sock.setblocking(False)
    return sock


def _listen(sock: socket.socket, config: ServerConfig) -> None:
    """Listen, or raise :class:`ConfigError`: while the models loaded, another may have begun to on the same port."""
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(config.host, config.port, error, "port") from None


def _cannot_listen(host: str, port: int, error: Exception, option: str) -> ConfigError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another --{option} or --host")
