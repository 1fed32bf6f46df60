"""The inside of a worker process: loads models, runs them, closes them, as the server's messages say.

The main thread reads messages and does nothing that takes time; loads, runs and closes have a thread each, so that one
model does not wait for another. It lives exactly as long as the server wants it: a signal of the terminal or of a
service manager, which reaches every process of the service, does not end it, since the server still has requests to
answer; the server's death does.

Imports nothing of the server but platforms, signatures and errors: nothing that is compiled.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import io
import logging
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from stfs import __version__
from stfs.errors import LoadFailed, Unavailable
from stfs.platforms.base import Platform, Servable, one_line
from stfs.platforms.loading import Hosting, load_here
from stfs.platforms.memory import run_on
from stfs.platforms.memory_limit import load_within
from stfs.platforms.shared_memory import Segment, output_start
from stfs.platforms.worker_messages import HELLO, Channel, Message, decode_options, encode_error, encode_signature

MAX_THREADS = 256
PR_SET_PDEATHSIG = 1  # prctl(2)

log = logging.getLogger(__name__)


def main(control_fd: int, parent: int) -> None:
    """Serve until the server says ``end`` or is gone. The main thread of a process of its own."""
    _die_with(parent)
    _ignore_signals(signal.SIGINT, signal.SIGTERM)
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a null device in place of it needs no buffering
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    Worker(Channel(control)).serve()


class Worker:
    """The models of this process, and the memory that it shares with the server."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._servables: dict[int, Servable] = {}
        self._segments: dict[int, Segment] = {}
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="model")

    def serve(self) -> None:
        """Read messages until ``end``."""
        about = {"python": platform.python_version(), "numpy": np.__version__, "stfs": __version__}
        self._channel.send({"id": HELLO, "pid": os.getpid(), **about})
        fds: list[int] = []
        while True:
            data, found, _, _ = socket.recv_fds(self._channel.socket, 1 << 16, 64, socket.MSG_CMSG_CLOEXEC)
            if not data:
                os._exit(0)  # the server is gone: nobody waits for anything any more
            fds += found
            for message in self._channel.feed(data):
                if message["op"] == "end":
                    return self._end()
                self._take(message, fds)

    def _take(self, message: Message, fds: list[int]) -> None:
        match message["op"]:
            case "load":
                self._threads.submit(self._answer, message, self._load)
            case "close":
                self._threads.submit(self._answer, message, self._close)
            case "run":
                number = message["segment"]
                if message["new"]:
                    self._segments[number] = Segment(fds.pop(0), number)
                segment = self._segments[number]
                self._threads.submit(self._answer, message, lambda said: self._run(said, segment))
            case "forget":
                # Freed now, or by the run that the server waits for no more. It may never have been used.
                self._segments.pop(message["segment"], None)

    def _answer(self, message: Message, act: Callable[[Message], Message]) -> None:
        """What ``act`` returns, or the error that it raises, as the answer to ``message``."""
        try:
            answer = act(message)
        except BaseException as error:  # a model that calls sys.exit must not leave its request without an answer
            answer = {"error": encode_error(error)}
        with contextlib.suppress(OSError):  # the main thread hears of it too, and ends the process
            self._channel.send({"id": message["id"], **answer})

    def _load(self, message: Message) -> Message:
        processing = message["processing_file"]
        hosting = Hosting(processing_file=Path(processing) if processing else None)
        platform, path = find_platform(message["platform"]), Path(message["path"])
        options = decode_options(message["options"])
        servable = load_within(options, path, lambda: load_here(platform, path, options, hosting))
        self._servables[message["model"]] = servable
        return {
            "signatures": {key: encode_signature(signature) for key, signature in servable.signatures.items()},
            "default": servable.default_signature if servable.signatures else "",
            "platform": servable.platform,
            "runtime": servable.runtime,
            "concurrent": servable.concurrent,
            "on_gpu": servable.on_gpu,
        }

    def _run(self, message: Message, segment: Segment) -> Message:
        servable = self._servables.get(message["model"])
        if servable is None:  # it was closed while this message was on its way
            raise Unavailable("the model has been unloaded")
        segment.see(message["size"])
        inputs = segment.read(message["tensors"])
        outputs = run_on(servable, message["signature"], inputs)
        try:
            places, _ = segment.write(outputs, output_start(message["end"]))
        except OSError as error:
            raise Unavailable(f"no shared memory for the outputs: {one_line(error)}") from error
        return {"tensors": places, "size": segment.size_bytes}

    def _close(self, message: Message) -> Message:
        servable = self._servables.pop(message["model"], None)
        if servable is not None:
            servable.close()
        return {}

    def _end(self) -> None:
        """Close every model and return, so that the process ends as any other; what takes too long, the server ends."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for servable in self._servables.values():
            try:
                servable.close()
            except Exception:
                log.exception("closing a model failed")
        self._threads.shutdown(wait=False, cancel_futures=True)


def find_platform(where: str) -> Platform:
    """The platform whose class is at ``package.module:Class``. Raises :class:`LoadFailed` if it does not import."""
    module, _, name = where.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        told = f"platform {where} does not import in the worker process ({sys.executable}): {one_line(error)}"
        raise LoadFailed(told) from error
    if not isinstance(made, Platform):
        raise LoadFailed(f"{where} is not a Platform")
    return made


class _LineFormatter(logging.Formatter):
    """One line a record, its level in front as systemd and syslog know it (``<3>`` is an error): see sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        level = next(n for n, least in ((3, logging.ERROR), (4, logging.WARNING), (6, 0)) if record.levelno >= least)
        text = super().format(record)
        return "\n".join(f"<{level}>{line}" for line in text.splitlines())


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the server's thread that started it is gone. Where there is no prctl, the
    end of the control socket tells, as long as the main thread gets to read it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before that was arranged
        os._exit(0)


def _ignore_signals(*numbers: signal.Signals) -> None:
    """By a handler of our own: what is merely ignored stays ignored in programs that a framework starts."""
    assert threading.current_thread() is threading.main_thread()
    for number in numbers:
        signal.signal(number, lambda *_: None)
