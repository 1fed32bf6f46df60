"""The commands: right ones serve, wrong ones end with status 2 and one line that says what to do."""

import json
import os
import signal
import socket
import sys

import pytest
from odd_estimators import write_odd
from running import run_cli, running
from simple_models import write_linear
from waiting import wait_until

from stfs import __version__

pytestmark = pytest.mark.slow  # starts real servers, many of them


def one_line(done):
    """The single line of a failed command, progress aside; fails on a traceback or on a second line."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_help_is_grouped_with_defaults_and_units():
    done = run_cli("serve", "--help")
    assert done.returncode == 0
    for group in ("the model:", "batching", "the server:", "security:", "versions and shutdown:"):
        assert group in done.stdout
    for told in ("(default: 8500)", "ms a lone request may wait", "seconds", "rows that one run may take", "STFS_PORT"):
        assert told in " ".join(done.stdout.split())


def test_version_and_usage():
    assert run_cli("--version").stdout == f"stfs {__version__}\n"
    assert "stfs serve model.onnx" in run_cli("--help").stdout


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "stfs serve PATH"),
        (["sevre"], "unknown command 'sevre'"),
        (["serve", "--prot=1", "x"], "--prot"),
        (["serve", "--port=x", "m"], "--port: 'x'"),
        (["serve", "/nowhere/model.onnx"], "/nowhere/model.onnx"),
        (["serve", "m", "--enable_ssl", "--port=0", "--secret_pem=/nowhere.pem"], "/nowhere.pem"),
        (["serve", "m", "--enable_auth"], "--auth_password"),
        (["serve", "m", "--auth_users_file=/nowhere.txt"], "--auth_users_file: cannot read /nowhere.txt"),
        (["user", "add", "/nowhere/users.txt", "ana"], "cannot open the folder /nowhere"),
    ],
)
def test_a_wrong_command_ends_with_one_line(argv, told):
    assert told in one_line(run_cli(*argv))


def test_an_empty_model_folder_says_what_was_looked_for(tmp_path):
    assert str(tmp_path) in one_line(run_cli("serve", str(tmp_path), "--port=0"))


def test_a_file_of_no_platform_says_which_there_are(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("no model")
    line = one_line(run_cli("serve", str(file), "--port=0"))
    assert str(file) in line
    assert "onnx" in line


def test_a_keras_file_says_how_to_export_it(tmp_path):
    file = tmp_path / "model.keras"
    file.write_bytes(b"PK")
    assert "model.export(folder)" in one_line(run_cli("serve", str(file), "--port=0"))


def test_an_unknown_platform_is_named_with_the_known_ones(tmp_path):
    write_linear(tmp_path / "1")
    line = one_line(run_cli("serve", str(tmp_path), "--model_platform=onyx", "--port=0"))
    assert "onyx" in line
    assert "scikitlearn" in line


def test_a_truncated_model_names_its_file(tmp_path):
    file = write_linear(tmp_path / "1")
    file.write_bytes(file.read_bytes()[:-30])
    assert str(file) in one_line(run_cli("serve", str(tmp_path), "--port=0"))


def test_a_platform_that_is_not_installed_names_the_extra(tmp_path):
    file = write_linear(tmp_path / "1")
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text("import sys; sys.modules['onnxruntime'] = None\n")
    env = {"PYTHONPATH": str(blocked)}
    line = one_line(run_cli("serve", str(file), "--port=0", env=env))
    assert 'pip install "stfs[onnx]"' in line


def test_a_port_that_is_taken_is_named(tmp_path):
    file = write_linear(tmp_path / "1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = one_line(run_cli("serve", str(file), f"--port={port}", "--host=127.0.0.1"))
    assert f"127.0.0.1:{port}" in line


def test_one_broken_model_among_good_ones_stops_the_start_and_is_named(tmp_path):
    write_linear(tmp_path / "good" / "1")
    (tmp_path / "bad").mkdir()
    config = tmp_path / "models.json"
    entries = [{"name": name, "base_path": str(tmp_path / name)} for name in ("good", "bad")]
    config.write_text(json.dumps({"model_config_list": entries}))
    line = one_line(run_cli("serve", f"--model_config_file={config}", "--port=0"))
    assert 'model "bad"' in line
    assert 'model "good"' not in line


def test_the_seeds_command_serves_the_seeds_way(tmp_path):
    write_linear(tmp_path / "model" / "1")
    with running(
        f"--model_base_path={tmp_path / 'model'}", "--enable_cors", "True", module="seed_main", serve=False
    ) as server:
        assert server.post("/", {"data": {"x": [[1, 2, 3]]}}).json == {"y": [[2.0, 4.0, 6.0]]}
        assert server.post("/", {"model_name": "default", "model_version": 1, "data": {"x": [[1, 2, 3]]}}).status == 200


def test_the_seeds_command_serves_every_version_and_ours_the_latest(tmp_path):
    for version in (1, 2):
        write_linear(tmp_path / str(version), scale=10 * version)
    with running(f"--model_base_path={tmp_path}", module="seed_main", serve=False) as server:
        # One version is enough for the start; the other may still be loading.
        wait_until(lambda: len(server.get("/v1/models").json[0]["model_version_list"]) == 2)
        for version in (1, 2):
            answer = server.post("/", {"model_version": version, "data": [[1, 0, 0]]})
            assert answer.json["y"][0][0] == 10 * version
    with running(str(tmp_path)) as server:
        answer = server.post("/", {"model_version": 1, "data": [[1, 0, 0]]})
        assert answer.status == 400
        assert "has no version 1; it serves: 2 (model_version_policy says which)" in answer.error


def test_a_single_file_is_version_one_and_the_example_line_works(tmp_path):
    file = write_linear(tmp_path)
    with running(str(file)) as server:
        (shown,) = server.get("/v1/models").json
        assert shown["model_version_list"] == [1]
        line = next(line for line in server.log().splitlines() if line.strip().startswith("curl"))
        assert os.system(f"{line} --silent --fail --output {tmp_path / 'answer'}") == 0
        assert (tmp_path / "answer").read_text() == '{"y":[[0.0,0.0,0.0]]}'


def test_settings_come_from_the_environment(tmp_path):
    file = write_odd(tmp_path)
    with running(env={"STFS_MODEL_BASE_PATH": str(file), "STFS_MODEL_NAME": "renamed"}) as server:
        assert server.post("/v1/models/renamed:predict", {"instances": [[4]]}).json == {"predictions": [8.0]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(tmp_path, number):
    with running(str(write_linear(tmp_path))) as server:
        assert server.stop(number) == 0
        assert "Traceback" not in server.log()


def test_without_the_compiled_module_it_says_so_once_and_serves(tmp_path):
    with running(str(write_linear(tmp_path)), env={"STFS_PURE_PYTHON": "1"}) as server:
        assert server.log().count("Python twin") == 1
        assert server.post("/", {"data": [[1, 2, 3]]}).json == {"y": [[2.0, 4.0, 6.0]]}


def test_the_entry_points_are_declared():
    from importlib.metadata import entry_points

    names = {
        entry.name: entry.value for entry in entry_points(group="console_scripts") if entry.value.startswith("stfs.")
    }
    assert names == {
        "stfs": "stfs.cli:main",
        "simple_tensorflow_serving": "stfs.cli:main_seed",
        "tensorflow_model_server": "stfs.cli:main_tensorflow_model_server",
    }
    assert sys.version_info >= (3, 11)
