"""Model files of CNTK: what is read from them, and the axis that is added."""

from __future__ import annotations

import cntk_zoo as zoo
import numpy as np
import pytest

from stfs.platforms.cntk_proto import ModelMessage

pytest.importorskip("google.protobuf")


def test_axes_of_inputs_by_name(tmp_path):
    assert ModelMessage(zoo.two_of_each(tmp_path / "a")).input_axes() == {"a": [zoo.BATCH], "b": [zoo.BATCH]}
    expected = {"x": [zoo.SEQUENCE, zoo.BATCH], "b": [zoo.BATCH]}
    assert ModelMessage(zoo.sum_and_row(tmp_path / "b")).input_axes() == expected


def test_an_axis_is_added_and_the_rest_is_kept(tmp_path):
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    path = zoo.dense(tmp_path / "a", weight, weight[0])
    changed = tmp_path / "b"
    changed.write_bytes(ModelMessage(path).add_sequence_axis())
    assert ModelMessage(changed).input_axes() == {"x": [zoo.SEQUENCE, zoo.BATCH]}
    # Weights are in fields that are not described: they must come through, to the byte.
    assert weight.tobytes() in changed.read_bytes()
    unchanged = zoo.dense(tmp_path / "c", weight, weight[0], zoo.SEQUENCE, zoo.BATCH)
    assert ModelMessage(unchanged).input_axes() == ModelMessage(changed).input_axes()


@pytest.mark.parametrize("content", [b"", b"\x08\x01", b"tree\nversion=v4\n", b"\x08\x01\x12\xff\xff\xff\xff\x0f"])
def test_other_files_are_told(tmp_path, content):
    path = tmp_path / "model.cmf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged or incomplete|holds no graph"):
        ModelMessage(path)
