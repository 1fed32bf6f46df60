"""Keeps a worker process running for the models that it hosts: one model, or all those of a ``worker_group``.

When the process dies, the requests that it was working on fail with :class:`Unavailable`, it is started again after a
delay (see :mod:`stfs.platforms.worker_policy`), and the models are loaded again, one after the other, so that it is
known which one a death during a load is due to. Until then requests are refused at once.

Each worker has one thread, which starts the process, waits for it, reads what it says, and starts it again. Loads,
runs and closes come in on threads of their callers; one lock a worker guards what both sides see, and nothing that can
block for long is done under it.

Must not live here: platforms and how they are told apart, messages, processes themselves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from stfs.errors import LoadFailed, RunTimedOut, Unavailable
from stfs.platforms.base import WorkerStatus, one_line
from stfs.platforms.placement import Seat
from stfs.platforms.worker_messages import NO_ANSWER, Message, decode_signature
from stfs.platforms.worker_policy import LONGEST_DELAY_S, crashes_in_a_row, gives_up, restart_delay_s
from stfs.platforms.worker_process import Abandoned, Process, WorkerGone, resident_bytes
from stfs.platforms.worker_run import TookTooLong, run_once
from stfs.signature import Array, Signature, Tensors

START_LIMIT_S = 120.0
"""From starting the process to its first message: Python, numpy and stfs are imported in it."""

CLOSE_LIMIT_S = 10.0
END_LIMIT_S = 5.0
TERMINATE_LIMIT_S = 1.0
KILL_LIMIT_S = 10.0
"""To a process that is to end: how long it has by itself, after SIGTERM, and after SIGKILL."""

log = logging.getLogger("stfs.worker")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loaded model told of itself."""

    platform: str
    runtime: str
    default: str
    signatures: Mapping[str, Signature]
    concurrent: bool
    on_gpu: bool


@dataclass(slots=True, eq=False)
class Hosted:
    """One model of a worker. Guarded by the worker's lock, but for what never changes.

    ``state`` is ``waiting`` to be loaded, ``loading``, ``up``, ``failed`` or ``closed``. ``first`` ends with the first
    load. ``again_s`` is when a load that failed is tried again, ``None`` for never.
    """

    number: int
    name: str
    path: Path
    order: Message
    first: Future[Loaded] = field(default_factory=Future)
    loaded: Loaded | None = None
    state: str = "waiting"
    error: str = ""
    failures: int = 0
    crashes: int = 0
    again_s: float | None = None


class Worker:
    """One worker process and its models. All methods are for any thread. Ends for good with its last model."""

    def __init__(self, name: str, python: str, seat: Seat) -> None:
        self.name = name
        self._python = python
        self._seat = seat
        self._lock = threading.Lock()
        self._ending = False
        self._end_asked = threading.Event()
        self._hosted: dict[int, Hosted] = {}
        self._last_model = 0
        self._loading: tuple[Hosted, Future[Message]] | None = None
        self._started: Process | None = None  # from its start to its end
        self._process: Process | None = None  # the same, from its first message on
        self._starts = 0
        self._crashes = 0
        self._false_starts = 0
        self._problem = ""
        self._next_start_s = 0.0
        self._thread = threading.Thread(target=self._supervise, name=f"stfs {name}", daemon=True)

    def host(self, name: str, path: Path, order: Message) -> Hosted | None:
        """Take a model on, to be loaded as ``order`` says; its ``first`` tells when it is. ``None`` if it is ending."""
        with self._lock:
            if self._ending:
                return None
            self._last_model += 1
            hosted = Hosted(self._last_model, name, path, order)
            self._hosted[hosted.number] = hosted
            if self._last_model == 1:
                self._thread.start()
            self._load_next()
        return hosted

    def run(self, hosted: Hosted, signature_name: str, inputs: Mapping[str, Array], limit_s: float = 0.0) -> Tensors:
        """One run; see :meth:`Servable.run_within`. What takes too long is ended with its process."""
        with self._lock:
            process = self._process
            if process is None or process.is_over or hosted.state != "up":
                raise self._refusal(hosted)
        try:
            return run_once(process, hosted.number, signature_name, inputs, limit_s)
        except WorkerGone as gone:
            raise self._lost(hosted, gone) from None
        except Abandoned:
            raise Unavailable(f'model "{hosted.name}" was unloaded while this request ran') from None
        except TookTooLong:
            late = f"a run took longer than run_timeout_s ({limit_s:g} s)"
            ended = f'was ended, since {late} of model "{hosted.name}"'
            with self._lock:
                self._problem = f"its worker process {ended}"
                process.kill(ended)
            told = f'model "{hosted.name}": {late}; its worker process was ended, and another is being started'
            raise RunTimedOut(told) from None
        except OSError as error:
            raise Unavailable(f'model "{hosted.name}": no shared memory for a run: {one_line(error)}') from error

    def close(self, hosted: Hosted) -> None:
        """Close a model; with the last one, end the process. Bounded in time. Raises what closing it raised."""
        with self._lock:
            if self._hosted.pop(hosted.number, None) is None:
                return
            hosted.state = "closed"
            self._ending = not self._hosted
            ending, process, started = self._ending, self._process, self._started
        if ending:
            self._end_asked.set()
            if started is not None:
                started.tell({"op": "end"})
            self._thread.join(END_LIMIT_S + TERMINATE_LIMIT_S + KILL_LIMIT_S)
        elif process is not None:
            try:
                process.request(hosted.number, {"op": "close"}).result(CLOSE_LIMIT_S)
            except WorkerGone:
                pass  # and the model with it
            except TimeoutError:
                log.warning('%s: closing model "%s" takes more than %g s', self.name, hosted.name, CLOSE_LIMIT_S)
            finally:
                process.abandon(hosted.number)

    def is_up(self, hosted: Hosted) -> bool:
        """Whether that model could run now."""
        with self._lock:
            process = self._process
            return process is not None and not process.is_over and hosted.state == "up"

    def status(self, hosted: Hosted) -> WorkerStatus:
        """The process and that model, now."""
        with self._lock:
            pid = self._started.pid if self._started is not None else None
            if hosted.state in ("up", "failed", "closed"):
                state = hosted.state
            elif gives_up(self._false_starts):
                state = "failed"
            else:
                state = "restarting" if self._starts > 1 or self._crashes else "starting"
            restarts, error = max(0, self._starts - 1), hosted.error or self._problem
        return WorkerStatus(pid, state, restarts, error, resident_bytes(pid) if pid is not None else None)

    def _refusal(self, hosted: Hosted) -> Unavailable:
        """Why the model cannot run now. The lock is held."""
        if hosted.state == "closed":
            return Unavailable(f'model "{hosted.name}" has been unloaded')
        if hosted.state == "failed":
            if hosted.again_s is None:
                return Unavailable(f'model "{hosted.name}": {hosted.error}', LONGEST_DELAY_S)
            wait_s = max(0.0, hosted.again_s - time.monotonic())
            return Unavailable(f'model "{hosted.name}": {hosted.error}; it is tried again in {wait_s:.0f} s', wait_s)
        wait_s = max(1.0, self._next_start_s - time.monotonic())
        return Unavailable(f'model "{hosted.name}": {self._problem}; it is being restarted', wait_s)

    def _lost(self, hosted: Hosted, gone: WorkerGone) -> Unavailable:
        """What a request is told whose process has gone."""
        if hosted.state == "closed":
            return Unavailable(f'model "{hosted.name}" was unloaded while this request ran')
        told = f'model "{hosted.name}": its worker process {gone} while this request ran, and is being restarted'
        return Unavailable(told)

    # What follows runs on the worker's own thread, but for _load_next.

    def _supervise(self) -> None:
        try:
            while not self._ending:
                began_s = time.monotonic()
                self._starts += 1
                try:
                    process = Process(self._python, self._write, self._seat)
                except OSError as error:
                    self._after_end(f"does not start: {one_line(error)}", "", 0.0, ready=False)
                else:
                    how = self._serve(process)
                    lived_s = time.monotonic() - began_s
                    self._after_end(how, process.output.last_words(), lived_s, ready=process.hello.exception() is None)
                self._end_asked.wait(max(0.0, self._next_start_s - time.monotonic()))
        except BaseException as error:  # nobody may be left waiting, whatever is wrong here
            log.critical("%s: its thread failed", self.name, exc_info=True)
            with self._lock:
                self._ending = True
                self._process = None
                self._problem = f"its thread failed: {one_line(error)}"
                left = list(self._hosted.values())
            _fail_first(left, self._problem)

    def _serve(self, process: Process) -> str:
        """From the start of a process to its end; how it ended."""
        with self._lock:
            self._started = process
        began_s = time.monotonic()
        asked_s: float | None = None
        while process.pump():
            now_s = time.monotonic()
            if process.hello.done():
                self._advance(process)
            elif now_s - began_s >= START_LIMIT_S:
                return process.reap(f"did not get ready within {START_LIMIT_S:g} s")
            if self._ending:
                if asked_s is None:
                    asked_s = now_s
                    process.tell({"op": "end"})
                elif now_s - asked_s >= END_LIMIT_S + TERMINATE_LIMIT_S:
                    process.kill()
                elif now_s - asked_s >= END_LIMIT_S:
                    process.terminate()
        return process.reap()

    def _advance(self, process: Process) -> None:
        """The process is ready, or has said something: take in how a load went, and begin the next."""
        with self._lock:
            self._process = process
            done = self._settle_load()
            self._load_next()
        done()

    def _load_next(self) -> None:
        """Order the next load, unless one is under way: one at a time, so that it is known which one kills.

        The lock is held; what is sent is far smaller than the socket's buffer.
        """
        if self._process is None or self._loading is not None or self._ending:
            return
        now_s = time.monotonic()
        for hosted in self._hosted.values():
            again = hosted.state == "failed" and hosted.again_s is not None and hosted.again_s <= now_s
            if hosted.state == "waiting" or again:
                try:
                    self._loading = hosted, self._process.request(hosted.number, hosted.order)
                    hosted.state = "loading"
                except WorkerGone:
                    pass  # it is loaded by the next process
                return

    def _settle_load(self) -> Callable[[], None]:
        """Take in the answer to a load, if there is one; what is left to do without the lock, which is held."""
        if self._loading is None or not self._loading[1].done():
            return _nothing
        hosted, answer = self._loading
        error = answer.exception()
        if isinstance(error, WorkerGone | Abandoned):
            return _nothing
        self._loading = None
        if hosted.state == "closed":  # while it loaded
            assert self._process is not None
            self._process.tell({"op": "close", "id": NO_ANSWER, "model": hosted.number})
            return _nothing
        if error is None:
            try:
                return self._loaded(hosted, _decode(answer.result()))
            except (TypeError, KeyError, ValueError) as odd:
                told = f"{hosted.path}: stfs has changed since the server started, so start it anew ({one_line(odd)})"
                error = LoadFailed(told)
        if hosted.loaded is None:
            return self._drop(hosted, error)
        hosted.failures += 1
        wait_s = restart_delay_s(hosted.failures)
        hosted.state, hosted.again_s = "failed", time.monotonic() + wait_s
        hosted.error = f"does not load again: {one_line(error)}"
        log.error('%s: model "%s" %s; trying again in %.1f s', self.name, hosted.name, hosted.error, wait_s)
        return _nothing

    def _loaded(self, hosted: Hosted, loaded: Loaded) -> Callable[[], None]:
        if hosted.loaded is None:
            hosted.loaded, hosted.state = loaded, "up"
            return partial(hosted.first.set_result, loaded)
        if loaded.signatures != hosted.loaded.signatures:
            hosted.state, hosted.again_s = "failed", None
            hosted.error = "its signatures have changed since it was loaded first: load it anew as another version"
            log.error('%s: model "%s": %s', self.name, hosted.name, hosted.error)
            assert self._process is not None
            self._process.tell({"op": "close", "id": NO_ANSWER, "model": hosted.number})
            return _nothing
        hosted.state, hosted.error, hosted.failures, hosted.crashes, hosted.again_s = "up", "", 0, 0, None
        log.info('%s: model "%s" is loaded again', self.name, hosted.name)
        return _nothing

    def _drop(self, hosted: Hosted, error: BaseException) -> Callable[[], None]:
        """A first load that failed: the worker does not keep the model. The lock is held."""
        del self._hosted[hosted.number]
        hosted.state = "closed"
        self._ending = not self._hosted
        return partial(hosted.first.set_exception, error)

    def _after_end(self, how: str, last_words: str, lived_s: float, *, ready: bool) -> None:
        """The process has ended, or could not be started: settle what that means for each model, and when to go on."""
        words = f' (its last words: "{last_words}")' if last_words else ""
        with self._lock:
            todo = [self._settle_load()]  # it may have answered and then died
            self._process = self._started = None
            expected = self._ending
            if not expected:
                todo += self._settle_death(how, words, lived_s, ready)
            delay_s, ending = self._next_start_s - time.monotonic(), self._ending
        for act in todo:
            act()
        if not expected:
            then = "" if ending else f"; starting it again in {delay_s:.1f} s"
            log.error("%s: the process %s%s%s", self.name, how, words, then)

    def _settle_death(self, how: str, words: str, lived_s: float, ready: bool) -> list[Callable[[], None]]:
        """A death that nobody asked for. What is left to do without the lock, which is held."""
        todo = []
        self._problem = f"its worker process {how}"
        self._crashes = crashes_in_a_row(self._crashes, lived_s)
        self._false_starts = 0 if ready else self._false_starts + 1
        delay_s = restart_delay_s(self._crashes)
        guilty, self._loading = self._loading[0] if self._loading else None, None
        for hosted in list(self._hosted.values()):
            if hosted.state in ("up", "loading"):
                hosted.state = "waiting"
            if hosted.loaded is None and (hosted is guilty or not ready):
                while_loading = " while loading it" if ready else ""
                told = f"{hosted.path}: the worker process {how}{while_loading}{words}"
                todo.append(self._drop(hosted, LoadFailed(told)))
        if guilty is not None and guilty.loaded is not None and guilty.state != "closed":
            delay_s = max(delay_s, self._blame(guilty, how))
        self._next_start_s = time.monotonic() + delay_s
        return todo

    def _blame(self, hosted: Hosted, how: str) -> float:
        """The process died of loading that model again: how long to wait for its sake. The lock is held."""
        hosted.crashes += 1
        if not gives_up(hosted.crashes):
            return 0.0
        hosted.error = f"the worker process {how} while loading it, {hosted.crashes} times in a row"
        hosted.state = "failed"
        # Alone it may try for ever; with others beside it, each try would fail their requests.
        alone = len(self._hosted) == 1
        hosted.again_s = time.monotonic() + LONGEST_DELAY_S if alone else None
        return LONGEST_DELAY_S if alone else 0.0

    def _write(self, level: int, line: str) -> None:
        log.log(level, "%s: %s", self.name, line)


def _decode(answer: Message) -> Loaded:
    signatures = {key: decode_signature(signature) for key, signature in answer["signatures"].items()}
    told = bool(answer["concurrent"]), bool(answer["on_gpu"])
    return Loaded(answer["platform"], answer["runtime"], answer["default"], signatures, *told)


def _fail_first(models: Iterable[Hosted], problem: str) -> None:
    for hosted in models:
        if not hosted.first.done():
            hosted.first.set_exception(LoadFailed(f"{hosted.path}: {problem}"))


def _nothing() -> None:
    """Nothing is left to do."""
