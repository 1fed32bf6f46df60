"""Files that change are read anew; those that are broken change nothing."""

import asyncio
import logging

import pytest
from waiting import until

from stfs.access.follow import Followed
from stfs.errors import ConfigError


class Text:
    def __init__(self, *paths):
        self.paths = paths
        self.used = []
        self.followed = Followed(paths, self.read, self.used.append)

    def read(self):
        text = "+".join(path.read_text() if path.exists() else "gone" for path in self.paths)
        if "broken" in text:
            raise ConfigError("it is broken")
        return text

    async def until(self, wanted):
        for _ in range(6000):
            if self.used[-1] == wanted:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(self.used)


def test_what_has_changed_is_read_anew(tmp_path, caplog):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    second.write_text("2")
    text = Text(first, second)
    assert text.used == ["1+2"]

    async def play():
        task = asyncio.create_task(text.followed.follow(0.005))
        first.write_text("one")
        await text.until("one+2")
        new = tmp_path / "new"
        new.write_text("two")
        new.replace(second)
        await text.until("one+two")
        first.write_text("broken")
        await until(lambda: "it is broken" in caplog.text)
        assert text.used[-1] == "one+two"
        second.unlink()
        first.write_text("again")
        await text.until("again+gone")
        task.cancel()

    with caplog.at_level(logging.INFO, "stfs.access"):
        asyncio.run(play())
    assert caplog.text.count("what was read before stays in use: it is broken") == 1
    assert "broken" not in text.used


def test_a_change_between_reading_and_following_is_not_missed(tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    text = Text(file)
    file.write_text("other")

    async def play():
        task = asyncio.create_task(text.followed.follow(0.005))
        await text.until("other")
        task.cancel()

    asyncio.run(play())


def test_the_first_reading_raises(tmp_path):
    (tmp_path / "a").write_text("broken")
    with pytest.raises(ConfigError):
        Text(tmp_path / "a")
