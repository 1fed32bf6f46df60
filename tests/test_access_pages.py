"""docs/authentication.md and docs/tls.md: every command on them is run in order, and prints what stands below it."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from running import TESTS, environment, running
from simple_models import write_linear

pytestmark = pytest.mark.slow  # starts servers

DOCS = TESTS.parent / "docs"
SERVE = "stfs serve "


def commands(page: str):
    """Each command of the page with what it prints there."""
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            yield line, printed


@pytest.mark.parametrize("page", ["authentication.md", "tls.md"])
def test_every_command_prints_what_stands_below_it(page, tmp_path, monkeypatch):
    if shutil.which("openssl") is None or shutil.which("curl") is None:
        pytest.skip("openssl and curl are not installed")
    write_linear(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = 0
    with contextlib.ExitStack() as last:
        server = None
        for line, printed in commands((DOCS / page).read_text()):
            if line.startswith(SERVE):
                last.close()
                server = last.enter_context(running(*shlex.split(line.removeprefix(SERVE)), env={"PYTHONPATH": path()}))
                continue
            if server is not None:
                line = re.sub(r"127\.0\.0\.1:8500", f"127.0.0.1:{server.port}", line)
            line = re.sub(r"\bcurl ", "curl -sS ", line, count=1)
            line = re.sub(r"\bstfs user\b", f"{sys.executable} -m stfs user", line)
            done = subprocess.run(
                ["bash", "-c", line],
                capture_output=True,
                text=True,
                timeout=60,
                env=environment({"PYTHONPATH": path()}),
            )
            assert done.returncode == 0, (line, done.stderr)
            if not line.startswith("openssl"):  # which says how far it is
                assert (done.stdout + done.stderr).split() == printed.split(), line
            run += 1
    assert run >= 4


def path() -> str:
    """Where ``stfs`` and the tests' own modules are found from another folder."""
    return os.pathsep.join((str(TESTS), str(TESTS.parent)))


@pytest.mark.parametrize("page", ["authentication.md", "tls.md"])
def test_links_lead_somewhere_and_options_exist(page):
    from stfs.options import BY_NAME

    text = (DOCS / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (DOCS / target).exists(), target
    serving = " ".join(line for line, _ in commands(text) if line.startswith(SERVE))
    for name in re.findall(r"--([a-z_]+)", serving + " ".join(re.findall(r"`(--[a-z_]+)", text))):
        assert name in BY_NAME or name == "ssl_config_file", name  # which is of tensorflow_model_server
