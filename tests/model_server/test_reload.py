"""What a changed file leads to, with a server that only remembers what it was told."""

import asyncio
import logging
from pathlib import Path

import pytest

from stfs.config import ModelConfig
from stfs.errors import ConfigError, LabelRefused
from stfs.model_server.reload import Reloader
from stfs.model_server.settings import read_models

COMMON = ModelConfig(name="", base_path=Path("/"))


class RememberingServer:
    def __init__(self):
        self.models = ()
        self.applied = []
        self.refusal: ConfigError | None = None
        self.failures = {}

    async def apply(self, models):
        if self.refusal is not None:
            raise self.refusal
        self.models = tuple(models)
        self.applied.append([model.name for model in models])
        return self.failures


class Folder:
    def __init__(self, path):
        self.path = path
        self.server = RememberingServer()
        self.write("a")
        self.server.models = read_models(path, COMMON)
        self.reloader = Reloader(lambda: read_models(path, COMMON), self.server, self.server.models)

    def write(self, *names, extra=""):
        entries = "".join(f'config {{ name: "{name}" base_path: "/m/{name}" {extra} }} ' for name in names)
        self.path.write_text(f"model_config_list {{ {entries} }}")

    def look(self):
        asyncio.run(self.reloader.look())
        return self.server.applied


@pytest.fixture
def folder(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    return Folder(tmp_path / "models.config")


def test_only_a_change_is_applied(folder):
    assert folder.look() == []
    folder.write("a", "b")
    assert folder.look() == [["a", "b"]]
    assert folder.look() == [["a", "b"]]
    folder.path.write_text(folder.path.read_text() + "# a comment")
    assert folder.look() == [["a", "b"]]
    folder.write("b")
    assert folder.look() == [["a", "b"], ["b"]]


def test_a_broken_file_changes_nothing_and_is_told_once(folder, caplog):
    folder.path.write_text("model_config_list { config {")
    assert folder.look() == []
    assert folder.look() == []
    told = [record.message for record in caplog.records if "Error parsing text-format" in record.message]
    assert len(told) == 1
    assert "served as before" in told[0]
    folder.path.unlink()
    assert folder.look() == []
    assert "cannot read" in caplog.text
    folder.write("a", "b")
    assert folder.look() == [["a", "b"]]


def test_a_file_that_says_nothing_changes_nothing(folder):
    folder.path.write_text("")
    assert folder.look() == []
    folder.path.write_text("model_config_list { }")
    assert folder.look() == [[]]


def test_what_was_refused_is_tried_again(folder, caplog):
    folder.server.refusal = LabelRefused("not yet")
    folder.write("a", extra='version_labels { key: "x" value: 2 }')
    assert folder.look() == []
    assert folder.look() == []
    assert caplog.text.count("not yet") == 1
    folder.server.refusal = None
    assert folder.look() == [["a"]]


def test_no_model_changes_its_platform(folder, caplog):
    folder.write("a", extra='model_platform: "onnx"')
    assert folder.look() == []
    assert "Illegal to change a model's platform. For model a platform was not given" in caplog.text


def test_a_model_that_does_not_serve_is_told_of(folder, caplog):
    folder.server.failures = {"b": "no such folder"}
    folder.write("a", "b")
    assert folder.look() == [["a", "b"]]
    assert 'model "b" does not serve yet: no such folder' in caplog.text


def test_it_looks_on_after_what_nobody_foresaw(folder, caplog):
    async def main():
        looks: asyncio.Queue[None] = asyncio.Queue()

        async def look():
            looks.put_nowait(None)
            raise OSError("a surprise")

        folder.reloader.look = look
        running = asyncio.create_task(folder.reloader.run(0.0))
        async with asyncio.timeout(10):
            for _ in range(3):
                await looks.get()
        running.cancel()

    asyncio.run(main())
    assert "a surprise" in caplog.text
