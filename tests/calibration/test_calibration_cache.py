"""The folder of what was measured: whole files, a bounded number, nothing believed that is not what it should be."""

import os
import threading

import pytest

from stfs.calibration import cache as cache_module
from stfs.calibration.cache import Cache, folder_of


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "not" / "there")


def test_what_was_put_is_found_again(cache):
    assert cache.get("model", "a") is None
    cache.put("model", "a", {"x": 1})
    cache.put("files", "a", {"x": 2})
    assert (cache.get("model", "a"), cache.get("files", "a"), cache.get("model", "b")) == ({"x": 1}, {"x": 2}, None)
    cache.put("model", "a", {"x": 3})
    assert cache.get("model", "a") == {"x": 3}
    assert len(list(cache.folder.iterdir())) == 2, "nothing is left of the writing"


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b"{}" + b" " * (1 << 20)])
def test_what_cannot_be_read_is_not_there(cache, text):
    cache.put("model", "a", {})
    (cache.folder / "model-a.json").write_bytes(text)
    assert cache.get("model", "a") is None
    cache.put("model", "a", {"fine": True})
    assert cache.get("model", "a") == {"fine": True}


def test_a_folder_in_its_place_is_not_there(cache):
    (cache.folder / "model-a.json").mkdir(parents=True)
    assert cache.get("model", "a") is None


def test_those_that_were_not_used_for_longest_make_room(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "MOST_FILES", 3)
    for age, key in enumerate("dcba"):
        cache.put("model", key, {"key": key})
        os.utime(cache.folder / f"model-{key}.json", (1e9 + age, 1e9 + age))
    assert not (cache.folder / "model-d.json").exists()
    assert cache.get("model", "c") == {"key": "c"}  # used: now it is the newest
    cache.put("model", "e", {"key": "e"})
    assert sorted(path.name for path in cache.folder.iterdir()) == ["model-a.json", "model-c.json", "model-e.json"]


def test_nobody_ever_reads_half_of_it(cache):
    cache.put("model", "a", {"text": "x" * 10_000})
    stop = threading.Event()
    seen = []

    def read():
        while not stop.is_set():
            seen.append(len((cache.get("model", "a") or {"text": ""})["text"]))

    reader = threading.Thread(target=read)
    reader.start()
    for size in range(10_000, 10_200):
        cache.put("model", "a", {"text": "x" * size})
    stop.set()
    reader.join()
    assert min(seen, default=10_000) >= 10_000


def test_what_json_has_no_number_for_is_not_written(cache):
    with pytest.raises(ValueError, match="JSON"):
        cache.put("model", "a", {"x": float("nan")})
    assert list(cache.folder.iterdir()) == []
    with pytest.raises(TypeError):
        cache.put("model", "a", {"x": object()})


def test_a_folder_that_takes_no_files_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Cache(tmp_path / "file" / "below").put("model", "a", {})


def test_where_auto_leads(monkeypatch, tmp_path):
    for name in ("STFS_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of("auto") == tmp_path / ".cache" / "stfs" / "calibration"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folder_of("auto") == tmp_path / ".cache" / "stfs" / "calibration"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder_of("auto") == tmp_path / "xdg" / "stfs" / "calibration"
    monkeypatch.setenv("STFS_HOME", str(tmp_path / "home"))
    assert folder_of("auto") == tmp_path / "home" / "cache" / "calibration"
    assert folder_of(str(tmp_path)) == tmp_path
    assert folder_of("off") is None
