"""One worker process from its start to its end: starts it, carries messages and answers, notices that it died.

Must not live here: which models it hosts, whether it is started again.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from stfs.platforms import worker_start
from stfs.platforms.placement import ANYWHERE, Seat
from stfs.platforms.shared_memory import Segment
from stfs.platforms.worker_messages import HELLO, Channel, Message, decode_error
from stfs.platforms.worker_output import Output

LOOK_S = 1.0
"""How often to look whether it has died. The socket's end tells at once, unless a child of the process holds it."""

EXIT_LIMIT_S = 2.0
"""From the end of its socket to its exit."""

KEEP_SEGMENT_BYTES = 32 << 20
"""A larger segment is freed after its run: what one large request needed is not held for ever."""


class WorkerGone(Exception):
    """The process ended before it answered. The text says how, to follow "the worker process"."""


class Abandoned(Exception):
    """The model was closed before its answer came. The process may still be working on it."""


class Process:
    """A running worker process. Made, pumped and reaped by one thread, which must live as long as the process.

    (Linux ends the process with the *thread* that started it: ``PR_SET_PDEATHSIG`` in prctl(2).) The other methods are
    for any thread.
    """

    def __init__(self, python: str, write: Callable[[int, str], None], seat: Seat = ANYWHERE) -> None:
        """Start it in ``seat``. ``python`` is the interpreter, empty for this one. Raises :class:`OSError`.

        ``write(level, line)`` gets what it prints, on the pumping thread.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._popen = subprocess.Popen(
                    _command(python, theirs.fileno(), seat),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    env=_environment(python) | seat.environment(os.environ),
                    process_group=0,  # so that the terminal's signals pass it by, and what it starts ends with it
                )
            except BaseException:
                ours.close()
                raise
        assert self._popen.stdout is not None
        self._printed = self._popen.stdout.fileno()
        os.set_blocking(self._printed, False)
        self.pid = self._popen.pid
        self.output = Output(write, time.monotonic)
        self.hello: Future[Message] = Future()
        self._channel = Channel(ours)
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ, self._read_answers)
        self._selector.register(self._printed, selectors.EVENT_READ, self._read_output)
        self._lock = threading.Lock()  # of the four below: callers on many threads meet the pumping one here
        self._pending: dict[int, tuple[int, Future[Message]]] = {HELLO: (-1, self.hello)}
        self._last_id = HELLO
        self._last_segment = 0
        self._free: list[Segment] = []
        self._ended = ""
        self._killed = ""
        self._at_end = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be asked of it. Known before anybody is told whose answer it took along."""
        return bool(self._ended or self._killed)

    def request(self, model: int, message: Message, fd: int | None = None) -> Future[Message]:
        """Send a message that concerns ``model``; its answer, or the error that it is.

        The future ends with :class:`WorkerGone` if the process does. Raises it if the process has gone already.
        """
        answer: Future[Message] = Future()
        with self._lock:
            if self._ended:
                raise WorkerGone(self._ended)
            self._last_id += 1
            number = self._last_id
            self._pending[number] = (model, answer)
        self.tell({**message, "id": number, "model": model}, fd)
        return answer

    def tell(self, message: Message, fd: int | None = None) -> None:
        """Send a message. If nobody is there to read it, the pumping thread finds out and settles what is pending."""
        with contextlib.suppress(OSError):
            self._channel.send(message, fd)

    def take_segment(self) -> tuple[Segment, bool]:
        """Memory for one run, and whether the process has not seen it yet. Raises :class:`OSError`."""
        with self._lock:
            if self._free:
                return self._free.pop(), False
            self._last_segment += 1
            number = self._last_segment
        return Segment.create(number), True

    def return_segment(self, segment: Segment, *, keep: bool) -> None:
        """The run is over. ``keep`` says that nobody looks at the memory any more, so that it may serve again."""
        if keep and segment.size_bytes <= KEEP_SEGMENT_BYTES:
            with self._lock:
                if not self._ended:
                    self._free.append(segment)
                    return
        self.tell({"op": "forget", "segment": segment.number})
        segment.close()

    def abandon(self, model: int) -> None:
        """Let nobody wait any more for answers that concern ``model``: it is being closed."""
        with self._lock:
            left = [number for number, (whose, _) in self._pending.items() if whose == model]
            answers = [self._pending.pop(number)[1] for number in left]
        for answer in answers:
            answer.set_exception(Abandoned())

    def terminate(self) -> None:
        """SIGTERM, which it heeds only once it was told to end."""
        self._popen.terminate()

    def kill(self, why: str = "") -> None:
        """SIGKILL. ``why`` is what is told of its end, to follow "the worker process"; of the first that says it."""
        self._killed = self._killed or why
        self._popen.kill()

    def pump(self) -> bool:
        """Take in answers and output, once there are some; returns after a second at most, ``False`` if it is gone."""
        for key, _ in self._selector.select(LOOK_S):
            key.data()
        return not self._at_end and self._popen.poll() is None

    def reap(self, why: str = "") -> str:
        """After its end, or to bring it about: how it ended, as in "died of SIGKILL"; settles everything pending.

        ``why`` is what to say instead where the server itself ends it. Returns with no process, no descriptor and no
        shared memory left but what arrays still show.
        """
        try:
            self._popen.wait(0 if why else EXIT_LIMIT_S)
        except subprocess.TimeoutExpired:
            why = why or "closed its connection without ending"
            self._popen.kill()
            self._popen.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it started, and did not end
        if not self._at_end:
            self._read_answers()  # those that were on their way when it died
        self._read_output()
        self.output.end()
        how = why or self._killed or _describe(self._popen.returncode)
        with self._lock:
            self._ended = how
            pending, self._pending = self._pending, {}
            free, self._free = self._free, []
        for _, answer in pending.values():
            answer.set_exception(WorkerGone(how))
        for segment in free:
            segment.close()
        self._selector.close()
        self._channel.socket.close()
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        return how

    def _read_answers(self) -> None:
        while True:
            try:
                data = self._channel.socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._at_end = True
                return
            try:
                for message in self._channel.feed(data):
                    self._settle(message)
            except (ValueError, KeyError, TypeError):  # not ours: something wrote over its memory or its socket
                self.output.feed(b"\nit sent what is no message\n")
                self._at_end = True
                self.kill()
                return

    def _settle(self, message: Message) -> None:
        with self._lock:
            _, answer = self._pending.pop(message["id"], (-1, None))
        if answer is None:  # nobody waits for it any more
            return
        if "error" in message:
            answer.set_exception(decode_error(message["error"]))
        else:
            answer.set_result(message)

    def _read_output(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._printed, 1 << 16):
                self.output.feed(data)
                if not self._at_end and self._popen.poll() is None:
                    return  # answers are waited for; what it prints is not
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._printed)


def resident_bytes(pid: int) -> int | None:
    """The memory that the process with that id has in RAM (proc(5), statm); ``None`` if that is not known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return None


def _command(python: str, control_fd: int, seat: Seat) -> list[str]:
    path = None if python else [str(entry) for entry in sys.path]
    told = {"parent": os.getpid(), "path": path, "cpus": seat.cpus}
    start = str(Path(worker_start.__file__).absolute())
    return [python or sys.executable, start, str(control_fd), json.dumps(told)]


def _environment(python: str) -> dict[str, str]:
    environment = dict(os.environ)
    if python:
        environment.pop("PYTHONHOME", None)  # it is that of this interpreter
    return environment


def _describe(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (sent by somebody, or for lack of memory)" if -status == signal.SIGKILL else ""
    return f"died of {name}{hint}"
