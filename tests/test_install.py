"""Building the package where there is no C++ compiler: it installs without its extension modules, and serves.

Slow: without the build requirements at hand, pip downloads them. Nothing is installed; the wheel is unpacked and run.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from odd_estimators import write_odd
from running import TESTS, environment, running

pytestmark = pytest.mark.slow

ROOT = TESTS.parent
BUILD_LIMIT_S = 280.0
NO_DOWNLOAD = ("No matching distribution found", "Could not find a version", "Failed to establish a new connection")

# Makes the source distribution beside the wheel, in the one environment that pip prepares for a build.
BACKEND = """
from setuptools.build_meta import *
from setuptools import build_meta

def build_wheel(folder, settings=None, metadata=None):
    build_meta.build_sdist({folder!r})
    return build_meta.build_wheel(folder, settings, metadata)
"""


@dataclass(frozen=True)
class Built:
    wheel: frozenset[str]
    sdist: frozenset[str]
    unpacked: Path


def tracked() -> list[str]:
    """The files of the checkout that make the package."""
    command = ["git", "ls-files", "-z", "stfs", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so which files make the package is not known")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def can_build_here() -> bool:
    """Whether this environment meets ``build-system.requires`` of pyproject.toml."""

    def major_minor(name: str) -> tuple[int, int]:
        try:
            found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            return 0, 0
        return (int(found[1]), int(found[2])) if found else (0, 0)

    return major_minor("setuptools") >= (77, 0) and major_minor("cython") >= (3, 1) and major_minor("numpy") >= (2, 0)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    """The package as it is built from the tracked files where every compiler fails."""
    if PathFinder.find_spec("pip") is None:
        pytest.skip("pip is not installed here")
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    (source / "backend_for_both.py").write_text(BACKEND.format(folder=str(dist)))
    project = source / "pyproject.toml"
    said = 'build-backend = "setuptools.build_meta"'
    assert said in project.read_text()
    both = 'build-backend = "backend_for_both"\nbackend-path = ["."]'
    project.write_text(project.read_text().replace(said, both))
    here = ["--no-build-isolation"] if can_build_here() else []
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", *here]
    env = {**os.environ, "CC": "false", "CXX": "false"}
    made = subprocess.run(
        [*command, f"--wheel-dir={dist}", str(source)], env=env, capture_output=True, text=True, timeout=BUILD_LIMIT_S
    )
    if made.returncode != 0 and any(told in made.stderr + made.stdout for told in NO_DOWNLOAD):
        pytest.skip("the build requirements are not installed here and cannot be downloaded")
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    unpacked = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
        in_wheel = frozenset(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = frozenset(member.name.partition("/")[2] for member in archive if member.isfile())
    return Built(in_wheel, in_sdist, unpacked)


def test_the_wheel_holds_what_runs_and_nothing_of_what_is_compiled(built):
    ours = {name for name in built.wheel if ".dist-info/" not in name}
    assert ours == {
        name for name in tracked() if name.startswith("stfs/") and not name.endswith((".pyx", ".pxd", ".hpp"))
    }
    assert {"stfs/py.typed", "stfs/web/templates/index.html", "stfs/web/static/style.css"} <= ours
    assert not [name for name in ours if name.endswith((".cpp", ".so"))]
    (entry_points,) = (name for name in built.wheel if name.endswith(".dist-info/entry_points.txt"))
    told = (built.unpacked / entry_points).read_text()
    assert "stfs = stfs.cli:main" in told
    assert "simple_tensorflow_serving = stfs.cli:main_seed" in told


def test_the_source_distribution_holds_all_that_a_build_needs(built):
    assert built.sdist >= {name for name in tracked() if name != "MANIFEST.in"}


# An editable install also answers for single modules, so it would lend its compiled ones to the unpacked package.
NO_EDITABLE_INSTALL = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
"""


def python_path(unpacked: Path, *folders: Path) -> dict[str, str]:
    """An environment in which the package is the unpacked one alone, whatever the working folder."""
    (unpacked / "sitecustomize.py").write_text(NO_EDITABLE_INSTALL)
    return {"PYTHONPATH": os.pathsep.join(map(str, (unpacked, *folders))), "PYTHONSAFEPATH": "1"}


EVERY_MODULE = """
import importlib, pkgutil, sys, stfs
assert stfs.__path__ == [sys.argv[1]], stfs.__path__
names = [found.name for found in pkgutil.walk_packages(stfs.__path__, "stfs.") if found.name != "stfs.__main__"]
modules = [importlib.import_module(name) for name in names]
assert all(module.__file__.startswith(sys.argv[1]) for module in modules)
from stfs import codec
print(len(modules), codec.ACCELERATED, codec.Reader.__module__)
"""


def test_without_the_extension_modules_everything_imports(built):
    done = subprocess.run(
        [sys.executable, "-c", EVERY_MODULE, str(built.unpacked / "stfs")],
        env=environment(python_path(built.unpacked)),
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    count, accelerated, reader = done.stdout.split()
    assert int(count) > 30
    assert (accelerated, reader) == ("False", "stfs.codec_py.read")


def test_without_the_extension_modules_it_serves_both_dialects(built, tmp_path):
    model = write_odd(tmp_path)
    with running(str(model), env=python_path(built.unpacked, TESTS)) as server:
        assert server.log().count("install a C++ compiler") == 1
        assert server.post("/", {"data": [[2.0], [3.0]]}).json == {"predict": [4.0, 6.0]}
        assert server.post("/v1/models/default:predict", {"instances": [[2.0]]}).json == {"predictions": [4.0]}
        page = server.get("/")
        assert page.status == 200
        assert b"<html" in page.body
        assert server.stop() == 0
