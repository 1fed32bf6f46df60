"""docs/tools.md: its model is made by its own code, every command is run, and prints what stands below it."""

import contextlib
import re
import shlex
import subprocess
import sys

import pytest
from running import TESTS, environment, running

from stfs.cli import TOOLS

PAGE = (TESTS.parent / "docs" / "tools.md").read_text()
SERVE = "stfs serve "


def commands():
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            yield line, printed


def without_numbers(text):
    """Words, with every number the same: times and sizes are those of a machine."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("warning: "))
    return re.sub(r"\d[\d.,]*(?:e[+-]?\d+)?", "N", kept).split()


@pytest.mark.slow  # starts a server and loads a model several times
def test_every_command_prints_what_stands_below_it(tmp_path):
    (make,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, timeout=60)
    run = 0
    with contextlib.ExitStack() as last:
        server = None
        for line, printed in commands():
            if line.startswith(SERVE):
                argv = [part.replace("model.py", str(tmp_path / "model.py")) for part in shlex.split(line)[2:]]
                server = last.enter_context(running(*argv))
                continue
            if server is not None:
                line = line.replace("127.0.0.1:8500", f"127.0.0.1:{server.port}")
            line = re.sub(r"\bstfs (?=check|infer|bench|diff)", f"{sys.executable} -m stfs ", line)
            path = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
            done = subprocess.run(
                ["bash", "-c", line], cwd=tmp_path, env=environment(path), capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, (line, done.stderr)
            if "infer" in line:
                assert done.stdout.split() == printed.split(), line
            else:
                assert without_numbers(done.stdout) == without_numbers(printed), line
            run += 1
    assert run >= 8
    assert (tmp_path / "bench.html").read_text().startswith("<!doctype html>")


def test_every_tool_and_option_on_the_page_is_there():
    for tool in TOOLS:
        assert f"## {tool}\n" in PAGE, tool
        assert f"`stfs {tool} " in PAGE, tool
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (TESTS.parent / "docs" / target).exists(), target
