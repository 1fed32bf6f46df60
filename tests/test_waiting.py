"""``tests/waiting.py``: waits end when what they wait for is there, and fail when it does not come."""

import asyncio
import subprocess
import sys

import pytest
from waiting import is_alive, until, wait_until


def test_what_the_condition_gives_is_returned_once_it_is_true():
    looks = iter([0, "", None, [3]])
    assert wait_until(lambda: next(looks)) == [3]
    assert list(looks) == []


@pytest.mark.parametrize("wait", [wait_until, lambda *args, **more: asyncio.run(until(*args, **more))])
def test_what_never_comes_is_told_with_the_log_as_it_is_then(wait):
    looks = []
    with pytest.raises(AssertionError) as told:
        wait(lambda: looks.append("looked"), "the answer", limit_s=0.0, log=lambda: f"{looks}")
    assert str(told.value) == "the answer never came about in 0 s:\n['looked']"
    with pytest.raises(AssertionError, match=r"^it never came about in 0 s$"):
        wait(lambda: False, limit_s=0.0)


def test_what_the_condition_raises_ends_the_wait():
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0)


@pytest.mark.parametrize("more", [{}, {"poll_s": 0}])
def test_the_loop_goes_on_meanwhile(more):
    async def main():
        done = []
        asyncio.get_running_loop().call_soon(done.append, "by the loop")
        return await until(lambda: done, **more)

    assert asyncio.run(main()) == ["by the loop"]


def test_a_process_is_alive_until_its_end_is_known():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_alive(process.pid)
        process.communicate(b"\n")
    assert not is_alive(process.pid)
