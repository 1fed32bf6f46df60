"""Whose pickle a file is, by its first bytes: no framework is needed, for the classes here are made up."""

from __future__ import annotations

import pickle
import sys
import types

import pytest

from stfs.platforms.pickle_owner import outermost_module, pickle_owner

joblib = pytest.importorskip("joblib")


@pytest.fixture
def made_up(monkeypatch):
    """An instance of a class of the module ``xgboost.sklearn``, as far as pickle can tell."""
    module = types.ModuleType("xgboost.sklearn")
    kind = type("XGBClassifier", (), {"__module__": module.__name__})
    module.XGBClassifier = kind
    monkeypatch.setitem(sys.modules, "xgboost.sklearn", module)
    thing = kind()
    thing.weights = [1.0] * 1000
    return thing


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_outermost_class_decides(made_up, protocol):
    assert outermost_module(pickle.dumps(made_up, protocol)) == "xgboost.sklearn"
    for other in ({"model": made_up}, [made_up], "text", None, 7):
        assert outermost_module(pickle.dumps(other, protocol)) is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_class_that_holds_another_comes_first(made_up, protocol):
    holder = types.SimpleNamespace(step=made_up)
    assert outermost_module(pickle.dumps(holder, protocol)) == "types"


@pytest.mark.parametrize("compress", [0, 1, 9, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_compressed_by_joblib(made_up, tmp_path, compress):
    joblib.dump(made_up, tmp_path / "model.joblib", compress=compress)
    assert pickle_owner(tmp_path / "model.joblib") == "xgboost"


def test_what_is_no_pickle(made_up, tmp_path):
    whole = pickle.dumps(made_up)
    path = tmp_path / "model.pkl"
    assert pickle_owner(path) is None
    for content in (
        b"",
        b"nonsense",
        b"\x80\x04garbage",
        b"\x1f\x8bnot gzip",
        b"BZh9",
        b"x\x9c",
        whole[:20],
        b"\x80\x05\x93",
    ):
        path.write_bytes(content)
        assert pickle_owner(path) is None


def test_a_file_that_changes_is_looked_at_again(made_up, tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps([1]))
    assert pickle_owner(path) is None
    path.write_bytes(pickle.dumps(made_up))
    assert pickle_owner(path) == "xgboost"
