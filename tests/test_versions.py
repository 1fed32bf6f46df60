"""Versions come and go under load: nothing lost, nothing answered by a version that was not published."""

import http.client
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from odd_estimators import write_odd
from running import running
from simple_models import write_linear
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts real servers, many of them


def serving(server):
    return server.get("/v1/models").json[0]["model_version_list"]


def publish(base: Path, version: int, write) -> None:
    """Put a version in place as a careful user does: written beside, then renamed."""
    scratch = base / f".new-{version}"
    write(scratch)
    scratch.rename(base / str(version))


def answer_of(server, value=1.0):
    return server.post("/", {"data": [[value, 0, 0]]}).json["y"][0][0]


def test_the_latest_version_is_served_and_a_removed_one_gives_way_to_the_one_before(tmp_path):
    write_linear(tmp_path / "1", scale=10)
    write_linear(tmp_path / "2", scale=20)
    with running(str(tmp_path), "--model_poll_interval_s=0.05") as server:
        assert (serving(server), answer_of(server)) == ([2], 20)
        publish(tmp_path, 3, lambda folder: write_linear(folder, scale=30))
        wait_until(lambda: serving(server) == [3])
        assert answer_of(server) == 30
        shutil.rmtree(tmp_path / "3")
        wait_until(lambda: serving(server) == [2])
        assert answer_of(server) == 20


def test_all_versions_are_served_if_asked_for(tmp_path):
    for version in (1, 2):
        write_linear(tmp_path / str(version), scale=10 * version)
    with running(str(tmp_path), "--model_version_policy=all") as server:
        for version in (1, "1", 2):
            body = {"model_version": version, "data": [[1, 0, 0]]}
            assert server.post("/", body).json["y"][0][0] == 10 * int(version)
        answer = server.post("/v1/models/default/versions/1:predict", {"instances": [[1, 0, 0]]})
        assert answer.json == {"predictions": [[10.0, 0.0, 0.0]]}
        assert answer_of(server) == 20


def test_a_broken_version_leaves_the_old_one_serving_and_shows_its_error(tmp_path):
    write_linear(tmp_path / "1", scale=10)
    with running(str(tmp_path), "--model_poll_interval_s=0.05", "--max_load_retries=0") as server:

        def write_broken(folder):
            folder.mkdir()
            (folder / "model.onnx").write_bytes(b"this is no model")

        publish(tmp_path, 2, write_broken)

        def status_of(version):
            listed = server.get("/v1/models/default").json["model_version_status"]
            return next((v for v in listed if v["version"] == str(version)), None)

        wait_until(lambda: status_of(2) is not None and status_of(2)["state"] == "END")
        assert "model.onnx" in status_of(2)["status"]["error_message"]
        assert status_of(1)["state"] == "AVAILABLE"
        assert answer_of(server) == 10
        assert "model.onnx" in server.get("/").body.decode()
        # Mended in place, it is tried again.
        write_linear(tmp_path / "2", scale=20)
        wait_until(lambda: serving(server) == [2])
        assert answer_of(server) == 20


def test_a_version_is_not_loaded_while_it_is_still_being_copied(tmp_path):
    write_odd(tmp_path / "1", version=100)
    whole = write_odd(tmp_path / "elsewhere", version=200).read_bytes()
    with running(str(tmp_path), "--model_poll_interval_s=0.1", "--max_load_retries=0") as server:
        (tmp_path / "2").mkdir()
        with (tmp_path / "2" / "model.joblib").open("wb", buffering=0) as copy:
            for start in range(0, len(whole), max(1, len(whole) // 20)):
                copy.write(whole[start : start + max(1, len(whole) // 20)])
                time.sleep(0.05)  # the copying itself, slower than the polls are far apart
                assert "version 2" not in [line for line in server.log().splitlines() if "ERROR" in line]
        wait_until(lambda: serving(server) == [2])
        assert server.post("/", {"data": [[1.0]]}).json == {"predict": [202.0]}
        assert "END" not in server.log().split("version 2")[0]


@pytest.mark.slow
def test_fifty_swaps_under_load_lose_nothing_and_answer_from_published_versions_only(tmp_path):
    """16 clients on kept connections; each answer says which version made it: never one before its publication, never
    one that was withdrawn before the request was sent."""
    swaps = 50
    write_odd(tmp_path / "1", version=1000)
    placed = {1: 0.0}  # version -> when its files were put in place
    replaced: dict[int, float] = {}  # version -> when the next one was seen serving
    done = threading.Event()
    wrong: list[str] = []
    counts = [0] * 16

    def client(number: int, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        value = float(number)
        body = json.dumps({"data": [[value]] * (number % 3 + 1)})
        while not done.is_set():
            sent = time.monotonic()
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                wrong.append(f"{response.status}: {answer!r}")
                continue
            rows = json.loads(answer)["predict"]
            versions = {(row - 2 * value) / 1000 for row in rows}
            (version,) = versions if len(versions) == 1 else (None,)
            if len(rows) != number % 3 + 1 or version not in placed:
                wrong.append(f"rows {rows} for {value}")
            elif replaced.get(version, float("inf")) < sent:
                wrong.append(f"version {version} answered after it was replaced")
            counts[number] += 1
        connection.close()

    flags = ["--model_poll_interval_s=0.02", "--log_level=warning"]
    with running(str(tmp_path), *flags) as server:
        threads = [threading.Thread(target=client, args=(number, server.port)) for number in range(16)]
        for thread in threads:
            thread.start()
        try:
            for version in range(2, swaps + 2):
                placed[version] = time.monotonic()
                publish(tmp_path, version, lambda folder, v=version: write_odd(folder, version=1000 * v))
                wait_until(lambda v=version: serving(server) == [v] or wrong)
                replaced[version - 1] = time.monotonic()
                shutil.rmtree(tmp_path / str(version - 1))
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert serving(server) == [swaps + 1]
        assert min(counts) > 0
        assert server.metric("stfs_requests_total", outcome="ok") == sum(counts)
        assert server.stop() == 0
