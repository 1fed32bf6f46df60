"""Signature files beside models: where they are looked for, what they may say, and what is said of bad ones."""

import json

import numpy as np
import pytest
from running import SHARED_MODELS

from stfs.errors import LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.sidecar import example_sidecar, find_sidecar, read_sidecar
from stfs.signature import STRING, TensorSpec

GOOD = {"inputs": [{"name": "x", "dtype": "int64", "shape": [None, -1, 4]}], "outputs": [{"data_name": "y"}]}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_both_spellings_and_both_signs_of_a_varying_dimension(tmp_path):
    read = read_sidecar(write(tmp_path / "s.json", GOOD))
    assert read.inputs == (TensorSpec("x", np.dtype("int64"), (None, None, 4)),)
    assert read.outputs == (TensorSpec("y", np.dtype("float32"), None),)


@pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason=f"real models are not beside the checkout: {SHARED_MODELS}")
def test_a_file_that_an_exporter_of_mxnet_models_wrote():
    folder = SHARED_MODELS / "mxnet_mlp"
    read = find_sidecar(folder / "mx_mlp-symbol.json", LoadOptions(), prefix="mx_mlp")
    assert [(spec.name, spec.shape) for spec in (*read.inputs, *read.outputs)] == [("data", (1, 2)), ("lro", (1, 1))]


def test_what_is_said_of_values(tmp_path):
    tensor = {"name": "colour", "dtype": "string", "shape": [None], "doc": "of the car", "nullable": True}
    read = read_sidecar(write(tmp_path / "s.json", {"inputs": [tensor | {"values": ["red", "blue"]}]}))
    assert read.inputs == (TensorSpec("colour", STRING, (None,), "of the car", True, ("red", "blue")),)


@pytest.mark.parametrize("wrong", [{"doc": 1}, {"nullable": "no"}, {"values": [1]}, {"values": "red"}])
def test_what_is_said_of_values_wrongly(tmp_path, wrong):
    with pytest.raises(LoadFailed, match=r"inputs\[0\]: .*must be"):
        read_sidecar(write(tmp_path / "s.json", {"inputs": [{"name": "x"} | wrong]}))


@pytest.mark.parametrize("name", ["net-signature.json", "signature.json", "other-signature.json"])
def test_where_it_is_found(tmp_path, name):
    write(tmp_path / name, GOOD)
    found = find_sidecar(tmp_path / "net.pt", LoadOptions())
    assert found is not None
    assert found.path == tmp_path / name


def test_the_users_own_comes_first_and_two_strangers_are_not_guessed_between(tmp_path):
    write(tmp_path / "a-signature.json", GOOD)
    write(tmp_path / "b-signature.json", GOOD)
    assert find_sidecar(tmp_path / "net.pt", LoadOptions()) is None
    mine = write(tmp_path / "mine.json", GOOD)
    found = find_sidecar(tmp_path / "net.pt", LoadOptions(signature_file=mine))
    assert found is not None
    assert found.path == mine


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", 'must be an object with "inputs"'),
        ({}, "lists no inputs; it looks like"),
        ({"inputs": {}}, '"inputs" must be a list'),
        ({"inputs": [{"shape": [1]}]}, r'inputs\[0\]: "name" is missing'),
        ({"inputs": [{"name": "x", "dtype": "float23"}]}, r"inputs\[0\]: unknown dtype 'float23'"),
        ({"inputs": [{"name": "x", "dtype": "complex64"}]}, "unknown dtype 'complex64'"),
        ({"inputs": [{"name": "x", "shape": "3"}]}, '"shape" must be a list of sizes'),
        ({"inputs": [{"name": "x", "shape": [True]}]}, '"shape" must be a list of sizes'),
        ({"inputs": [{"name": "x"}, {"name": "x"}]}, "names one tensor twice"),
        ({**GOOD, "outputs": [3]}, '"outputs" must be a list'),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, content, problem):
    file = write(tmp_path / "s.json", content)
    with pytest.raises(LoadFailed, match=problem) as told:
        read_sidecar(file)
    assert str(file) in str(told.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LoadFailed, match=r"none\.json: cannot read the signature file: No such file"):
        find_sidecar(tmp_path / "m.pt", LoadOptions(signature_file=tmp_path / "none.json"))


def test_the_example_is_a_file_that_can_be_read_back(tmp_path):
    specs = (TensorSpec("text", STRING, (None,)), TensorSpec("n", np.dtype("int32"), None))
    read = read_sidecar(write(tmp_path / "s.json", example_sidecar(specs, specs[:1])))
    assert (read.inputs, read.outputs) == (specs, specs[:1])
    assert read_sidecar(write(tmp_path / "t.json", example_sidecar((), ()))).inputs[0].name == "x"
