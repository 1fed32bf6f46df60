"""What the adapters share: choosing a file, strings, memory, one-line messages."""

from __future__ import annotations

import numpy as np
import pytest

from stfs.errors import LoadFailed
from stfs.platforms.base import as_bytes, model_file, model_files, object_array, one_line, owned, usable_cores
from stfs.platforms.scikitlearn import SUFFIXES


def test_of_several_forms_of_one_model_the_safe_one_is_taken(tmp_path):
    for suffix in reversed(SUFFIXES):
        (tmp_path / f"model{suffix}").write_bytes(b"")
        assert model_file(tmp_path, SUFFIXES).suffix == suffix


def test_model_files_of_an_unreadable_path(tmp_path):
    assert model_files(tmp_path / "nothing", (".onnx",)) == []
    assert model_files(tmp_path / ("x" * 5000), (".onnx",)) == []
    with pytest.raises(LoadFailed, match=r"no file that ends in \.onnx"):
        model_file(tmp_path, (".onnx",))


@pytest.mark.parametrize("dtype", ["U", "S", "O"])
def test_as_bytes(dtype):
    values = np.array([["a", "b c"], ["", "d"]], dtype)
    assert as_bytes(values).dtype == object
    assert as_bytes(values).tolist() == [[b"a", b"b c"], [b"", b"d"]]


def test_as_bytes_keeps_what_is_bytes_and_prints_what_is_neither():
    values = object_array([b"\xff\x00", "é", 3, None], (2, 2))
    assert as_bytes(values).tolist() == [[b"\xff\x00", "é".encode()], [b"3", b"None"]]
    assert as_bytes(np.empty((0, 3), object)).shape == (0, 3)
    assert as_bytes(np.array("one", object)).shape == ()


def test_object_arrays_do_not_look_inside():
    array = object_array([[1, 2], (3, 4)], (2,))
    assert array.shape == (2,)
    assert array[0] == [1, 2]


def test_owned_copies_only_what_is_shared():
    a, b = np.zeros(4), np.zeros(4)
    assert owned(a, [b]) is a
    assert not np.shares_memory(owned(a[1:], [b, a]), a)


def test_one_line():
    assert one_line(ValueError("\n  first \nsecond")) == "first"
    assert one_line(KeyError()) == "KeyError"
    assert one_line("x" * 500) == "x" * 397 + "..."


def test_usable_cores():
    assert usable_cores() >= 1
