"""The compiled twin lets other threads have the interpreter lock while it works on large texts, of strings too."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from stfs import codec

pytestmark = pytest.mark.skipif(not codec.ACCELERATED, reason="the readable twin is Python, which lets it go by itself")

TEXT = b'["' + b'","'.join([b"a" * 100] * 100_000) + b'"]'
STRINGS = np.array([b"b" * 100] * 100_000, object)
NUMBERS = b"[" + b",".join([b"1.5"] * 2_000_000) + b"]"


def read_strings() -> None:
    assert codec.Reader(TEXT).tensor(np.dtype(object)).shape == (100_000,)


def append_strings() -> None:
    column = codec.Column(np.dtype(object))
    codec.Reader(TEXT).append(column)
    assert column.array().shape == (1, 100_000)


def append_numbers() -> None:
    column = codec.Column(np.dtype(np.float32))
    codec.Reader(NUMBERS).append(column)
    assert column.array().sum() == 3_000_000


def skip() -> None:
    codec.Reader(TEXT).skip()


def write_strings() -> None:
    assert len(codec.encode(STRINGS)) == 100_000 * 103 + 1


@pytest.mark.slow
@pytest.mark.parametrize("work", [read_strings, append_strings, append_numbers, skip, write_strings])
def test_another_thread_gets_its_turns(work: Callable[[], None]) -> None:
    begun, done = threading.Event(), threading.Event()

    def at_work() -> None:
        begun.set()
        work()
        done.set()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(20):
            thread = threading.Thread(target=at_work)
            begun.clear()
            done.clear()
            thread.start()
            begun.wait()
            turns = 0
            while not done.is_set():
                turns += 1
                time.sleep(0)  # the lock goes, and must be had again
            thread.join()
            if turns > 10:
                return
    finally:
        sys.setswitchinterval(before)
    raise AssertionError(f"{turns} turns")
