"""The container files and the server say the same: flags, variables, ports, paths, users, times. Needs no engine."""

import http.server
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib

import pytest
from containers.container_files import ROOT, Dockerfile, ignore_patterns, ignored, read_yaml
from odd_estimators import write_odd
from running import running

from stfs import config
from stfs.options import OPTIONS

pytestmark = pytest.mark.slow  # starts real servers, many of them

DOCKERFILES = ["Dockerfile", "Dockerfile.gpu"]
ALL_FILES = [*DOCKERFILES, "docker-compose.yml", "simple_tensorflow_serving.yaml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def compose():
    (document,) = read_yaml("docker-compose.yml")
    (service,) = document["services"].values()
    return service


@pytest.fixture
def kubernetes():
    return {document["kind"]: document for document in read_yaml("simple_tensorflow_serving.yaml")}


@pytest.fixture
def pod(kubernetes):
    return kubernetes["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod):
    (only,) = pod["containers"]
    return only


def said(image: Dockerfile, args: list[str], environ: dict[str, str]) -> config.ServerConfig:
    """What the server in the image makes of its arguments and environment, as its own parser reads them."""
    executable, command, *rest = exec_form(image.final().one("ENTRYPOINT"))
    assert (executable, command) == ("stfs", "serve")
    assert executable in PROJECT["scripts"]
    everything = {**image.final().environment(), **environ}
    return config.load([*rest, *args], everything, prog="stfs serve", positional=True)


def exec_form(text: str) -> list[str]:
    parts = re.findall(r'"([^"]*)"', text)
    assert text == "[" + ", ".join(f'"{part}"' for part in parts) + "]", "only the exec form passes signals on"
    return parts


def seconds(text: str) -> float:
    number = re.fullmatch(r"(\d+)s", text)
    assert number
    return float(number[1])


def stops_within_s(settings: config.ServerConfig) -> float:
    """The longest that a server takes to end after SIGTERM (see stfs.process): delay, requests, models."""
    return settings.shutdown_delay_s + 2 * settings.shutdown_timeout_s + 1.0


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_variable_is_one_that_the_server_reads(name):
    known = {option.variable for option in OPTIONS}
    assert set(re.findall(r"\bSTFS_[A-Z0-9_]*[A-Z0-9]", (ROOT / name).read_text())) <= known


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_server_flag_in_text_is_one_that_the_server_takes(name):
    known = {option.name for option in OPTIONS}
    # Flags of the server are written with underscores, those of other tools with hyphens or in one word.
    assert set(re.findall(r"--([a-z]+_[a-z_]+)", (ROOT / name).read_text())) <= known


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_serves_what_is_mounted_at_model_on_the_exposed_port(name):
    image = Dockerfile.read(name)
    settings = said(image, [], {})
    assert [str(model.base_path) for model in settings.models] == ["/model"]
    assert str(settings.port) == image.final().one("EXPOSE") == "8500"
    assert settings.host == "0.0.0.0"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_flags_after_the_image_name_are_understood(name):
    image = Dockerfile.read(name)
    settings = said(image, ["--model_name=x", "--max_batch_size=256"], {"STFS_LOG_LEVEL": "debug"})
    assert (settings.models[0].name, settings.models[0].batch.max_batch_size) == ("x", 256)
    assert settings.log_level == "debug"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_reaches_the_builder(name):
    patterns = ignore_patterns()
    copied = Dockerfile.read(name).copied()
    assert "stfs" in copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert not ignored(path, patterns), path
    sources = [p for s in ("*.py", "*.pyx", "*.pyi", "*.hpp", "*.html", "py.typed") for p in (ROOT / "stfs").rglob(s)]
    assert len({path.suffix for path in sources}) == 6
    for path in sources:
        assert not ignored(path.relative_to(ROOT).as_posix(), patterns), path


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "tests/running.py",
        "secret.key",
        "model/1/model.onnx",
        "stfs/_fastjson.cpython-311-x86_64-linux-gnu.so",
        "stfs/_fastjson.cpp",
        "stfs/__pycache__/cli.cpython-311.pyc",
        "stfs/web/__pycache__/app.cpython-311.pyc",
    ],
)
def test_what_must_not_reach_the_builder_does_not(path):
    assert ignored(path, ignore_patterns())


def test_everything_the_package_is_built_from_is_copied():
    copied = set(Dockerfile.read("Dockerfile").copied())
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "setup.py", "constraints.txt"} <= copied


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_runs_as_a_numbered_user_who_is_not_root(name):
    stage = Dockerfile.read(name).final()
    uid, gid = stage.one("USER").split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert f"--uid {uid} --user-group" in " ".join(stage.all("RUN"))
    last_privileged = max(i for i, (word, _) in enumerate(stage.steps) if word in ("RUN", "COPY"))
    assert [word for word, _ in stage.steps].index("USER") > last_privileged


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_final_stage_has_no_compiler_and_no_installer(name):
    stage = " ".join(rest for word, rest in Dockerfile.read(name).final().steps if word in ("RUN", "COPY"))
    for tool in ("pip", "g++", "gcc", "COMPILER", "-dev", "/opt/tools", "tests"):
        assert tool not in stage
    assert Dockerfile.read(name).final().one("STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_extras_exist(name):
    assert set(Dockerfile.read(name).argument("EXTRAS").split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_gpu_image_differs_only_where_it_must():
    plain, gpu = (Dockerfile.read(name).steps for name in DOCKERFILES)
    assert len(plain) == len(gpu)
    differing = [
        (ours[0], re.split(r"[= ]", ours[1])[0]) for ours, theirs in zip(plain, gpu, strict=True) if ours != theirs
    ]
    assert differing == [
        ("ARG", "BASE_IMAGE"),
        ("ARG", "EXTRAS"),
        ("LABEL", "org.opencontainers.image.title"),
        ("ENV", "PATH"),
    ]
    plain_env, gpu_env = (Dockerfile.read(name).final().environment() for name in DOCKERFILES)
    assert plain_env.items() <= gpu_env.items()
    assert all("NVIDIA" in name or "CUDA" in name for name in gpu_env.keys() - plain_env.keys())


def test_compose_serves_the_model_folder(compose):
    image = Dockerfile.read(compose["build"]["dockerfile"])
    settings = said(image, compose["command"], compose["environment"])
    (volume,) = compose["volumes"]
    assert str(settings.models[0].base_path) == volume["target"]
    assert volume["source"] == "${MODEL_FOLDER:-./model}"
    assert volume["read_only"] is True
    assert compose["ports"] == [f"${{PUBLISHED_PORT:-8500}}:{settings.port}"]


def test_compose_waits_as_long_as_the_server_takes_to_stop(compose):
    settings = said(Dockerfile.read("Dockerfile"), compose["command"], compose["environment"])
    assert seconds(compose["stop_grace_period"]) > stops_within_s(settings)


def test_compose_gives_the_server_no_more_rights_than_it_needs(compose):
    assert compose["read_only"] is True
    assert compose["tmpfs"] == [Dockerfile.read("Dockerfile").final().environment()["HOME"]]
    assert compose["cap_drop"] == ["ALL"]
    assert compose["security_opt"] == ["no-new-privileges:true"]
    assert compose["restart"] == "unless-stopped"
    assert "test" not in compose["healthcheck"], "the image says what is asked"


def test_kubernetes_serves_the_volume(pod, container):
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    settings = said(Dockerfile.read("Dockerfile"), container["args"], environ)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[str(settings.models[0].base_path)]["readOnly"] is True
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in mounts.values()}
    assert [port["containerPort"] for port in container["ports"]] == [settings.port]
    assert "/tmp" in mounts
    assert pod["terminationGracePeriodSeconds"] > stops_within_s(settings)


def test_kubernetes_runs_as_the_image_s_user_with_nothing_more(pod, container):
    uid, gid = Dockerfile.read("Dockerfile").final().one("USER").split(":")
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(uid),
        "runAsGroup": int(gid),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["enableServiceLinks"] is False, "a Service named stfs would set STFS_PORT"


def test_kubernetes_service_reaches_the_pods(kubernetes, container):
    deployment, service = kubernetes["Deployment"]["spec"], kubernetes["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert service["selector"].items() <= labels.items()
    (port,) = service["ports"]
    assert port["targetPort"] in [named["name"] for named in container["ports"]]
    assert port["port"] == 8500


def ask(name: str, port: int) -> int:
    """Run a Dockerfile's health check here; its exit status."""
    command = Dockerfile.read(name).final().health_check()
    assert command[0] == "python"
    environ = {"PATH": os.environ["PATH"], "STFS_PORT": str(port), "HTTP_PROXY": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, *command[1:]], env=environ, capture_output=True, timeout=60).returncode


def test_health_check_and_probes_pass_on_a_server(tmp_path, container):
    with running(str(write_odd(tmp_path)), "--enable_auth") as server:
        assert [ask(name, server.port) for name in DOCKERFILES] == [0, 0]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            get = container[probe]["httpGet"]
            assert get["port"] in [port["name"] for port in container["ports"]]
            assert server.get(get["path"]).status == 200
        assert container["livenessProbe"]["httpGet"]["path"] == "/health"
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
        port = server.port
        assert server.stop() == 0
    assert ask("Dockerfile", port) == 1


def test_health_check_passes_over_tls(tmp_path):
    try:
        subprocess.run(
            shlex.split(
                "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -keyout secret.key -out secret.pem"
            ),
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not installed")
    certificate, key = tmp_path / "secret.pem", tmp_path / "secret.key"
    flags = ["--enable_ssl", f"--secret_pem={certificate}", f"--secret_key={key}"]
    with running(str(write_odd(tmp_path)), *flags) as server:
        assert ask("Dockerfile", server.port) == 0


def test_health_check_fails_on_a_server_that_is_not_well():
    class Ill(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(503)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ill) as ill:
        thread = threading.Thread(target=ill.serve_forever)
        thread.start()
        try:
            assert ask("Dockerfile", ill.server_address[1]) == 1
        finally:
            ill.shutdown()
            thread.join()
