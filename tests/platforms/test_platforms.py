"""Finding platforms by name and by what lies in a folder, without importing any framework."""

from __future__ import annotations

import importlib.metadata

import pytest

import stfs.platforms
from stfs.errors import ConfigError, LoadFailed
from stfs.platforms import available, detect, find, is_model
from stfs.platforms.base import LoadOptions


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("tensorflow", "tensorflow"),
        ("TF", "tensorflow"),
        ("onnx", "onnx"),
        ("OnnxRuntime", "onnx"),
        ("scikitlearn", "scikitlearn"),
        ("sklearn", "scikitlearn"),
        ("scikit-learn", "scikitlearn"),
        ("Scikit_Learn ", "scikitlearn"),
    ],
)
def test_names_and_aliases(spelt, name):
    assert find(spelt).name == name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r'unknown platform "theano"; there are .*onnx, .*scikitlearn, .*tensorflow'):
        find("theano")


def test_importing_the_room_imports_no_framework(python):
    code = """
import sys
import stfs.platforms
stfs.platforms.find("tf")
heavy = ("tensorflow", "onnxruntime", "onnx", "sklearn", "joblib", "skops", "keras")
print([name for name in heavy if name in sys.modules])
"""
    assert python(code) == "[]"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["model.onnx"], "onnx"),
        (["anything.onnx"], "onnx"),
        (["onnx_model.proto"], "onnx"),
        (["model.onnx", "encoder.onnx"], "onnx"),
        (["model.onnx", "model.onnx.data", "labels.txt"], "onnx"),
        (["model.joblib"], "scikitlearn"),
        (["iris.pkl"], "scikitlearn"),
        (["iris.pickle"], "scikitlearn"),
        (["iris.skops"], "scikitlearn"),
        (["saved_model.pb"], "tensorflow"),
        (["saved_model.pbtxt"], "tensorflow"),
    ],
)
def test_a_folder_is_recognised_by_its_files(tmp_path, files, name):
    for file in files:
        (tmp_path / file).write_bytes(b"")
    platform = detect(tmp_path)
    assert platform is not None
    assert platform.name == name
    assert is_model(tmp_path)
    by_file = detect(tmp_path / files[0])
    assert by_file is not None
    assert by_file.name == name


@pytest.mark.parametrize("files", [[], ["readme.txt"], [".hidden.onnx"], ["model.onnx.data"], ["variables.pb"]])
def test_a_folder_without_a_model(tmp_path, files):
    for file in files:
        (tmp_path / file).write_bytes(b"")
    assert detect(tmp_path) is None
    assert not is_model(tmp_path)


def test_a_path_that_is_not_there(tmp_path):
    assert detect(tmp_path / "nothing") is None
    assert not is_model(tmp_path / "nothing" / "model.onnx")


def test_a_folder_that_happens_to_be_called_like_a_model(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    assert not is_model(tmp_path)


@pytest.mark.parametrize(("name", "suffix"), [("onnx", ".onnx"), ("scikitlearn", ".joblib")])
def test_two_candidates_are_named(tmp_path, name, suffix):
    (tmp_path / f"first{suffix}").write_bytes(b"")
    (tmp_path / f"second{suffix}").write_bytes(b"")
    assert is_model(tmp_path)
    with pytest.raises(LoadFailed, match=f"first{suffix} and second{suffix}"):
        find(name).load(tmp_path, LoadOptions())


def test_two_platforms_are_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "model.joblib").write_bytes(b"")
    assert is_model(tmp_path)
    with pytest.raises(LoadFailed, match="onnx and of scikitlearn"):
        detect(tmp_path)


class Extension(stfs.platforms.Platform):
    """What somebody else's package would add."""

    name = "extension"
    extra = "extension"

    def detect(self, path):
        return path.suffix == ".ext"

    def load(self, path, options):
        raise LoadFailed(f"{path}: not today")


@pytest.fixture
def entry_points(monkeypatch):
    """Puts entry points in place of the installed ones, for one test."""

    def put(*points):
        group = [importlib.metadata.EntryPoint(name, value, stfs.platforms.GROUP) for name, value in points]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group, found=group: found)
        available.cache_clear()

    yield put
    available.cache_clear()


def test_entry_points_add_platforms(entry_points, tmp_path):
    entry_points(("extension", f"{__name__}:Extension"))
    assert set(available()) == {"extension", *stfs.platforms.BUILT_IN}
    assert list(available()) == sorted(available())
    found = detect(tmp_path / "some.ext")
    assert found is not None
    assert found.name == "extension"


def test_broken_entry_points_are_logged_and_left_out(entry_points, caplog):
    entry_points(("broken", "no_such_module:Thing"), ("wrong", "builtins:dict"), ("onnx", f"{__name__}:Extension"))
    assert set(available()) == set(stfs.platforms.BUILT_IN)
    assert type(available()["onnx"]).__module__ == "stfs.platforms.onnx"
    assert "platform broken (no_such_module:Thing) is left out" in caplog.text
    assert "platform wrong (builtins:dict) is left out, it is not a Platform" in caplog.text


@pytest.mark.parametrize(
    ("platform", "module", "file", "command"),
    [
        ("onnx", "onnxruntime", "model.onnx", 'pip install "stfs[onnx]"'),
        ("scikitlearn", "sklearn", "model.joblib", 'pip install "stfs[sklearn]"'),
        ("scikitlearn", "skops", "model.skops", 'pip install "stfs[sklearn]"'),
        ("tensorflow", "tensorflow", "saved_model.pb", 'pip install "stfs[tensorflow]"'),
    ],
)
def test_a_missing_framework_names_the_command(python, tmp_path, platform, module, file, command):
    (tmp_path / file).write_bytes(b"")
    code = f"""
import sys
sys.modules[{module!r}] = None
from pathlib import Path
from stfs.errors import PlatformMissing
from stfs.platforms import find
from stfs.platforms.base import LoadOptions
try:
    find({platform!r}).load(Path(sys.argv[1]), LoadOptions())
except PlatformMissing as error:
    print(error)
"""
    told = python(code, tmp_path)
    assert command in told
    assert platform in told
