"""The one thread that a model runs on. Knows no batches: it runs jobs, one after another."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger(__name__)

Job = Callable[[], None]

SWITCH_INTERVAL_S = 0.0005
"""So long a thread may keep the interpreter from the others that want it."""


def share_interpreter() -> None:
    """For a process that serves: let the loop and models' threads wait for each other less than the usual 5 ms.

    A batch is put together on the model's thread, while the loop writes the answers to the one before: waiting for the
    loop would leave the model idle. And a model that computes in Python would hold up all that the loop does.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


class ModelThread:
    """A daemon thread, started by the first job. Call it with a job from any thread; jobs run in order.

    A daemon, so that a model that never returns cannot keep the process from ending. It ends when told to, and when
    its owner is garbage.
    """

    __slots__ = ("_jobs", "_name", "_thread")

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, job: Job) -> None:
        """Run ``job`` after those before it. Raises :class:`RuntimeError` if the system has no thread to give."""
        if self._thread is None:
            # Not a method: a running thread would keep its owner from ever becoming garbage.
            thread = threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._jobs.put(job)

    @property
    def started(self) -> bool:
        """Whether there has been a job, so that there is a thread to stop."""
        return self._thread is not None

    def stop(self) -> None:
        """Let the thread end after the jobs it has. Returns at once; any thread."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait for the end of a thread that was stopped."""
        if self._thread is not None:
            self._thread.join()

    def __del__(self) -> None:
        self._jobs.put(None)  # SimpleQueue.put is safe even if the collector runs inside another put


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while True:
        job = jobs.get()
        if job is None:
            return
        try:
            job()
        except BaseException:
            log.critical("a job raised on a model's thread; the thread goes on", exc_info=True)
        del job  # while this waits for the next, it must not keep the last batch's arrays
