"""Connections that come back to the hot path after the stock path had a message of theirs, and those that must not."""

from __future__ import annotations

import asyncio
import functools
import json

import pytest
import waiting
from simple_models import write_linear
from web.rawhttp import get, request, understand
from web.test_express import PREDICT, Served, served
from web.test_hot_connections import Transport

pytest.importorskip("stfs.web._express", reason="the hot path is not compiled")

BODY = '{"instances": [[1, 2, 3]]}'
PLAIN = request(PREDICT, '{"instances": [[4, 5, 6]]}')


def chunked(end: str = "0\r\n\r\n") -> bytes:
    return request(PREDICT, f"{len(BODY):x}\r\n{BODY}\r\n{end}", "Transfer-Encoding: chunked", length=None)


BACK = {
    "a query": (request(PREDICT + "?a=b", BODY), [200]),
    "another method": (request("/", "{}", method="PUT"), [405]),
    "a page that is not there": (request("/nope", "{}"), [404]),
    "a page": (get("/v1/models"), [200]),
    "a page with a query": (get("/v1/models?x"), [200]),
    "an expectation": (request(PREDICT, BODY, "Expect: 100-continue"), [100, 200]),
    "an unknown expectation": (request(PREDICT, BODY, "Expect: more"), [417]),
    "chunks": (chunked(), [200]),
    "a time limit": (request(PREDICT, BODY, "X-Request-Timeout-Ms: 60000"), [200]),
    "HTTP/1.0, kept": (request(PREDICT, BODY, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
    "bytes above ASCII": (request(PREDICT, BODY, "Name: \xe4"), [200]),
    "an empty line before": (b"\r\n" + request(PREDICT, BODY), [200]),
    "a coding that is not known": (request(PREDICT, BODY, "Content-Encoding: br"), [415]),
}

KEPT = {
    "an upgrade": (request(PREDICT, BODY, "Connection: upgrade", "Upgrade: h2c"), [200]),
    "trailers": (chunked("0\r\nName: x\r\n\r\n"), [200]),
    "a chunk's extension": (chunked().replace(b"1a\r\n", b"1a;x=y\r\n"), [200]),
}

CLOSED = {
    "a close": (request(PREDICT, BODY, "Connection: close"), [200]),
    "HTTP/1.0": (request(PREDICT, BODY).replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
    "a broken head": (request(PREDICT, BODY, "Bad Name: x"), [400]),
    "two lengths": (request(PREDICT, BODY, "Content-Length: 26"), [400]),
    "a length and chunks": (request(PREDICT, BODY, "Transfer-Encoding: chunked"), [400]),
    "two hosts": (request(PREDICT + "?x", BODY, "Host: y"), [400]),
}


# A turn of the loop at a time: they are hundreds of waits, and most are over in a few turns.
until = functools.partial(waiting.until, poll_s=0)


def statuses(transport: Transport) -> list[int]:
    return understand(bytes(transport.written), False).statuses


async def parked(transport: Transport) -> None:
    """Until aiohttp's own loop waits for a message again."""
    await until(lambda: transport.handler._stock_is_idle())


async def goes(here: Served, transport: Transport, count: int) -> bool:
    """Send a plain request, and wait until there are so many answers; whether it took the express lane."""
    taken, stock = here.taken, transport.handler._request_count
    transport.handler.data_received(PLAIN)
    await until(lambda: len(statuses(transport)) >= count)
    assert statuses(transport)[-1] == 200
    assert (here.taken - taken, transport.handler._request_count - stock) in ((1, 0), (0, 1))
    return here.taken > taken


@pytest.fixture
def linear(tmp_path):
    write_linear(tmp_path / "linear" / "1")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("message", "told"), BACK.values(), ids=BACK)
def test_back_behind_a_message_cut_anywhere(linear, message, told):
    async def main() -> None:
        async with served(linear) as here:
            for cut in range(1, len(message) + 1, 3):
                transport = here.connect()
                transport.handler.data_received(message[:cut])
                await asyncio.sleep(0)
                if message[cut:]:
                    transport.handler.data_received(message[cut:])
                await until(lambda line=transport: statuses(line)[-1:] == told[-1:])
                assert statuses(transport) == told
                await parked(transport)
                assert transport.handler._stock is False
                assert await goes(here, transport, len(told) + 1), cut
                transport.handler.connection_lost(None)

    asyncio.run(main())


@pytest.mark.parametrize(("message", "told"), KEPT.values(), ids=KEPT)
def test_what_has_an_end_that_cannot_be_told_stays(linear, message, told):
    async def main() -> None:
        async with served(linear) as here:
            transport = here.connect()
            assert await goes(here, transport, 1)
            transport.handler.data_received(message)
            await until(lambda: statuses(transport) == [200, *told])
            await parked(transport)
            for count in range(3, 6):
                assert not await goes(here, transport, count)
                await parked(transport)

    asyncio.run(main())


@pytest.mark.parametrize(("message", "told"), CLOSED.values(), ids=CLOSED)
def test_nothing_is_answered_behind_the_last_answer(linear, message, told):
    """What comes before the connection is closed is not taken, however it is cut."""

    async def main() -> None:
        async with served(linear) as here:
            for cut in (len(message), len(message) // 2, 20):
                transport = here.connect()
                transport.handler.data_received(message[:cut])
                transport.handler.data_received(message[cut:] + PLAIN)
                for _ in range(50):
                    transport.handler.data_received(PLAIN)
                    await asyncio.sleep(0)
                await until(lambda line=transport: line.closing)
                assert statuses(transport) == told
            assert here.taken == 0

    asyncio.run(main())


def test_dribbled_requests_of_both_sorts_take_turns(linear):
    """Byte by byte; each plain one is back on the hot path."""

    async def main() -> None:
        async with served(linear) as here:
            transport = here.connect()
            count = 0
            for message, told in BACK.values():
                for byte in message:
                    transport.handler.data_received(bytes([byte]))
                count += len(told)
                await until(lambda: len(statuses(transport)) >= count)  # noqa: B023
                await parked(transport)
                for byte in PLAIN:
                    transport.handler.data_received(bytes([byte]))
                count += 1
                await until(lambda: len(statuses(transport)) >= count)  # noqa: B023
            assert here.taken == len(BACK)
            assert statuses(transport) == [status for _, told in BACK.values() for status in (*told, 200)]

    asyncio.run(main())


def test_a_pipeline_of_both_sorts_is_answered_in_order_and_left_at_a_boundary(linear):
    messages = [message for message, _ in BACK.values()]
    told = [status for _, statuses in BACK.values() for status in (*statuses, 200)]
    stream = b"".join(message + PLAIN for message in messages)

    async def main() -> None:
        async with served(linear) as here:
            for size in (len(stream), 1000, 97, 31):
                transport = here.connect()
                for at in range(0, len(stream), size):
                    transport.handler.data_received(stream[at : at + size])
                await until(lambda line=transport: len(statuses(line)) >= len(told))
                assert statuses(transport) == told, size
                await parked(transport)
                assert await goes(here, transport, len(told) + 1)

    asyncio.run(main())


def test_a_request_is_not_taken_while_the_stock_path_reads_or_answers(linear):
    """Its answer would overtake the one before."""

    async def main() -> None:
        async with served(linear) as here:
            held = here.hold("linear")
            transport = here.connect()
            slow = request(PREDICT + "?x", BODY)
            transport.handler.data_received(slow[:-1])
            await until(lambda: transport.handler._current_request is not None)
            transport.handler.data_received(slow[-1:])
            assert transport.handler._stock is False
            transport.handler.data_received(PLAIN)
            await until(lambda: len(held) == 1)
            assert here.taken == 0
            assert not transport.written
            held.pop()()
            await until(lambda: len(held) == 1)
            held.pop()()
            await until(lambda: statuses(transport) == [200, 200])
            assert [json.loads(body)["predictions"][0][0] for body in await transport.bodies(2)] == [2.0, 8.0]

    asyncio.run(main())


def test_an_early_refusal_is_back_once_the_body_is_here(linear):
    """aiohttp reads, and drops, what is left of a body whose request it has answered."""

    async def main() -> None:
        async with served(linear) as here:
            transport = here.connect()
            message = request("/nope", "x" * 1000)
            transport.handler.data_received(message[:-900])
            await until(lambda: statuses(transport) == [404])
            assert transport.handler._stock is not False
            transport.handler.data_received(message[-900:-1])
            assert transport.handler._stock is not False
            transport.handler.data_received(message[-1:] + PLAIN[:10])
            await parked(transport)
            transport.handler.data_received(PLAIN[10:])
            await until(lambda: statuses(transport) == [404, 200])
            assert here.taken == 1

    asyncio.run(main())
