"""The reader of MXNet's params files, on every layout and on what is none."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet_params_file import DTYPES, params_file, tensor

from stfs.errors import LoadFailed
from stfs.platforms.mxnet_params import read_params

ARRAYS = {
    "arg:weight": np.arange(6, dtype="float32").reshape(2, 3),
    "aux:mean": np.array([1.5, -2], "float64"),
    "arg:ids \u00e9": np.array([[[7]]], "int64"),
}


@pytest.mark.parametrize("layout", [0, 1, 2, 3])
def test_reads_every_layout(tmp_path, layout):
    path = tmp_path / "m-0000.params"
    path.write_bytes(params_file(ARRAYS, layout))
    found = read_params(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_every_dtype(tmp_path, dtype):
    path = tmp_path / "m-0000.params"
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    path.write_bytes(params_file({"arg:a": array}))
    found = read_params(path)["arg:a"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_a_tensor_without_a_shape_is_left_out(tmp_path):
    path = tmp_path / "m-0000.params"
    nothing = struct.pack("<Iii", 0xF993FAC9, 0, 0)
    one = tensor(np.ones(2, "float32"), 2)
    names = struct.pack("<Q", 2) + struct.pack("<Q", 5) + b"arg:a" + struct.pack("<Q", 5) + b"arg:b"
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 2) + nothing + one + names)
    assert list(read_params(path)) == ["arg:b"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "at byte 0: it does not begin as they do"),
        (b"PK\x03\x04 a zip archive", "at byte 0: it does not begin as they do"),
        (struct.pack("<QQQ", 0x112, 0, 2**60), "the file ends 4 bytes too early"),
        (struct.pack("<QQQIii", 0x112, 0, 1, 0xF993FAC9, 1, 2), "a tensor is sparse, which is not served"),
        (struct.pack("<QQQIii", 0x112, 0, 1, 0xF993FAC9, 0, -5), "a tensor has -5 dimensions"),
        (struct.pack("<QQQI", 0x112, 0, 1, 0xFFFFFFFF), "a tensor has 4294967295 dimensions"),
        (struct.pack("<QQQIii2qiii", 0x112, 0, 1, 0xF993FAC9, 0, 2, 3, -1, 1, 0, 0), r"has the shape \[3, -1\]"),
        (struct.pack("<QQQIii2qiii", 0x112, 0, 1, 0xF993FAC9, 0, 2, 2**62, 2**62, 1, 0, 0), "bytes too early"),
        (struct.pack("<QQQIiiqiii", 0x112, 0, 1, 0xF993FAC9, 0, 1, 1, 1, 0, 12), "of MXNet's type 12"),
        (struct.pack("<QQQQ", 0x112, 0, 0, 3), "it holds 0 tensors and 3 names"),
        (params_file({"arg:a": np.ones(1, "float32")})[:-5] + b"\xff\xfe\xfd\xfc\xfb", "a name is not text"),
    ],
)
def test_wrong_files_are_told_with_the_place(tmp_path, content, problem):
    path = tmp_path / "m-0000.params"
    path.write_bytes(content)
    with pytest.raises(LoadFailed, match=problem) as caught:
        read_params(path)
    assert str(caught.value).startswith(f"{path}: does not load as parameters of MXNet, at byte ")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(LoadFailed, match=r"m-0000.params: cannot be read: No such file"):
        read_params(tmp_path / "m-0000.params")


@settings(max_examples=300, deadline=None)
@given(layout=st.integers(0, 3), damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5))
def test_damage_ends_in_arrays_or_in_a_load_error(tmp_path_factory, layout, damage):
    content = bytearray(params_file(ARRAYS, layout))
    for at, value in damage:
        content[at % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.params"
    path.write_bytes(content)
    try:
        found = read_params(path)
    except LoadFailed:
        return
    assert all(array.nbytes <= len(content) for array in found.values())
