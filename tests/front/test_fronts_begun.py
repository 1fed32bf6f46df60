"""Front processes that make ready while the models load: when they accept, and when nothing comes of it."""

import asyncio
import http.client
import json
import os
import socket
from pathlib import Path

import pytest
from front_load import children_of
from front_pair import Pair
from running import run_cli
from waiting import wait_until

from stfs.config import ModelConfig, ServerConfig
from stfs.front.fronts import Fronts
from stfs.front.table import WatchedRegistry
from stfs.metrics import Metrics

pytestmark = pytest.mark.slow  # starts processes


def port_held():
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held, held.getsockname()[1]


def fronts_for(registry):
    config = ServerConfig(models=(), workers=2, engine="shared", host="127.0.0.1")
    return Fronts(config, registry, Metrics(), lambda: [ModelConfig("model", base_path=Path("model"))], lambda _: None)


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_they_are_there_before_a_model_is_and_accept_when_it_is_served():
    async def work():
        async with Pair() as pair:
            registry = WatchedRegistry()
            held, port = port_held()
            fronts = fronts_for(registry)
            try:
                fronts.begin(held)
                await asyncio.to_thread(wait_until, lambda: len(children_of(os.getpid())) == 2)
                assert refuses(port)
                assert [status.up for status in fronts.status()] == [False, False]
                registry.publish("model", 1, pair.model)
                await fronts.sync()  # there is nobody to be told yet
                assert refuses(port)
                await fronts.open(held)
                assert [status.up for status in fronts.status()] == [True, True]
                for n in range(8):
                    assert await asyncio.to_thread(ask, port, n) == (200, {"predictions": [[2.0 * n, 2.0]]})
            finally:
                await fronts.stop(30)
            assert children_of(os.getpid()) == []
            assert refuses(port)

    asyncio.run(work())


def ask(port, n):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"instances": [[float(n), 1.0]]})
    connection.request("POST", "/v1/models/model:predict", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    try:
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_what_is_not_wanted_after_all_leaves_nothing(caplog):
    async def work():
        held, port = port_held()
        with held:
            fronts = fronts_for(WatchedRegistry())
            fronts.begin(held)
            assert len(children_of(os.getpid())) == 2
            await fronts.stop(30)
            assert children_of(os.getpid()) == []
            assert refuses(port)

    asyncio.run(work())
    assert not caplog.records


def test_somebody_who_listens_meanwhile_is_told_of():
    async def work():
        held, port = port_held()
        fronts = fronts_for(WatchedRegistry())
        try:
            fronts.begin(held)
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", port))
                other.listen()
                with pytest.raises(OSError, match="Address already in use"):
                    await fronts.open(held)
        finally:
            await fronts.stop(30)
        assert children_of(os.getpid()) == []

    asyncio.run(work())


def test_a_model_that_does_not_load_ends_the_start_with_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    argv = ("--workers=2", "--log_level=warning", "--port=0", "--host=127.0.0.1")
    done = run_cli("serve", str(tmp_path / "model.onnx"), *argv)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert 'model "default"' in line
