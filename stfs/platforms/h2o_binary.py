"""Binary models, as ``h2o.save_model`` writes them: which version wrote one, and turning it into a MOJO.

Only the very version that wrote a binary model reads it, and only a server of H2O does: one is started for it on the
loopback, asked for the MOJO, and killed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed, PlatformMissing
from stfs.platforms import jvm
from stfs.platforms.base import one_line

MAGIC = b"\x1c\xed"
WITHIN_S = 180.0
POLL_S = 0.1
LEAST_HEAP_BYTES = 512 << 20
EXPORT = "export it there as a MOJO: model.save_mojo(folder), or model.download_mojo(folder)"


def binary_version(file: Path) -> str | None:
    """The version of H2O that wrote ``file``; ``None`` if it is no binary model. Never raises.

    After two magic bytes comes the version: its length plus one, then its characters.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError:
        return None
    if not head.startswith(MAGIC) or len(head) < 4:
        return None
    version = head[3 : 2 + head[2]].decode("ascii", errors="replace")
    return version if re.fullmatch(r"\d+(\.\d+){2,4}", version) else None


def to_mojo(file: Path, version: str, installed: str, folder: Path, heap_bytes: int) -> Path:
    """A MOJO of the binary model ``file``, written to ``folder``, which is the caller's; blocking, some ten seconds.

    Raises :class:`LoadFailed`, naming both versions and the way out, if ``version`` is not the one ``installed``.
    """
    if version != installed:
        raise LoadFailed(
            f"{file}: is a binary model of H2O {version}, which no other version reads, and this is {installed}: "
            f"{EXPORT}"
        )
    java = jvm.program("java")
    if java is None:
        raise PlatformMissing("h2o", "h2o", "a binary model needs the program java", command=jvm.INSTALL_JAVA)
    server = _Server(java, jvm.jars("h2o")[0], folder, max(heap_bytes, LEAST_HEAP_BYTES))
    try:
        return server.export(file)
    finally:
        server.kill()


class _Server:
    """One server of H2O on the loopback, behind a password that nobody else knows."""

    def __init__(self, java: Path, jar: Path, folder: Path, heap_bytes: int) -> None:
        self._folder = folder
        self._deadline_s = time.monotonic() + WITHIN_S
        self._ready = folder / "address"
        self._log = folder / "log"
        password = secrets.token_urlsafe(32)
        realm = folder / "realm.properties"
        realm.touch(mode=0o600)
        realm.write_text(f"stfs: {password}\n")
        self._headers = {"Authorization": "Basic " + base64.b64encode(f"stfs:{password}".encode()).decode()}
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        name = secrets.token_hex(8)
        flatfile = folder / "flatfile"
        flatfile.write_text("")  # it looks for no others to make a cluster with
        command = [
            # If this process is killed, so is the server.
            *([found, "--pdeathsig", "KILL"] if (found := shutil.which("setpriv")) else []),
            *(str(java), f"-Xmx{heap_bytes >> 20}m", "-XX:-UsePerfData", "-Djava.awt.headless=true"),
            "-Dsys.ai.h2o.debug.noJavaVersionCheck=true",
            *("-jar", str(jar), "-name", f"stfs-{name}", "-ip", "127.0.0.1", "-web_ip", "127.0.0.1"),
            *("-baseport", str(20000 + 2 * secrets.randbelow(15000)), "-nthreads", "1", "-ice_root", str(folder)),
            *("-flatfile", str(flatfile), "-notify_local", str(self._ready), "-log_level", "WARN", "-quiet"),
            *("-hash_login", "-login_conf", str(realm)),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=_environment()
            )

    def export(self, file: Path) -> Path:
        """The MOJO of the binary model ``file``. Raises :class:`LoadFailed`."""
        address = self._address(file)
        try:
            loaded = self._ask(f"{address}/99/Models.bin/", {"dir": str(file.absolute())})
            key = urllib.parse.quote(json.loads(loaded)["models"][0]["model_id"]["name"], safe="")
            mojo = self._ask(f"{address}/3/Models/{key}/mojo")
        except urllib.error.HTTPError as error:
            raise LoadFailed(f"{file}: H2O does not turn it into a MOJO: {_message(error)}") from error
        except (OSError, LookupError, ValueError) as error:
            raise LoadFailed(f"{file}: the server of H2O that was to read it failed: {one_line(error)}") from error
        path = self._folder / "model.zip"
        path.write_bytes(mojo)
        return path

    def kill(self) -> None:
        """End the process, and wait for its end."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)

    def _address(self, file: Path) -> str:
        """``http://127.0.0.1:port`` once the server says it."""
        while time.monotonic() < self._deadline_s:
            if self._process.poll() is not None:
                told = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise LoadFailed(f"{file}: the server of H2O that was to read it ended: {one_line(told)}")
            with contextlib.suppress(OSError):
                if found := re.search(r"127\.0\.0\.1:(\d+)", self._ready.read_text()):
                    return f"http://127.0.0.1:{found.group(1)}"
            time.sleep(POLL_S)
        raise LoadFailed(f"{file}: the server of H2O that was to read it did not start within {WITHIN_S:.0f} s")

    def _ask(self, url: str, form: dict[str, str] | None = None) -> bytes:
        data = urllib.parse.urlencode(form).encode() if form else None
        request = urllib.request.Request(url, data, self._headers)
        with self._open(request, timeout=max(1.0, self._deadline_s - time.monotonic())) as answer:
            body: bytes = answer.read()
        return body


def _message(error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(ValueError, LookupError, OSError):
        told: Any = json.loads(error.read())
        return one_line(str(told["msg"]))
    return f"status {error.code}"


def _environment() -> dict[str, str]:
    """The environment here, less what Java takes arguments from and prints about."""
    return {name: value for name, value in os.environ.items() if name not in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")}
