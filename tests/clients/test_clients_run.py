"""The program of every language, as a server gives it, run against that server: plain; with credentials over TLS."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from access_users import with_password, with_token, write_users
from certificates import Authority, authority
from client_models import CANARY, NASTY_NAME, write_images, write_nasty
from client_runners import RUNNERS, require, run
from running import Running, basic_auth, running

from stfs.clients import languages

pytestmark = pytest.mark.slow

USER, PASSWORD, TOKEN = "benchley", "s3: é\"$'\\", "stfs_token-of-a-test"
RIGHT = {"STFS_AUTH_USERNAME": USER, "STFS_AUTH_PASSWORD": PASSWORD}
WRONG = {**RIGHT, "STFS_AUTH_PASSWORD": "wrong"}
LANGUAGES = [language.name for language in languages.LANGUAGES]


@dataclass(frozen=True)
class Servers:
    plain: Running
    secure: Running
    trusted: Authority


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """One without credentials that serves names of all kinds, one with them and TLS that serves images."""
    folder = tmp_path_factory.mktemp("served")
    write_nasty(folder / "nasty" / "3")
    write_images(folder / "images" / "1")
    trusted = authority(folder / "tls")
    pair = trusted.sign("server")
    users = write_users(folder / "users.txt", with_password(USER, PASSWORD), with_token("bot", TOKEN))
    secure = (f"--auth_users_file={users}", "--auth_failures_per_minute=1000", "--enable_ssl")
    with ExitStack() as stack:
        plain = stack.enter_context(running(str(folder / "nasty"), f"--model_name={NASTY_NAME}"))
        yield Servers(
            plain,
            stack.enter_context(
                running(str(folder / "images"), *secure, f"--secret_pem={pair.pem}", f"--secret_key={pair.key}")
            ),
            trusted,
        )


def ask_securely(servers: Servers, method: str, path: str, body: bytes | None = None) -> bytes:
    port = servers.secure.port
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=servers.trusted.trusting())
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **basic_auth(USER, PASSWORD)})
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        return answer
    finally:
        connection.close()


def build(language: str, source: bytes, folder: Path) -> list[str]:
    """The command that runs it, built in ``folder``."""
    runner = require(language)
    folder.mkdir()
    (folder / languages.find(language).file).write_bytes(source)
    return runner.build(folder)


def answer_of(language: str, command: list[str], folder: Path, env: Mapping[str, str]) -> Any:
    """What a program prints that succeeds and has nothing to complain of."""
    if language == "postman":
        command, env = as_newman(command, env)
    done = run(command, folder, env)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stderr == ""
    if language == "postman":
        (execution,) = json.loads((folder / "report.json").read_text())["run"]["executions"]
        return json.loads(bytes(execution["response"]["stream"]["data"]))
    return json.loads(done.stdout)


def complaint_of(language: str, command: list[str], folder: Path, env: Mapping[str, str]) -> str:
    """What a program says that fails."""
    if language == "postman":
        command, env = as_newman(command, env)
    done = run(command, folder, env)
    assert done.returncode > 0, (done.stdout, done.stderr)
    if language != "postman":
        assert done.stdout == ""
    return done.stdout + done.stderr


def as_newman(command: list[str], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Newman's own way to say what the others read from the environment."""
    names = {"STFS_AUTH_USERNAME": "username", "STFS_AUTH_PASSWORD": "password"}
    given = [part for key, value in env.items() if key in names for part in ("--env-var", f"{names[key]}={value}")]
    trusted = ["--ssl-extra-ca-certs", env["STFS_CA_FILE"]] if "STFS_CA_FILE" in env else []
    return [*command, *given, *trusted], {}


def trusting(language: str, env: Mapping[str, str], ca: Path | None) -> dict[str, str]:
    """``env`` with the file of certificates named, if there is one, in the way that the program says."""
    if ca is None:
        return dict(env)
    name = {"javascript": "NODE_EXTRA_CA_CERTS", "typescript": "NODE_EXTRA_CA_CERTS"}
    return {**env, name.get(language, "STFS_CA_FILE"): str(ca)}


def test_every_language_has_its_runner():
    assert list(RUNNERS) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_of_all_kinds(servers, tmp_path, language):
    """Every name arrives as it is, no name is run, and what comes back is the answer to the example."""
    require(language)
    path = f"/v1/models/{quote(NASTY_NAME, safe='')}"
    body = servers.plain.get(f"{path}/gen_json")
    assert body.status == 200, body.body
    expected = servers.plain.post("/", body.body)
    assert expected.status == 200, expected.body
    source = servers.plain.get(f"{path}/gen_client?language={language}")
    assert source.status == 200, source.body
    folder = tmp_path / f"nasty-{language}"
    command = build(language, source.body, folder)
    assert answer_of(language, command, folder, {}) == expected.json
    assert not (folder / CANARY).exists()


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "csharp"])
def test_credentials_tls_and_a_large_input(servers, tmp_path, language):
    require(language)
    if language == "rust" and "STFS_TEST_CLIENTS" not in os.environ:
        pytest.skip("its crates for TLS take most of a minute to compile: make test-clients runs it")
    example = ask_securely(servers, "GET", "/v1/models/default/gen_json")
    expected = json.loads(ask_securely(servers, "POST", "/", example))
    source = ask_securely(servers, "GET", f"/v1/models/default/gen_client?language={language}")
    folder = tmp_path / f"images-{language}"
    command = try_with_credentials(language, source, expected, folder, servers.trusted.pair.pem)
    complaint_of(language, command, folder, RIGHT)  # nobody has said to trust whoever signed this certificate


@pytest.mark.parametrize("language", ["csharp", "rust"])
def test_credentials_without_tls(tmp_path, language):
    """Mono, which runs C#, can be told of no file of certificates; Rust's program differs most without TLS."""
    require(language)
    write_images(tmp_path / "images" / "1")
    users = write_users(tmp_path / "users.txt", with_password(USER, PASSWORD), with_token("bot", TOKEN))
    with running(str(tmp_path / "images"), f"--auth_users_file={users}") as server:
        headers = basic_auth(USER, PASSWORD)
        example = server.call("GET", "/v1/models/default/gen_json", headers=headers)
        expected = server.post("/", example.body, headers).json
        source = server.call("GET", f"/v1/models/default/gen_client?language={language}", headers=headers)
        try_with_credentials(language, source.body, expected, tmp_path / f"{language}-program")


def try_with_credentials(
    language: str, source: bytes, expected: Any, folder: Path, ca: Path | None = None
) -> list[str]:
    """With right ones, wrong ones, a token and none; the command that runs the program."""
    assert expected["kind"] == ["PNG", "PNG"]
    assert len(source) < 12_000
    assert PASSWORD.encode() not in source
    assert USER.encode() not in source
    command = build(language, source, folder)
    assert answer_of(language, command, folder, trusting(language, RIGHT, ca)) == expected
    told = complaint_of(language, command, folder, trusting(language, WRONG, ca))
    assert "401" in told
    if language != "postman":
        assert "HTTP 401: Need basic auth to request the resources" in told
        token = {"STFS_AUTH_TOKEN": TOKEN}
        assert answer_of(language, command, folder, trusting(language, token, ca)) == expected
        assert "STFS_AUTH_USERNAME" in complaint_of(language, command, folder, trusting(language, {}, ca))
    return command
