"""``stfs check``: what it tells of models that are well, of models that are not, and its exit statuses."""

import json
import subprocess

import pytest
from running import run_cli, running
from simple_models import write_linear, write_many

from stfs.commands import progress

pytestmark = pytest.mark.slow  # starts processes that load models

PYTHON_MODEL = """
class Model:
    signature = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": %s}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": %s}],
    }

    def __init__(self, folder):
        print("noise on standard output")

    def predict(self, inputs):
        %s
        return {"y": inputs["x"] * 2}
"""


def python_model(folder, body="pass", shape="[None, 3]"):
    path = folder / "model.py"
    path.write_text(PYTHON_MODEL % (shape, shape, body))
    return path


def checked(*argv, status=0):
    done = run_cli("check", *argv, "--json", "--budget_s=0.3")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def test_a_model_that_is_well(tmp_path):
    write_linear(tmp_path / "1")
    write_linear(tmp_path / "3")
    report = checked(str(tmp_path), "--max_batch_size=8")
    model = report["model"]
    assert (model["platform"], model["version"], model["versions"], model["files"]) == ("onnx", 3, [1, 3], 1)
    assert model["bytes"] == (tmp_path / "3" / "model.onnx").stat().st_size
    signature = report["signatures"]["serving_default"]
    assert signature["inputs"] == [{"name": "x", "dtype": "float32", "shape": "[?, 3]"}]
    assert signature["batches"]
    assert signature["why_not"] == ""
    assert [one["rows"] for one in signature["times"]] == [1, 2, 4, 8]
    assert all(one["ms"] > 0 and one["worst_ms"] >= one["ms"] for one in signature["times"])
    assert signature["suggested_max_batch_size"] in (1, 2, 4, 8)
    assert signature["cost"]["alpha_ms"] >= 0
    start = signature["calibration"]
    assert [one["rows"] for one in start["times"]] == [1, 2, 4, 8]
    assert (start["ran_on"], start["cached"], start["why_skipped"]) == ("generated values", False, "")
    assert report["problems"] == []
    assert checked(str(tmp_path), "--version=1")["model"]["version"] == 1


def test_the_request_that_it_shows_is_answered(tmp_path):
    write_many(tmp_path)
    shown = checked(str(tmp_path))["example"]
    assert shown["serve"] == f"stfs serve {tmp_path}"
    with running(str(tmp_path)) as server:
        curl = shown["curl"].replace("127.0.0.1:8500", server.url)
        done = subprocess.run(["bash", "-c", curl.replace("curl", "curl -sS", 1)], capture_output=True, timeout=60)
    answer = json.loads(done.stdout)
    assert {f"{name}_out": value for name, value in shown["body"]["data"].items()} == answer


def test_what_a_start_measured_is_kept_for_check_and_the_other_way_round(tmp_path):
    write_linear(tmp_path / "model" / "1")
    cache = f"--calibration_cache={tmp_path / 'cache'}"
    with running(str(tmp_path / "model"), "--max_batch_size=8", cache) as server:
        (served,) = server.get("/v1/models").json[0]["calibration"].values()
        page = server.get("/dashboard/models/default").body.decode()
    assert not served["cached"]
    assert served["words"].capitalize()[:12] in page
    assert "Timed on generated values, at this start" in page
    report = checked(str(tmp_path / "model"), "--max_batch_size=8", cache)
    found = report["signatures"]["serving_default"]["calibration"]
    assert found["cached"]
    assert found["times"] == served["times"]
    with running(str(tmp_path / "model"), "--max_batch_size=8", cache) as server:
        assert server.get("/v1/models").json[0]["calibration"]["serving_default"]["cached"]
        assert "measured at an earlier start" in server.log()


def test_text_without_recorded_requests_is_said_not_to_be_timed(tmp_path):
    write_many(tmp_path)
    start = checked(str(tmp_path))["signatures"]["serving_default"]["calibration"]
    assert (start["times"], start["alpha_ms"]) == ([], None)
    assert "no request was recorded" in start["words"]


def test_for_people_it_is_the_same_in_words(tmp_path):
    done = run_cli("check", str(python_model(tmp_path)), "--isolation=thread", "--budget-s=0.2")
    assert done.returncode == 0, done.stderr
    for told in (
        "platform  python",
        "signature serving_default",
        "[?, 3]",
        "rows/s",
        "a start goes by",
        "curl -d",
        "nothing is wrong",
    ):
        assert told in done.stdout, told
    assert "noise" not in done.stdout
    assert "noise" in done.stderr


def test_a_model_that_does_not_answer_zeros(tmp_path):
    report = checked(str(python_model(tmp_path, 'raise ValueError("not this")')), status=1)
    (problem,) = report["problems"]
    assert "zeros are not answered" in problem
    assert "not this" in problem


def test_why_a_model_does_not_batch(tmp_path):
    fixed = checked(str(python_model(tmp_path, shape="[1, 3]")))["signatures"]["serving_default"]
    assert not fixed["batches"]
    assert '"x" has a shape of [1, 3]' in fixed["why_not"]
    forbidden = checked(str(python_model(tmp_path)), "--batchable=false")["signatures"]["serving_default"]
    assert forbidden["why_not"] == "batchable is false in the options"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["nowhere"], "there is no nowhere"),
        (["{}/text"], "no platform recognises these files"),
        (["{}/broken.onnx"], "broken.onnx"),
        (["{}/text", "--budget_s=soon"], "'soon' is no number"),
        (["{}/text", "--treads=2"], "--treads"),
        (["{}/1", "--version=7"], "but no 7"),
    ],
)
def test_what_cannot_be_loaded_ends_with_status_2_and_one_line(tmp_path, argv, told):
    write_linear(tmp_path / "1")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08 broken")
    done = run_cli("check", *(part.format(tmp_path) for part in argv))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("stfs check: error: ")
    assert told in line


def test_a_progress_bar_tells_how_far_it_is():
    assert progress.bar("timing", 0.5, 3.0, "8 rows") == f"timing [{'#' * 12}{'.' * 12}]  50% 3 s left  8 rows"
    assert progress.bar("loading", None, 3.0, "") == "loading ... "
