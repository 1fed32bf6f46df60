"""docs/platforms/adding-a-platform.md is true: its package is installed by pip, found by its entry point and served."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from running import TESTS, run_cli, running

pytestmark = pytest.mark.slow  # runs pip, starts servers

PACKAGE = Path(__file__).parent / "stfs-echo"
PAGE = (TESTS.parent / "docs" / "platforms" / "adding-a-platform.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BUILD_LIMIT_S = 250.0
NO_DOWNLOAD = ("No matching distribution found", "Could not find a version", "Failed to establish a new connection")


def written_on_the_page() -> dict[str, str]:
    """The files of the package as the page shows them: blocks that begin with ``# path``."""
    named = (re.match(r"# (\S+/\S+)\n(.*)", text, re.DOTALL) for _, text in BLOCKS)
    return {found[1]: found[2] for found in named if found}


def commands() -> list[tuple[list[str], str]]:
    """The page's commands as arguments, each with what it prints as far as the page shows it."""
    (console,) = (text for language, text in BLOCKS if language == "console")
    parts = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)
    return [(shlex.split(line), printed) for line, printed in parts]


def builds_here() -> bool:
    """Whether this environment has a setuptools that makes wheels by itself; else pip fetches one."""
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 71
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The page's package, installed by pip into a folder; the environment in which it is found."""
    if PathFinder.find_spec("pip") is None:
        pytest.skip("pip is not installed here")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, text in written_on_the_page().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--target", target]
    command += ["--no-build-isolation"] if builds_here() else []
    done = subprocess.run([*command, source / "stfs-echo"], capture_output=True, text=True, timeout=BUILD_LIMIT_S)
    if done.returncode != 0 and any(told in done.stderr for told in NO_DOWNLOAD):
        pytest.skip("setuptools is not installed here and cannot be downloaded")
    assert done.returncode == 0, done.stderr
    return {"PYTHONPATH": os.pathsep.join([str(target), str(TESTS)])}


@pytest.fixture
def model(tmp_path) -> Path:
    """The model that the page's ``echo`` command writes."""
    ((_, content, _, name),) = (argv for argv, _ in commands() if argv[0] == "echo")
    (tmp_path / name).write_text(content)
    return tmp_path / name


def test_the_page_shows_the_package_as_it_is():
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix in (".py", ".toml")}
    assert written_on_the_page() == {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_text() for path in files if "build" not in path.parts
    }


def test_it_is_listed_with_its_version(installed):
    told = json.loads(run_cli("platforms", "--json", env=installed).stdout)
    (echo,) = (entry for entry in told["platforms"] if entry["name"] == "echo")
    assert (echo["version"], echo["files"]) == ("stfs-echo 1.0", "model.echo, or a single .echo file")
    assert "echo" in run_cli("platforms", env=installed).stdout
    assert "echo" not in [entry["name"] for entry in json.loads(run_cli("platforms", "--json").stdout)["platforms"]]


def test_the_pages_commands_do_what_it_says(installed, model):
    ((serve, _),) = ((argv, printed) for argv, printed in commands() if argv[:2] == ["stfs", "serve"])
    ((curl, printed),) = ((argv, printed) for argv, printed in commands() if argv[0] == "curl")
    assert serve[2:] == [model.name]
    with running(str(model), env=installed) as server:
        answer = server.post("/", curl[curl.index("-d") + 1])
        assert (answer.status, answer.json) == (200, json.loads(printed))
        rows = {"instances": [[0.5, 0.5], [1.0, 0.0]]}
        assert server.post("/v1/models/default:predict", rows).json == {"predictions": [[0.5, 0.75], [1.0, 0.5]]}
        refused = server.post("/", {"data": {"sound": [[2.0]]}})
        assert refused.status == 400
        assert "goes beyond -1 to 1" in refused.error
        assert server.get("/v1/models/default").json["platform"] == "echo"


def test_it_runs_in_a_worker_process(installed, model):
    with running(str(model), "--isolation=process", env=installed) as server:
        assert server.post("/", {"data": {"sound": [[1.0, 0.0]]}}).json == {"echo": [[1.0, 0.5]]}


def test_a_file_that_is_none_is_told_by_the_platforms_own_words(installed, model):
    model.write_text('{"gain": "loud"}')
    done = run_cli("serve", str(model), "--port=0", env=installed)
    assert done.returncode == 2
    assert f"{model}: not an echo: " in done.stderr.splitlines()[-1]


def test_without_the_package_the_file_is_unknown(model):
    done = run_cli("serve", str(model), "--port=0")
    assert done.returncode == 2
    assert "no platform recognises these files" in done.stderr.splitlines()[-1]
