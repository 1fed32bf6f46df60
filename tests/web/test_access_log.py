"""The access log of real servers on both paths: a line for each request, true in every field, and nothing when off."""

import io
import json
import re
import socket
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from access_users import with_password, with_token, write_users
from jsonschema import Draft202012Validator
from odd_estimators import write_odd
from running import basic_auth, run_cli, running
from simple_models import write_linear
from waiting import wait_until

from stfs.context import Lease
from stfs.web import access_log
from stfs.web.access_log import AccessLog, Carried, Who

pytestmark = pytest.mark.slow  # starts servers

PATHS = pytest.mark.parametrize("hot_path", ["auto", "off"])
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def lines_of(path, count):
    """The log's lines, when there are ``count`` of them."""

    def text():
        return path.read_text() if path.exists() else ""

    def enough():
        found = [json.loads(line) for line in text().splitlines() if line.startswith("{")]
        return len(found) >= count and found

    found = wait_until(enough, f"{count} lines", log=text)
    assert len(found) == count, found
    return found


SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "access-log.schema.json").read_text()))


def check_lines(found):
    """They are what the documentation says that lines are."""
    for line in found:
        SCHEMA.validate(line)


@pytest.fixture
def model(tmp_path):
    write_linear(tmp_path / "models" / "4")
    return str(tmp_path / "models")


@PATHS
def test_every_request_has_a_line_that_tells_what_it_was(model, tmp_path, hot_path):
    log = tmp_path / "access.log"
    argv = (model, "--model_name=linear", "--access_log=json", f"--access_log_file={log}", f"--hot_path={hot_path}")
    with running(*argv) as server:
        named = {"X-Request-Id": "abc-1", "traceparent": TRACE}
        before = time.time()
        assert server.post("/", {"data": {"x": [[1, 2, 3], [4, 5, 6]]}}, named).status == 200
        assert server.post("/v1/models/linear/versions/4:predict", {"instances": [[1, 2, 3]]}).status == 200
        entry = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        assert server.post("/v2/models/linear/infer", {"inputs": [entry]}).status == 200
        assert server.post("/", {"data": {"x": [["no", 2, 3]]}}).status == 400
        assert server.post("/v1/models/none:predict", {"instances": [[1, 2, 3]]}).status == 404
        assert server.get("/health?secret=1").status == 200
        assert server.get("/nowhere").status == 404
        found = lines_of(log, 7)
    check_lines(found)
    given = [line["request_id"] for line in found[1:]]
    assert len(set(given)) == 6
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in given)
    assert found[0]["request_id"] == "abc-1"
    varies = ("time", "client", "duration_ms", "request_id")
    shown = [{key: value for key, value in line.items() if key not in varies} for line in found]
    served = {"model": "linear", "version": 4}
    assert shown[0] == {
        "method": "POST", "path": "/", "status": 200, "dialect": "stfs", **served, "rows": 2,
        "traceparent": TRACE,
    }  # fmt: skip
    path = "/v1/models/linear/versions/4:predict"
    assert shown[1] == {"method": "POST", "path": path, "status": 200, "dialect": "tfserving", **served, "rows": 1}
    path = "/v2/models/linear/infer"
    assert shown[2] == {"method": "POST", "path": path, "status": 200, "dialect": "oip", **served, "rows": 1}
    assert shown[3] == {"method": "POST", "path": "/", "status": 400, "dialect": "stfs", **served}
    path = "/v1/models/none:predict"
    assert shown[4] == {"method": "POST", "path": path, "status": 404, "dialect": "tfserving"}
    assert shown[5] == {"method": "GET", "path": "/health", "status": 200}
    assert shown[6] == {"method": "GET", "path": "/nowhere", "status": 404}
    for line in found:
        assert line["client"] == "127.0.0.1"
        assert line["duration_ms"] >= 0
        assert line["time"].endswith("Z")
        assert before - 1 <= datetime.fromisoformat(line["time"]).timestamp() <= time.time() + 1


@PATHS
def test_who_asked_is_told_by_name_and_never_by_what_proves_it(model, tmp_path, hot_path):
    log = tmp_path / "access.log"
    users = write_users(tmp_path / "users.txt", with_password("ana", "g3heim"), with_token("bot", "stfs_token"))
    argv = (f"--auth_users_file={users}", "--access_log=json", f"--access_log_file={log}", f"--hot_path={hot_path}")
    body = json.dumps({"data": {"x": [[1, 2, 3]]}})
    kind = {"Content-Type": "application/json"}
    right, token = basic_auth("ana", "g3heim"), {"Authorization": "Bearer stfs_token"}
    sent = [({}, 401), (right, 200), (right, 200), (token, 200), (token, 200), (basic_auth("ana", "gu3ssed"), 401)]
    with running(model, *argv) as server:
        for headers, status in sent:
            assert server.call("POST", "/", body, kind | headers).status == status
        assert server.call("POST", "/v2/repository/index", headers=token).status == 403
        found = lines_of(log, 7)
        told = server.log()
    check_lines(found)
    assert [line.get("user") for line in found] == [None, "ana", "ana", "bot", "bot", None, "bot"]
    assert [line["status"] for line in found] == [status for _, status in sent] + [403]
    for secret in ("g3heim", "gu3ssed", "stfs_token", right["Authorization"].split()[1]):
        assert secret not in log.read_text() + told


def test_the_schema_is_of_what_is_written_and_refuses_other_things(model):
    good = {"time": "2026-01-02T03:04:05.678Z", "client": None, "method": "GET", "path": "/", "status": 200,
            "duration_ms": 0.1, "request_id": "1"}  # fmt: skip
    SCHEMA.validate(good)
    wrong = {"status": 99, "time": "today", "duration_ms": -1, "rows": -1, "request_id": "a b", "password": "x"}
    for key, value in wrong.items():
        assert not SCHEMA.is_valid(good | {key: value}), key
    for key in good:
        assert not SCHEMA.is_valid({name: value for name, value in good.items() if name != key}), key
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for key in SCHEMA.schema["properties"]:
        assert f"`{key}`" in page


@PATHS
def test_one_request_in_so_many(model, tmp_path, hot_path):
    log = tmp_path / "access.log"
    argv = (model, "--access_log=json", f"--access_log_file={log}", "--access_log_sample=3", f"--hot_path={hot_path}")
    with running(*argv) as server:
        for number in range(9):
            body = {"data": {"x": [[1, 2, 3]]}}
            assert server.post("/", body, {"X-Request-Id": str(number)}).status == 200
        found = lines_of(log, 3)
    assert [line["request_id"] for line in found] == ["2", "5", "8"]


def test_lines_go_to_standard_error_and_all_are_there_after_the_end(model):
    with running(model, "--access_log=json") as server:
        threads = [threading.Thread(target=server.get, args=("/ready",)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.stop()
        found = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    assert len(found) == 20
    assert {line["path"] for line in found} == {"/ready"}


@PATHS
def test_without_the_option_nothing_is_logged(model, hot_path):
    with running(model, f"--hot_path={hot_path}") as server:
        assert server.post("/", {"data": {"x": [[1, 2, 3]]}}).status == 200
        assert server.get("/health").status == 200
        server.stop()
        assert '"path"' not in server.log()


@PATHS
def test_what_a_client_sends_stays_in_its_line(model, tmp_path, hot_path):
    log = tmp_path / "access.log"
    argv = (model, "--access_log=json", f"--access_log_file={log}", f"--hot_path={hot_path}")
    with running(*argv) as server:
        body = b'{"data": {"x": [[1, 2, 3]]}}'
        for name in (b'"},{"a":"', b"\\n\\u0000", b"x" * 600):
            with socket.create_connection(("127.0.0.1", server.port)) as raw:
                head = b"POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\nContent-Type: application/json\r\n" % name
                raw.sendall(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                assert raw.makefile("rb").read().startswith(b"HTTP/1.1 200")
        found = lines_of(log, 3)
    assert [line["request_id"] for line in found[:2]] == ['"},{"a":"', "\\n\\u0000"]
    assert re.fullmatch("[0-9a-f]{32}", found[2]["request_id"])


@PATHS
def test_a_client_that_goes_away_is_told_as_499(tmp_path, hot_path):
    log = tmp_path / "access.log"
    write_odd(tmp_path / "odd" / "1", sleep_s=1.0)
    argv = (str(tmp_path / "odd"), "--access_log=json", f"--access_log_file={log}", f"--hot_path={hot_path}")
    with running(*argv) as server:
        body = b'{"data": [[1]]}'
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            raw.sendall(head % len(body) + body)
            wait_until(lambda: server.metric("stfs_in_flight_rows"))
        found = [line for line in lines_until(log, "/") if line["path"] == "/"]
    assert [line["status"] for line in found] == [499]


def lines_until(path, wanted):
    def lines():
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return any(line["path"] == wanted for line in found) and found

    return wait_until(lines, f"a line of {wanted}", log=lambda: path.read_text() if path.exists() else "")


def test_a_file_that_cannot_be_opened_is_told_at_the_start(model, tmp_path):
    ended = run_cli("serve", model, "--access_log=json", f"--access_log_file={tmp_path}/none/access.log", "--port=0")
    assert ended.returncode == 2
    assert "--access_log_file: cannot write" in ended.stderr


class _Stuck(io.StringIO):
    """A sink that writes when it is let."""

    def __init__(self):
        super().__init__()
        self.may_write = threading.Event()
        self.is_writing = threading.Event()

    def write(self, text):
        self.is_writing.set()
        assert self.may_write.wait(30)
        return super().write(text)


def test_lines_that_cannot_be_written_in_time_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(access_log, "MAX_WAITING_LINES", 2)
    sink = _Stuck()
    log = AccessLog(sink, 1, owns_sink=False)
    write = lambda path: log.write("GET", path, 200, 0.001, Who(None), {}, Carried("stfs", Lease(None)))  # noqa: E731
    write("/0")
    assert sink.is_writing.wait(30)
    for number in range(1, 6):
        write(f"/{number}")
    sink.may_write.set()
    wait_until(lambda: sink.getvalue().count("\n") >= 3)
    write("/6")
    log.close()
    found = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [line["path"] for line in found] == ["/0", "/1", "/2", "/6"]
    assert [line.get("dropped") for line in found] == [None, None, None, 3]


def test_a_disk_that_is_full_is_told_once_and_does_not_end_the_log(caplog):
    class Full(io.StringIO):
        is_full = True

        def write(self, text):
            if self.is_full:
                raise OSError("no space left")
            return super().write(text)

    sink = Full()
    log = AccessLog(sink, 1, owns_sink=False)
    for number in range(3):
        log.write("GET", f"/{number}", 200, 0.0, Who(None), {}, None)
        wait_until(lambda: log._lines.empty() and caplog.records)
    sink.is_full = False
    log.write("GET", "/last", 200, 0.0, Who(None), {}, None)
    log.close()
    assert "/last" in sink.getvalue()
    told = [record.getMessage() for record in caplog.records]
    assert told.count("the access log cannot be written: no space left") == 1
