"""The runs before a model serves: every shape that requests are padded to has been run once, and nothing else."""

import logging

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from simple_models import save

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.shape_plan import ShapeOptions, plan
from stfs.config import ModelConfig
from stfs.first_runs import SHAPES_LIMIT_S, warm_up_all, warm_up_shapes
from stfs.loader import load_servable
from stfs.platforms.base import Servable
from stfs.signature import Signature, TensorSpec

POSITIONS = 16


class Noting(Servable):
    """Passes its inputs on, and notes their shapes."""

    platform = "noting"
    runtime = "none"

    def __init__(self, *specs):
        self.signatures = {"s": Signature("s", specs, specs, True)}
        self.shapes = []

    def run(self, signature_name, inputs):
        self.shapes.append({name: array.shape for name, array in inputs.items()})
        return dict(inputs)


def ids_and_mask():
    ids, mask = (TensorSpec(name, np.dtype("int64"), (None, None)) for name in ("ids", "mask"))
    return Noting(ids, mask, TensorSpec("age", np.dtype("float32"), (None, 2)))


def shapes_run(servable, options, policy, **more):
    """What the model is run on beyond one row and two of each signature."""
    signatures, paddings = plan(options, warm_up_all(servable, None), policy.max_batch_size, "m.onnx")
    seen = len(servable.shapes)
    warm_up_shapes(servable, signatures, paddings, policy, 'model "m" version 1', **more)
    return servable.shapes[seen:]


def test_each_length_is_run_at_each_number_of_rows_the_smallest_first():
    options = ShapeOptions(sequence_buckets=(4, 16), masks=(("mask", "ids"),))
    policy = BatchPolicy(max_batch_size=8, allowed_batch_sizes=(2, 8))
    wanted = [(2, 4), (8, 4), (2, 16), (8, 16)]
    ran = shapes_run(ids_and_mask(), options, policy)
    assert ran == [{"ids": shape, "mask": shape, "age": (shape[0], 2)} for shape in wanted]


@pytest.mark.parametrize(
    ("options", "sizes", "wanted"),
    [
        (ShapeOptions(), (), []),
        (ShapeOptions(pad_variable_length_inputs=True), (), []),
        (ShapeOptions(), (4, 8), [(4, 1), (8, 1)]),
        (ShapeOptions(sequence_buckets=(3,)), (), [(1, 3)]),
        (ShapeOptions(sequence_buckets=(3,), padded_inputs=("ids",)), (), [(1, 3)]),
    ],
)
def test_only_what_the_operator_has_named_is_run(options, sizes, wanted):
    policy = BatchPolicy(max_batch_size=8, allowed_batch_sizes=sizes)
    ran = shapes_run(ids_and_mask(), options, policy)
    assert [shapes["ids"] for shapes in ran] == wanted
    if options.padded_inputs:
        assert [shapes["mask"] for shapes in ran] == [(1, 1)]


def test_it_serves_without_the_rest_once_they_have_taken_too_long(caplog):
    times = iter([0.0, 1.0, SHAPES_LIMIT_S + 1])
    policy = BatchPolicy(max_batch_size=8, allowed_batch_sizes=(1, 2, 8))
    with caplog.at_level(logging.WARNING):
        ran = shapes_run(ids_and_mask(), ShapeOptions(), policy, clock=lambda: next(times))
    assert [shapes["ids"] for shapes in ran] == [(1, 1)]
    assert 'model "m" version 1: 2 of 3 shapes were not run' in caplog.text


def test_a_length_that_a_real_model_refuses_is_told_and_the_others_are_run(tmp_path, caplog):
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "s"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "s"])
    table = numpy_helper.from_array(np.zeros((1, POSITIONS), np.float32), "positions")
    zero, one = (numpy_helper.from_array(np.array([value]), name) for value, name in ((0, "zero"), (1, "one")))
    nodes = [
        helper.make_node("Shape", ["ids"], ["length"], start=1, end=2),
        helper.make_node("Sub", ["length", "one"], ["last"]),
        helper.make_node("Gather", ["positions", "last"], ["position"], axis=1),  # refuses what is past the table
        helper.make_node("Cast", ["ids"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["values", "position"], ["y"]),
    ]
    path = save(helper.make_graph(nodes, "positions", [ids], [out], [table, zero, one]), tmp_path)
    options = ShapeOptions(sequence_buckets=(8, 64, POSITIONS + 64))
    config = ModelConfig("m", path, shapes=options)
    servable = load_servable(config, path)
    try:
        signatures, paddings = plan(options, warm_up_all(servable, None), 8, path)
        with caplog.at_level(logging.WARNING):
            warm_up_shapes(servable, signatures, paddings, config.batch, 'model "m" version 1')
    finally:
        servable.close()
    told = [record.message for record in caplog.records if "it does not run on" in record.message]
    assert [one.split(": ")[1][:59] for one in told] == [
        "it does not run on 1 row of length 64 (sequence_buckets)",
        "it does not run on 1 row of length 80 (sequence_buckets)",
    ]
