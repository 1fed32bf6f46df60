"""Requests of unlike length, through real models: each answer is what the framework gives for that request alone."""

import asyncio
import concurrent.futures
import random

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from running import run_cli, running
from simple_models import save, write_linear

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.shape_plan import ShapeOptions, parse_cuts
from stfs.config import ModelConfig
from stfs.errors import InvalidInput, LoadFailed
from stfs.loader import ModelLoader
from stfs.metrics import Metrics

pytestmark = pytest.mark.slow  # real models, servers

PREDICT = "/v1/models/default:predict"
MASKED = {"masks": (("attention_mask", "ids"),), "cuts": parse_cuts("tokens=ids")}


def write_encoder(folder):
    """``ids`` int64 [n, s] and ``attention_mask`` int64 [n, s] in; out ``mean`` [n], of what the mask lets by, and
    ``tokens`` [n, s], each of them less that mean. Padding that is not masked changes all of it."""
    floats, axis = TensorProto.FLOAT, numpy_helper.from_array(np.array([1]), "axis")
    nodes = [
        helper.make_node("Cast", ["ids"], ["values"], to=floats),
        helper.make_node("Cast", ["attention_mask"], ["there"], to=floats),
        helper.make_node("Mul", ["values", "there"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=1),
        helper.make_node("ReduceSum", ["there", "axis"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["average"]),
        helper.make_node("Squeeze", ["average", "axis"], ["mean"]),
        helper.make_node("Sub", ["values", "average"], ["tokens"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "s"]) for name in ("ids", "attention_mask")],
        [
            helper.make_tensor_value_info("mean", floats, ["n"]),
            helper.make_tensor_value_info("tokens", floats, ["n", "s"]),
        ],
        [axis],
    )
    return save(graph, folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def alone(encoder):
    """The framework itself, on one request."""
    session = onnxruntime.InferenceSession(str(encoder))

    def run(ids, mask=None):
        feed = {"ids": ids, "attention_mask": np.ones_like(ids) if mask is None else mask}
        return dict(zip(("mean", "tokens"), session.run(["mean", "tokens"], feed), strict=True))

    return run


def with_model(path, main, batch=None, **shapes):
    """``main(model, metrics)`` on a loaded model, which is closed afterwards."""

    async def run():
        metrics = Metrics()
        loader = ModelLoader(metrics)
        config = ModelConfig("m", path, batch=batch or BatchPolicy(), shapes=ShapeOptions(**shapes), calibrate=False)
        loader.configure([config])
        model = await loader("m", 1, path)
        try:
            return await main(model, metrics)
        finally:
            await model.close()

    return asyncio.run(run())


POLICIES = {
    "largest": {"pad_variable_length_inputs": True},
    "buckets": {"sequence_buckets": (4, 16, 100)},
    "both": {"pad_variable_length_inputs": True, "sequence_buckets": (100,)},
}


@pytest.mark.parametrize("shapes", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("sizes", [(), (4, 16)], ids=["", "allowed sizes"])
def test_a_storm_of_lengths_is_answered_as_one_by_one(encoder, alone, shapes, sizes):
    rng = np.random.default_rng(len(shapes) + len(sizes))

    async def main(model, metrics):
        signature = model.signature(None)

        async def one():
            shape = (40 if rng.random() < 0.03 else int(rng.integers(1, 4)), int(rng.integers(1, 90)))
            ids, mask = rng.integers(-50, 50, shape), None
            inputs = {"ids": ids}
            if rng.random() < 0.3:
                mask = inputs["attention_mask"] = (rng.random(shape) < 0.5).astype(np.int64)
                mask[:, 0] = 1
            got = await model.infer(signature, inputs, None)
            want = alone(ids, mask)
            np.testing.assert_allclose(got["mean"], want["mean"], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(got["tokens"], want["tokens"], rtol=1e-5, atol=1e-5)

        for _ in range(5):
            await asyncio.gather(*(one() for _ in range(60)))
        (count,) = metrics.snapshot().batch_rows.values()
        assert count.count < 150, "300 requests have shared runs"

    with_model(encoder, main, BatchPolicy(16, allowed_batch_sizes=sizes), **shapes, **MASKED)


def test_a_mask_that_is_not_filled_would_show(encoder, alone):
    """The reference for the test above: what padding does to this model where nothing masks it."""
    short = np.array([[4, 6]])
    padded = np.array([[4, 6, 4, 4]])
    assert alone(short)["mean"] != alone(padded)["mean"]


def test_too_long_for_the_buckets_blames_the_request_alone(encoder, alone):
    async def main(model, metrics):
        signature = model.signature(None)
        good, bad = await asyncio.gather(
            model.infer(signature, {"ids": np.array([[1, 2]])}, None),
            model.infer(signature, {"ids": np.ones((1, 9), np.int64)}, None),
            return_exceptions=True,
        )
        np.testing.assert_allclose(good["mean"], [1.5])
        assert isinstance(bad, InvalidInput)
        assert "over 8, the longest of sequence_buckets" in str(bad)

    with_model(encoder, main, sequence_buckets=(4, 8), **MASKED)


def test_without_the_options_requests_of_unlike_length_run_apart(encoder):
    async def main(model, metrics):
        signature = model.signature(None)
        rows = [{"ids": np.ones((1, n), np.int64), "attention_mask": np.ones((1, n), np.int64)} for n in (1, 2, 3)]
        await asyncio.gather(*(model.infer(signature, row, None) for row in rows))
        (count,) = metrics.snapshot().batch_rows.values()
        assert count.count == 3
        with pytest.raises(InvalidInput, match='input "attention_mask": missing'):
            await model.infer(signature, {"ids": np.ones((1, 1), np.int64)}, None)

    with_model(encoder, main)


def test_what_does_not_fit_fails_the_load_and_names_the_file(encoder, tmp_path):
    async def main(model, metrics):
        raise AssertionError("it loaded")

    with pytest.raises(LoadFailed, match=r'model.onnx: ragged_inputs: the model has no input "idz"; it has'):
        with_model(encoder, main, ragged_inputs=("idz",))
    write_linear(tmp_path)
    done = run_cli("serve", str(tmp_path), "--sequence_buckets=8,16", "--port=0", "--host=127.0.0.1")
    assert done.returncode == 2
    assert "sequence_buckets: dimension 1 varies in no input that is padded" in done.stdout + done.stderr


@pytest.mark.parametrize("flags", [[], ["--workers=2", "--engine=shared"]], ids=["one process", "fronts"])
def test_over_http_in_every_form(encoder, alone, flags):
    argv = ["--sequence_buckets=4,8", "--mask_input=attention_mask=ids", "--ragged_inputs=ids", "--pad_value=ids=7"]
    with running(str(encoder), *argv, "--cut_outputs=tokens=ids", *flags) as server:
        lists = [[1, 2, 3], [4]]
        means = [2.0, 4.0]
        rows = server.post(PREDICT, {"instances": [{"ids": row} for row in lists]})
        assert [row["mean"] for row in rows.json["predictions"]] == means
        assert [len(row["tokens"]) for row in rows.json["predictions"]] == [3, 3], "as long as the longest row sent"
        assert server.post(PREDICT, {"inputs": {"ids": lists}}).json["outputs"]["mean"] == means
        assert server.post("/", {"data": {"ids": lists}}).json["mean"] == means
        tensor = {"name": "ids", "shape": [1, 3], "datatype": "INT64", "data": [1, 2, 3]}
        v2 = server.post("/v2/models/default/infer", {"inputs": [tensor]}).json["outputs"]
        assert {one["name"]: one["shape"] for one in v2} == {"mean": [1], "tokens": [1, 3]}
        told = server.get("/v2/models/default/config").json["input"]
        assert {one["name"]: one["optional"] for one in told} == {"ids": False, "attention_mask": True}
        long = server.post(PREDICT, {"instances": [{"ids": [0] * 9}]})
        assert long.status == 400
        assert "over 8, the longest of sequence_buckets" in long.error
        deep = server.post(PREDICT, {"instances": [{"ids": [1]}, {"ids": [[2]]}]})
        assert deep.status == 400
        assert 'input "ids", row 1: shape [1, 1]' in deep.error

        rng = random.Random(1)
        asked = [[rng.randint(-9, 9) for _ in range(rng.randint(1, 8))] for _ in range(160)]

        def ask(ids):
            return server.post(PREDICT, {"inputs": {"ids": [ids]}}).json["outputs"]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for ids, got in zip(asked, pool.map(ask, asked), strict=True):
                want = alone(np.array([ids]))
                np.testing.assert_allclose(got["mean"], want["mean"], rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(got["tokens"], want["tokens"], rtol=1e-5, atol=1e-5)


def test_ragged_lists_are_refused_where_nobody_asked_for_them(encoder):
    with running(str(encoder), "--mask_input=attention_mask=ids") as server:
        refused = server.post(PREDICT, {"inputs": {"ids": [[1, 2], [3]]}})
        assert refused.status == 400
        assert 'input "ids", element [1]' in refused.error


def test_a_saved_model_pads_as_tensorflow_serving_does(tmp_path):
    """With the first element of each request's own tensor, where nothing else is said."""
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

    class Sums(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
        def __call__(self, x):
            return {"doubled": x * 2.0, "sum": tf.reduce_sum(x, axis=1)}

    module = Sums()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.__call__.get_concrete_function())
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    requests = [np.float32([[1, 2, 3]]), np.float32([[5], [6]]), np.float32([[7, 8]])]

    async def ask(model, metrics):
        signature = model.signature(None)
        return await asyncio.gather(*(model.infer(signature, {"x": x}, None) for x in requests)), metrics

    cuts = parse_cuts("doubled=x")
    as_theirs, metrics = with_model(tmp_path / "1", ask, pad_variable_length_inputs=True, cuts=cuts)
    (batches,) = metrics.snapshot().batch_rows.values()
    assert (batches.count, batches.total) == (1, 4)
    padded = np.float32([[1, 2, 3], [5, 5, 5], [6, 5, 5], [7, 8, 7]])
    sums = served(x=tf.constant(padded))["sum"].numpy()
    np.testing.assert_array_equal(np.concatenate([answer["sum"] for answer in as_theirs]), sums)

    with_zeros, _ = with_model(tmp_path / "1", ask, pad_variable_length_inputs=True, cuts=cuts, pad_values=(("", "0"),))
    for x, got in zip(requests, with_zeros, strict=True):
        want = served(x=tf.constant(x))
        np.testing.assert_array_equal(got["sum"], want["sum"].numpy())
        np.testing.assert_array_equal(got["doubled"], want["doubled"].numpy())
