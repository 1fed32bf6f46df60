"""Load against a server of a test's own that stalls, closes, refuses and differs as it is told."""

import asyncio
import itertools
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.commands import load
from stfs.commands.load import answer_in
from stfs.commands.remote import Server

pytestmark = pytest.mark.slow  # sends for a second or two


@contextmanager
def serving(answer):
    """A server on a thread; ``answer(number)`` gives the bytes of each answer in turn, or an awaitable of them."""
    loop = asyncio.new_event_loop()
    numbers = itertools.count()
    heads = []

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                heads.append(head)
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                said = answer(next(numbers))
                said = await said if asyncio.iscoroutine(said) else said
                if said is None:
                    break
                writer.write(said)
                if b"connection: close" in said.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Server("127.0.0.1", server.sockets[0].getsockname()[1]), heads
    finally:

        async def end():
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def ok(body=b"{}", more=b""):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), more, body)


def sent(server, *, rate=None, connections=4, duration_s=0.5, timeout_s=10.0, warmup_s=0.0, compare=False):
    gaps = None if rate is None else itertools.repeat(1 / rate)
    plan = load.Plan(server, "/", [b"{}", b"[1]"], connections, warmup_s, duration_s, gaps, timeout_s, compare)
    return load.send(plan)


def test_every_answer_is_counted_once_in_both_loops():
    with serving(lambda number: ok()) as (server, heads):
        closed = sent(server, warmup_s=0.1)
        seen = len(heads)
        assert closed.failed == closed.different == 0
        assert 0 < closed.sent == closed.succeeded == closed.latencies.count < seen, (
            "the warm-up is sent and not counted"
        )
        opened = sent(server, rate=100)
        assert opened.failed == 0
        assert 50 <= opened.sent == opened.succeeded == len(heads) - seen <= 51, "one each 10 ms for half a second"
    assert heads[0].startswith(b"POST / HTTP/1.1\r\nHost: 127.0.0.1:")


STALL_S = 0.6


def stalls_once():
    """Answers at once, but from the tenth request on nobody is answered until 0.6 s later."""
    until = []

    async def answer(number):
        loop = asyncio.get_running_loop()
        if number == 10:
            until.append(loop.time() + STALL_S)
        if until and (left_s := until[0] - loop.time()) > 0:
            await asyncio.sleep(left_s)
        return ok()

    return answer


def test_a_stall_is_in_the_latency_of_all_that_it_held_up():
    """What a closed loop omits: requests that would have been sent while the server did not answer."""
    with serving(stalls_once()) as (server, _):
        opened = sent(server, rate=100, connections=1, duration_s=1.0)
    with serving(stalls_once()) as (server, _):
        closed = sent(server, connections=1, duration_s=1.0)
    assert opened.failed == closed.failed == 0
    # 100 requests, of which 60 were due in the stall: those in its first half waited for more than the other half.
    assert opened.latencies.quantile(0.75) > STALL_S / 4
    assert opened.latencies.max_s > STALL_S * 0.9
    # From sending, one connection sees the stall once, in an open loop as in a closed one.
    assert opened.service.quantile(0.75) < opened.latencies.quantile(0.75)
    held_up = [count for begin, _, count in closed.latencies.buckets() if begin > STALL_S / 2]
    assert 1 <= sum(held_up) <= 4, "one, and what else the machine did"
    many = [count for begin, _, count in opened.latencies.buckets() if begin > STALL_S / 2]
    assert sum(many) >= 25


def test_a_rate_that_the_server_does_not_carry_shows_in_latency():
    async def slow(number):
        await asyncio.sleep(0.02)
        return ok()

    with serving(slow) as (server, _):
        result = sent(server, rate=100, connections=1)
    assert result.succeeded == result.sent >= 50
    assert result.measured_s > 0.9, "50 answers of 20 ms, one after another"
    assert result.latencies.max_s > 0.4


def test_refusals_and_lost_connections_are_counted_by_kind():
    kinds = [
        ok(),
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy",
        ok(more=b"Connection: close\r\n"),
        None,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ]
    with serving(lambda number: kinds[number % len(kinds)]) as (server, _):
        result = sent(server, rate=120, connections=2)
    assert result.first_error == "busy"
    assert set(result.statuses) == {200, 503}
    assert result.statuses[503] > 0
    assert set(result.failures) == {"connection lost", "an answer does not tell its length"}
    assert result.succeeded + result.failed == result.sent
    assert result.succeeded == result.latencies.count


def test_no_answer_in_time_is_a_failure():
    async def never(number):
        await asyncio.sleep(60)

    with serving(never) as (server, _):
        result = sent(server, connections=2, duration_s=0.3, timeout_s=0.2)
    assert result.succeeded == 0
    assert set(result.failures) <= {"no answer within 0.2 s", "not answered at the end"}
    assert result.failed == result.sent >= 2


def test_answers_that_differ_are_counted():
    with serving(lambda number: ok(b"%d" % (number % 3))) as (server, _):
        assert sent(server, connections=1, compare=True).different > 0
    with serving(lambda number: ok(b"1")) as (server, _):
        assert sent(server, connections=1, compare=True).different == 0


def test_a_server_that_has_gone_fails_every_request():
    with serving(lambda number: ok()) as (server, _):
        pass
    result = sent(server, rate=50, duration_s=0.2, timeout_s=0.2)
    assert result.succeeded == 0
    assert result.failed == result.sent > 0


ANSWERS = st.sampled_from(
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", (200, b"abc", False)),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length:0\r\nConnection: close\r\n\r\n", (404, b"", True)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\na\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
            (200, b"a\r\n0123456789", False),
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n", (200, b"a", False)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", False)),
    ]
)


@given(ANSWERS, st.data())
def test_an_answer_is_whole_with_its_last_byte_and_not_before(case, data):
    raw, told = case
    cut = data.draw(st.integers(0, len(raw) - 1))
    assert answer_in(bytearray(raw[:cut])) is None
    assert answer_in(bytearray(raw)) == told
