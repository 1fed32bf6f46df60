"""``stfs gen-client``: from a server, and from files."""

import re
import subprocess
import sys

import pytest
from access_users import with_token, write_users
from client_runners import environment
from running import run_cli, running
from simple_models import write_linear, write_many

from stfs.commands import gen_client
from stfs.errors import SetupError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_linear(folder / "model" / "1")
    users = write_users(folder / "users.txt", with_token("bot", "stfs_a-token"))
    with running(str(folder / "model"), "--model_name=linear", f"--auth_users_file={users}") as server:
        yield server


def test_from_a_server_it_is_what_the_server_says_and_it_runs(server, tmp_path):
    token = {"STFS_AUTH_TOKEN": "stfs_a-token"}
    target = tmp_path / "client.py"
    asked = ("--language=python3", f"--url={server.url}/", "--model_name", "linear")
    written = run_cli("gen-client", *asked, "--output", str(target), env=token)
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    printed = run_cli("gen-client", *asked, env=token)
    path = "/v1/models/linear/gen_client?language=python"
    served = server.call("GET", path, headers={"Authorization": "Bearer stfs_a-token"}).body.decode()
    assert target.read_text() == printed.stdout == served
    done = subprocess.run(
        [sys.executable, str(target)], env={**environment(), **token}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '{"y": [[0.2, 0.4, 0.6], [0.8, 1.0, 1.2]]}\n'


def test_a_server_that_says_no(server):
    asked = ("--language=go", f"--url={server.url}")
    done = run_cli("gen-client", *asked)
    assert done.returncode == 2
    assert "answers 401" in done.stderr
    assert "set STFS_AUTH_USERNAME and STFS_AUTH_PASSWORD, or STFS_AUTH_TOKEN" in done.stderr
    done = run_cli("gen-client", *asked, "--model-name=absent", env={"STFS_AUTH_TOKEN": "stfs_a-token"})
    assert done.returncode == 2
    assert "answers 404" in done.stderr
    assert "absent" in done.stderr
    assert done.stderr.count("\n") == 1


def test_from_files(tmp_path):
    write_linear(tmp_path / "model" / "1")
    write_many(tmp_path / "model" / "4")
    asked = ("gen-client", "--language=js", f"--model_path={tmp_path / 'model'}", "--url=https://models.example")
    done = run_cli(*asked, "--model_name=m", "--auth")
    assert done.returncode == 0, done.stderr
    assert '"https://models.example/"' in done.stdout
    assert '"model_version": 4' in done.stdout
    assert '"real": [[0.1, 0.2]]' in done.stdout
    assert "STFS_AUTH_TOKEN" in done.stdout
    done = run_cli(*asked, "--version=1")
    assert '"model_version": 1' in done.stdout
    assert '"x": [[0.1, 0.2, 0.3]]' in done.stdout
    assert "STFS_AUTH_TOKEN" not in done.stdout


def test_what_is_wrong_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    for name in ("STFS_AUTH_TOKEN", "STFS_AUTH_USERNAME", "STFS_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    write_linear(tmp_path / "model" / "1")
    (tmp_path / "empty").mkdir()
    model = f"--model_path={tmp_path / 'model'}"
    for arguments, text in [
        ((), "--language"),
        (("--language=cobol",), "there are bash, python"),
        (("--language=go", "--url=nowhere"), "no address of a server"),
        (("--language=go", "--url=http://127.0.0.1:1"), "no answer from http://127.0.0.1:1"),
        (("--language=go", "--auth"), "--auth and --model_platform go with --model_path"),
        (("--language=go", f"--model_path={tmp_path / 'absent'}"), "there is no"),
        (("--language=go", f"--model_path={tmp_path / 'empty'}"), "no model is found"),
        (("--language=go", model, "--version=3"), "has 1, but no 3"),
        (("--language=go", model, "--version=x"), "whole number"),
        (("--language=go", model, "--signature_name=none"), "serving_default"),
        (("--language=go", model, f"--output={tmp_path}"), "--output: cannot write"),
    ]:
        with pytest.raises(SetupError, match=re.escape(text)) as caught:
            gen_client.run(arguments)
        assert "\n" not in str(caught.value), arguments
    done = run_cli("gen-client", "--language=cobol")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("stfs gen-client: error: no client in")
