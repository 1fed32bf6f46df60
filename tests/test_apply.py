"""Changing the models of a running server: real files, real requests in between."""

import asyncio
import contextlib
import json
import shutil
from dataclasses import replace

import aiohttp
import pytest
from running import running
from simple_models import write_linear
from waiting import until, wait_until

from stfs import config
from stfs.errors import ConfigError
from stfs.lifecycle.policy import All, Specific, State
from stfs.server import Server


async def ask(client, url, path, value=1.0):
    async with client.post(f"{url}{path}:predict", json={"instances": [[value] * 3]}) as answer:
        return answer.status, await answer.json()


def first(answer):
    status, body = answer
    assert status == 200, body
    row = body["predictions"][0]
    return row[0] if isinstance(row, list) else row


def test_models_come_change_and_go_while_requests_run(tmp_path):
    write_linear(tmp_path / "one" / "1")
    write_linear(tmp_path / "one" / "2", scale=3.0)
    write_linear(tmp_path / "two" / "1", scale=5.0)
    base = tmp_path / "one"

    async def main() -> None:
        argv = [f"--model_base_path={base}", "--model_name=m", "--port=0", "--host=127.0.0.1"]
        server = Server(config.from_environment(argv, prog="test", positional=False, defaults={}))
        await server.start()
        try:
            one = server.models[0]
            asked: list[int] = []
            done = False

            async def keep_asking(client):
                while not done:
                    status, _ = await ask(client, server.url, "/v1/models/m")
                    asked.append(status)

            async with aiohttp.ClientSession() as client:
                asking = [asyncio.create_task(keep_asking(client)) for _ in range(4)]
                assert first(await ask(client, server.url, "/v1/models/m")) == 3.0
                labelled = replace(one, version_policy=All(), version_labels={"stable": 1, "canary": 2})
                two = replace(one, name="n", base_path=tmp_path / "two")
                assert await server.apply([labelled, two]) == {}
                assert first(await ask(client, server.url, "/v1/models/m/labels/stable")) == 2.0
                assert first(await ask(client, server.url, "/v1/models/m/labels/canary")) == 3.0
                assert first(await ask(client, server.url, "/v1/models/m/versions/1")) == 2.0
                assert first(await ask(client, server.url, "/v1/models/n")) == 5.0
                status, body = await ask(client, server.url, "/v1/models/m/labels/none")
                assert status == 400
                assert "Unrecognized servable version label: none" in body["error"]
                with pytest.raises(ConfigError, match="two models have one name"):
                    await server.apply([one, one])
                with pytest.raises(ConfigError, match="unknown platform"):
                    await server.apply([replace(one, platform="nothing")])
                assert first(await ask(client, server.url, "/v1/models/n")) == 5.0
                assert await server.apply([replace(one, version_policy=Specific(frozenset({1})))]) == {}
                await server.manager.settled()
                assert first(await ask(client, server.url, "/v1/models/m")) == 2.0
                status, body = await ask(client, server.url, "/v1/models/n")
                assert status == 404
                failures = await server.apply([one, replace(one, name="gone", base_path=tmp_path / "nowhere")])
                assert list(failures) == ["gone"]
                assert "does not exist" in failures["gone"]
                done = True
                await asyncio.gather(*asking)
            assert set(asked) == {200}, "the model that stayed answered all along"
            assert len(asked) > 10
        finally:
            await server.stop_listening()
            await server.free()

    asyncio.run(main())


SLOW = """
import pathlib, time

class Model:
    signature = {"inputs": [{"name": "x", "shape": [None, 3]}], "outputs": [{"name": "y", "shape": [None, 3]}]}

    def __init__(self, folder):
        while not (pathlib.Path(folder).parent / "go").exists():
            time.sleep(0.01)

    def predict(self, inputs):
        return {"y": inputs["x"]}
"""


@contextlib.asynccontextmanager
async def serving_one(tmp_path):
    """A server of the model ``m``, the configuration of a model ``slow``, and ``go``, which lets that one load."""
    write_linear(tmp_path / "one" / "1")
    (tmp_path / "slow" / "1").mkdir(parents=True)
    (tmp_path / "slow" / "1" / "model.py").write_text(SLOW)
    argv = [f"--model_base_path={tmp_path / 'one'}", "--model_name=m", "--port=0", "--host=127.0.0.1"]
    argv += ["--model_poll_interval_s=0.05"]
    server = Server(config.from_environment(argv, prog="test", positional=False, defaults={}))
    await server.start()
    slow = replace(server.models[0], name="slow", base_path=tmp_path / "slow", isolation="thread")
    try:
        yield server, slow, (tmp_path / "slow" / "go").touch
    finally:
        (tmp_path / "slow" / "go").touch()
        await server.stop_listening()
        await server.free()


def loading(server, name):
    found = [status for status in server.manager.status() if status.name == name]
    return bool(found) and any(version.state is State.LOADING for version in found[0].versions)


def test_a_change_goes_on_when_whoever_asked_for_it_has_gone(tmp_path):
    async def main() -> None:
        async with serving_one(tmp_path) as (server, slow, go):
            asking = asyncio.create_task(server.apply([*server.models, slow]))
            await until(lambda: loading(server, "slow"))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            go()
            await until(lambda: server.registry.serving().get("slow") == (1,))
            # It is watched as any other model is.
            shutil.copytree(tmp_path / "slow" / "1", tmp_path / "slow" / "2")
            await until(lambda: server.registry.serving().get("slow") == (2,))

    asyncio.run(main())


def test_a_change_does_not_disturb_the_one_that_is_under_way(tmp_path):
    async def main() -> None:
        async with serving_one(tmp_path) as (server, slow, go):
            one = server.models
            first = asyncio.create_task(server.apply([*one, slow]))
            second = asyncio.create_task(server.apply(one))
            await until(lambda: loading(server, "slow"))
            assert [model.name for model in server.models] == ["m", "slow"]
            go()
            assert await first == {}
            assert await second == {}
            assert server.models == one
            await server.manager.settled()
            assert server.registry.serving() == {"m": (1,)}

    asyncio.run(main())


def test_labels_of_a_config_file(tmp_path):
    write_linear(tmp_path / "m" / "1")
    write_linear(tmp_path / "m" / "2", scale=7.0)
    entry = {"name": "m", "base_path": str(tmp_path / "m"), "version_policy": "all", "version_labels": {"old": 1}}
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"model_config_list": [entry]}))
    with running(f"--model_config_file={file}") as server:
        # It serves as soon as one of the versions does.
        wait_until(lambda: server.get("/v1/models/m").body.count(b'"AVAILABLE"') == 2)
        answer = server.post("/v1/models/m/labels/old:predict", {"instances": [[1.0] * 3]})
        assert answer.status == 200, answer.body
        assert server.get("/v1/models/m/labels/old").json["model_version_status"][0]["version"] == "1"
        assert server.get("/v1/models/m/labels/new").status == 400


@pytest.mark.parametrize("labels", ["[]", '{"a": "1"}', '{"a": -1}', '{"a": true}', '{"": 1}', "{"])
def test_bad_labels_are_refused(labels):
    with pytest.raises(ConfigError, match="version_labels"):
        config.load([f"--version_labels={labels}"], {}, prog="t", positional=False)
