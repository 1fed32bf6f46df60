"""Builds the image and runs it as an engine would: its user, a read-only root, no capabilities, process 1.

For a machine with buildah, debootstrap and root, when STFS_TEST_CONTAINERS=1 asks for it: some minutes and a few GB,
which ``buildah rmi`` and the temporary folder give back.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import joblib
import pytest
from containers.container_files import ROOT
from sklearn.linear_model import LinearRegression
from waiting import wait_until

ASKED = os.environ.get("STFS_TEST_CONTAINERS") == "1"
MISSING = [tool for tool in ("buildah", "debootstrap", "unshare", "setpriv", "chroot") if not shutil.which(tool)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not ASKED, reason="STFS_TEST_CONTAINERS=1 asks for a real build, which takes minutes"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to build and to become the image's user"),
]

BUILDAH = ["buildah", "--storage-driver", "vfs"]
# A build sees the machine's certificates and pip settings, if it has any; the image keeps neither.
BORROWED = ["/etc/ssl/certs", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/pip.conf"]
START_LIMIT_S = 120.0
DEBIAN = re.compile(r"^(?:URIs:|deb)(?: \[.*\])? +(http\S+/debian)/?(?:\s|$)", re.MULTILINE)

# The arguments: root, model ("" for none), uid, gid, the command. Every mount goes with the namespace.
AS_AN_ENGINE = """
set -e; root=$1 model=$2 uid=$3 gid=$4; shift 4
mount --bind "$root" "$root"; mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
if [ "$model" ]; then mount --bind "$model" "$root/model"; mount -o remount,bind,ro "$root/model"; fi
mount -o remount,bind,ro "$root"
exec /usr/sbin/chroot "$root" /usr/bin/setpriv --reuid "$uid" --regid "$gid" --clear-groups \\
  --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
"""


def buildah(*args: str) -> str:
    done = subprocess.run([*BUILDAH, *args], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.strip()


def mirror() -> str:
    """The machine's own Debian mirror."""
    for file in [*Path("/etc/apt/sources.list.d").glob("*"), Path("/etc/apt/sources.list")]:
        if file.is_file() and (found := DEBIAN.search(file.read_text())):
            return found[1]
    pytest.skip("apt's sources name no Debian mirror to make the base image from")


@dataclass(frozen=True)
class Image:
    """An image whose files lie at ``root``, and what its configuration says."""

    root: Path
    env: dict[str, str]
    user: str
    entrypoint: list[str]
    health_check: list[str]

    @contextmanager
    def started(self, model: Path | None, *flags: str) -> Iterator[Container]:
        """The entrypoint as process 1, on a free port of this machine, until the block ends."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = self.jailed(model, *self.entrypoint, *flags)
        environ = {**self.env, "STFS_PORT": str(port)}
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        container = Container(process, port)
        try:
            yield container
        finally:
            container.kill()

    def run(self, *command: str, model: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, in the same image as the same user."""
        return subprocess.run(
            self.jailed(model, *command),
            env={**self.env, **environ},
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
        )

    def jailed(self, model: Path | None, *command: str) -> list[str]:
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", AS_AN_ENGINE, "engine"]
        return [*unshare, str(self.root), str(model or ""), *self.user.split(":"), *command]


@dataclass(frozen=True)
class Container:
    process: subprocess.Popen[str]
    port: int

    def call(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            return connection.getresponse().read()
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.kill()
            try:
                return self.call("GET", "/ready") == b"ready"
            except OSError:
                return False

        wait_until(is_ready, "readiness", START_LIMIT_S, log=self.kill)

    def kill(self) -> str:
        """End it now; what it wrote."""
        if self.process.poll() is None:
            # Not unshare alone: a process that changes its user, as the server did, outlives its parent.
            os.kill(self.server_pid(), signal.SIGKILL)
        return self.process.communicate(timeout=60)[0]

    def server_pid(self) -> int:
        """The server as this machine numbers it: the one child of ``unshare``."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    def status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.server_pid()}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A plain Debian with Python in place of the public base image."""
    folder = tmp_path_factory.mktemp("base") / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", str(folder), mirror()],
        check=True,
        capture_output=True,
    )
    name = f"localhost/stfs-test-base-{os.getpid()}"
    container = buildah("from", "scratch")
    try:
        buildah("add", "-q", container, str(folder), "/")
        buildah("commit", "-q", container, name)
    finally:
        buildah("rm", container)
        shutil.rmtree(folder)
    yield name
    buildah("rmi", "--force", name)


@pytest.fixture(scope="module")
def image(base):
    name = f"localhost/stfs-test-{os.getpid()}"
    arguments = ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", "EXTRAS=onnx,sklearn"]
    for path in BORROWED:
        arguments += ["--volume", f"{path}:{path}:ro"] if Path(path).exists() else []
    buildah("bud", "--isolation", "chroot", "--format", "docker", *arguments, "-f", "Dockerfile", "-t", name, ".")
    container = buildah("from", name)
    try:
        settings = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]
        env = dict(pair.split("=", 1) for pair in settings["Env"])
        root = Path(buildah("mount", container))
        yield Image(root, env, settings["User"], settings["Entrypoint"], settings["Healthcheck"]["Test"])
    finally:
        buildah("rm", container)
        buildah("rmi", "--force", name)


@pytest.fixture
def doubling(tmp_path):
    """A folder with version 1 of a model that doubles its input, and readable by anyone."""
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), folder / "1" / "model.joblib")
    return folder


def test_it_serves_a_mounted_model_and_stops_when_told(image, doubling):
    with image.started(doubling, "--model_name=doubling", "--host=127.0.0.1") as container:
        container.wait_until_ready()
        answer = json.loads(container.call("POST", "/", '{"model_name": "doubling", "data": [[3.0]]}'))
        assert answer == {"predict": [pytest.approx(6.0)]}
        status = container.status()
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
        assert int(status["CapEff"], 16) == 0
        assert status["NSpid"].split()[-1] == "1"
        assert image.health_check[0] == "CMD"
        assert image.run(*image.health_check[1:], STFS_PORT=str(container.port)).returncode == 0
        os.kill(container.server_pid(), signal.SIGTERM)
        assert container.process.wait(60) == 0
    assert image.run(*image.health_check[1:], STFS_PORT=str(container.port)).returncode == 1


def test_with_nothing_mounted_it_serves_the_demo(image):
    with image.started(None, "--host=127.0.0.1") as container:
        container.wait_until_ready()
        answer = json.loads(container.call("POST", "/", json.dumps({"data": [[0.0] * 64]})))
        assert sum(answer["probabilities"][0]) == pytest.approx(1.0, abs=1e-5)


def test_an_empty_folder_is_a_clear_error(image, tmp_path):
    tmp_path.chmod(0o755)
    done = image.run(*image.entrypoint, "--host=127.0.0.1", model=tmp_path, STFS_PORT="0")
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "/model" in told


def test_its_root_cannot_be_written_and_nothing_in_it_is_the_users(image):
    assert "Read-only" in image.run("touch", "/opt/stfs/x").stderr
    uid = int(image.user.split(":")[0])
    assert [path for path in (image.root / "opt").rglob("*") if path.lstat().st_uid == uid] == []


def test_fast_json_is_compiled_in(image):
    assert image.run("python", "-c", "from stfs import codec; print(codec.ACCELERATED)").stdout == "True\n"


def test_what_built_it_is_left_behind(image):
    for tool in ("g++", "gcc", "cc", "pip", "pip3"):
        assert not shutil.which(
            tool, path=":".join(f"{image.root}/{b}" for b in ("usr/bin", "usr/local/bin", "opt/stfs/bin"))
        )
    assert not list((image.root / "opt/stfs").glob("lib/python3*/site-packages/pip"))
    for folder in ("build", "opt/tools", "root/.cache", "opt/stfs/tests"):
        assert not (image.root / folder).exists()
