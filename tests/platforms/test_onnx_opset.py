"""ONNX models of opsets 1 to 6 against numpy: what every operator meant then is what is answered now."""

from __future__ import annotations

import modelzoo
import numpy as np
import pytest

from stfs.errors import LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.onnx import OnnxPlatform
from stfs.platforms.onnx_opset import is_old, opset_of
from stfs.platforms.onnx_opset_rules import RULES

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

S = "serving_default"
KINDS = {"float32": 1, "int32": 6, "int64": 7, "bool": 9}
ran: set[str] = set()


def noise(*shape, seed=0, low=None):
    random = np.random.default_rng([seed, *shape])
    drawn = random.normal(size=shape) if low is None else random.uniform(low, low + 1, shape)
    return drawn.astype(np.float32)


def node(kind, inputs, outputs, **attributes):
    ran.add(kind)
    return onnx.helper.make_node(kind, inputs, outputs, **attributes)


def write(path, nodes, inputs, outputs, weights, opset, kind="float32", ir_version=3):
    """A model as exporters wrote it then: weights are inputs as well; dimension 0 of the inputs varies."""
    values = [
        onnx.helper.make_tensor_value_info(n, KINDS[a.dtype.name], ["n", *a.shape[1:]] if a.ndim else [])
        for n, a in inputs.items()
    ]
    values += [onnx.helper.make_tensor_value_info(n, KINDS[a.dtype.name], a.shape) for n, a in weights.items()]
    made = [onnx.helper.make_tensor_value_info(n, KINDS[kind], None) for n in outputs]
    stored = [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "old", values, made, stored),
        opset_imports=[onnx.helper.make_opsetid("", opset)] if opset else None,
        ir_version=ir_version,
    )
    if not opset:
        del model.opset_import[:]
    path.write_bytes(model.SerializeToString())
    return path


def load(path, **options):
    return OnnxPlatform().load(path, LoadOptions(**options))


def answer(tmp_path, nodes, inputs, weights=None, opset=6, outputs=("y",), kind="float32"):
    """The outputs of an old model for ``inputs``, served."""
    path = write(tmp_path / f"model{opset}.onnx", nodes, inputs, outputs, weights or {}, opset, kind)
    assert opset_of(path) == opset
    servable = load(path)
    signature = servable.signatures[S]
    assert [spec.name for spec in signature.inputs] == list(inputs)
    have = servable.run(S, signature.bind(inputs))
    return [have[name] for name in outputs]


BINARY = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power,
    "Equal": np.equal, "Greater": np.greater, "Less": np.less,
    "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor,
}  # fmt: skip


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize(
    ("axis", "shape", "aligned"),
    [
        (None, (2, 3, 4, 5), (2, 3, 4, 5)),
        (None, (5,), (5,)),
        (None, (4, 5), (4, 5)),
        (1, (3,), (3, 1, 1)),
        (1, (3, 4), (3, 4, 1)),
        (-3, (3,), (3, 1, 1)),
        (0, (2, 3), (2, 3, 1, 1)),
        (2, (4, 5), (4, 5)),
        (None, (), ()),
    ],
)
@pytest.mark.parametrize("kind", BINARY)
def test_broadcasting(tmp_path, kind, axis, shape, aligned, opset):
    compares, logical = kind in ("Equal", "Greater", "Less"), kind in ("And", "Or", "Xor")
    x, b = noise(2, 3, 4, 5, low=0.5), np.asarray(noise(*shape, low=0.5))
    if compares:
        x, b = np.round(3 * x), np.round(3 * b)
    if kind == "Equal":
        x, b = x.astype(np.int32), b.astype(np.int32)
    if logical:
        x, b = x > 1, b > 1
    said = {} if shape == x.shape else {"broadcast": 1} | ({} if axis is None else {"axis": axis})
    if opset == 1 and kind in ("Add", "Sub", "Mul", "Div"):
        said["consumed_inputs"] = [0, 0]
    out = "bool" if compares or logical else "float32"
    (have,) = answer(tmp_path, [node(kind, ["x", "b"], ["y"], **said)], {"x": x}, {"b": b}, opset, kind=out)
    np.testing.assert_allclose(have, BINARY[kind](x, b.reshape(aligned)), rtol=1e-5)


def test_broadcasting_of_what_another_node_made(tmp_path):
    x, w = noise(2, 3, 4, 5), noise(3, 3)
    nodes = [
        node("GlobalAveragePool", ["x"], ["pooled"]),
        node("Reshape", ["pooled"], ["flat"], shape=[0, 3]),
        node("Gemm", ["flat", "w", "zero"], ["gate"], broadcast=1),
        node("Mul", ["x", "gate"], ["y"], broadcast=1, axis=0),
    ]
    (have,) = answer(tmp_path, nodes, {"x": x}, {"w": w, "zero": np.zeros(3, np.float32)}, 4)
    np.testing.assert_allclose(have, x * (x.mean((2, 3)) @ w)[:, :, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3)])
@pytest.mark.parametrize("slopes", [1, 3])
def test_prelu(tmp_path, slopes, shape, opset):
    x, slope = noise(*shape), noise(slopes)
    (have,) = answer(tmp_path, [node("PRelu", ["x", "slope"], ["y"])], {"x": x}, {"slope": slope}, opset)
    along = slope.reshape(-1, *[1] * (len(shape) - 2))
    np.testing.assert_allclose(have, np.where(x > 0, x, along * x), rtol=1e-5)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("shape", [(4,), (1, 4), ()])
def test_gemm(tmp_path, shape, opset):
    x, w, c = noise(2, 3), noise(4, 3), np.asarray(noise(*shape))
    op = node("Gemm", ["x", "w", "c"], ["y"], broadcast=1, transB=1, alpha=2.0, beta=0.5)
    (have,) = answer(tmp_path, [op], {"x": x}, {"w": w, "c": c}, opset)
    np.testing.assert_allclose(have, 2 * x @ w.T + 0.5 * c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [1, 4])
def test_reshape(tmp_path, opset):
    x = noise(2, 3, 4)
    (have,) = answer(tmp_path, [node("Reshape", ["x"], ["y"], shape=[0, -1])], {"x": x}, opset=opset)
    np.testing.assert_array_equal(have, x.reshape(2, 12))
    nodes = [node("Reshape", ["x", "s"], ["y"])]
    (have,) = answer(tmp_path, nodes, {"x": x}, {"s": np.array([0, 6, 2])}, opset=5)
    np.testing.assert_array_equal(have, x.reshape(2, 6, 2))


def test_cast(tmp_path):
    x = noise(2, 3) * 9
    (have,) = answer(tmp_path, [node("Cast", ["x"], ["y"], to="INT32")], {"x": x}, opset=1, kind="int32")
    np.testing.assert_array_equal(have, x.astype(np.int32))
    (have,) = answer(tmp_path, [node("Cast", ["x"], ["y"], to=7)], {"x": x}, opset=6, kind="int64")
    np.testing.assert_array_equal(have, x.astype(np.int64))


def test_concat(tmp_path):
    a, b = noise(2, 3, 4), noise(2, 3, 4, seed=1)
    for opset, said, axis in ((1, {}, 1), (1, {"axis": 2}, 2), (4, {"axis": 1}, 1)):
        (have,) = answer(tmp_path, [node("Concat", ["a", "b"], ["y"], **said)], {"a": a, "b": b}, opset=opset)
        np.testing.assert_array_equal(have, np.concatenate([a, b], axis))


@pytest.mark.parametrize("opset", [1, 6])
def test_dropout(tmp_path, opset):
    x = noise(2, 30)
    for said in ({}, {"is_test": 1}):
        nodes = [node("Dropout", ["x"], ["d", "mask"], ratio=0.5, **said), node("Neg", ["d"], ["y"])]
        (have,) = answer(tmp_path, nodes, {"x": x}, opset=opset)
        np.testing.assert_array_equal(have, -x)


@pytest.mark.parametrize("opset", [1, 6])
def test_batch_normalization(tmp_path, opset):
    x = noise(2, 3, 4, 5)
    w = {"scale": noise(3), "bias": noise(3, seed=1), "mean": noise(3, seed=2), "var": noise(3, low=0.5)}
    said = {"consumed_inputs": [0, 0, 0, 1, 1]} if opset == 1 else {}
    op = node("BatchNormalization", ["x", *w], ["y"], is_test=1, epsilon=0.01, spatial=1, **said)
    (have,) = answer(tmp_path, [op], {"x": x}, w, opset)
    scale, bias, mean, var = (v[:, None, None] for v in w.values())
    np.testing.assert_allclose(have, scale * (x - mean) / np.sqrt(var + 0.01) + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [1, 6])
def test_selu(tmp_path, opset):
    x = noise(2, 30)
    defaults = (1.6732, 1.0507) if opset == 1 else (1.67326319217681884765625, 1.05070102214813232421875)
    for said in ({}, {"alpha": 2.0, "gamma": 3.0}):
        (have,) = answer(tmp_path, [node("Selu", ["x"], ["y"], **said)], {"x": x}, opset=opset)
        alpha, gamma = (2, 3) if said else defaults
        np.testing.assert_allclose(have, gamma * np.where(x > 0, x, alpha * (np.exp(x) - 1)), rtol=1e-5)


def test_pad(tmp_path):
    x = noise(2, 3, 4, 5)
    want = np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 3)), constant_values=0.5)
    for opset, name in ((1, "paddings"), (2, "pads")):
        op = node("Pad", ["x"], ["y"], mode="constant", value=0.5, **{name: [0, 0, 1, 2, 0, 0, 0, 3]})
        (have,) = answer(tmp_path, [op], {"x": x}, opset=opset)
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("pads", [[1, 1], [1, 1, 1, 1]])
def test_windows(tmp_path, pads):
    x = noise(2, 3, 6, 6)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 2), axis=(2, 3))[:, :, ::2, ::2]
    inside = np.lib.stride_tricks.sliding_window_view(np.pad(np.ones((6, 6)), 1), (2, 2))[::2, ::2].sum((2, 3))
    low = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf), (2, 2), axis=(2, 3)
    )[:, :, ::2, ::2]
    w = noise(4, 3, 2, 2)
    said = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": pads}
    wants = {
        "MaxPool": low.max((4, 5)),
        "AveragePool": windows.sum((4, 5)) / inside,
        "LpPool": (np.abs(windows) ** 3).sum((4, 5)) ** (1 / 3),
        "Conv": np.einsum("nchwij,mcij->nmhw", windows, w),
    }
    for kind, want in wants.items():
        more = {"p": 3.0} if kind == "LpPool" else {}
        op = node(kind, ["x", "w"] if kind == "Conv" else ["x"], ["y"], **said, **more)
        (have,) = answer(tmp_path, [op], {"x": x}, {"w": w} if kind == "Conv" else {}, opset=1)
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
    x = noise(2, 3, 3, 3)
    (have,) = answer(tmp_path, [node("ConvTranspose", ["x", "w"], ["y"], **said)], {"x": x}, {"w": w[:3]}, opset=1)
    whole = np.zeros((2, 3, 6, 6))
    for i in range(3):
        for j in range(3):
            whole[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += np.einsum("nc,cmij->nmij", x[:, :, i, j], w[:3])
    np.testing.assert_allclose(have, whole[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


def test_global_lp_pool(tmp_path):
    x = noise(2, 3, 4, 5)
    (have,) = answer(tmp_path, [node("GlobalLpPool", ["x"], ["y"], p=3.0)], {"x": x}, opset=1)
    np.testing.assert_allclose(have, (np.abs(x) ** 3).sum((2, 3), keepdims=True) ** (1 / 3), rtol=1e-5)


def test_split(tmp_path):
    x = noise(2, 6)
    cases = (
        (1, {"axis": 1}, {"lengths": np.array([1, 2, 3])}, [1, 3]),
        (1, {"axis": 1, "split": [1, 2, 3]}, {}, [1, 3]),
        (2, {"axis": 1}, {}, [2, 4]),
    )
    for opset, said, weights, cuts in cases:
        op = node("Split", ["x", *weights], ["a", "b", "c"], **said)
        have = answer(tmp_path, [op], {"x": x}, weights, opset, ("a", "b", "c"))
        for part, want in zip(have, np.split(x, cuts, 1), strict=True):
            np.testing.assert_array_equal(part, want)


def test_upsample(tmp_path):
    x = noise(2, 3, 4, 5)
    op = node("Upsample", ["x"], ["y"], height_scale=2.0, width_scale=3.0, mode="nearest")
    (have,) = answer(tmp_path, [op], {"x": x}, opset=1)
    np.testing.assert_array_equal(have, x.repeat(2, 2).repeat(3, 3))
    op = node("Upsample", ["x"], ["y"], height_scale=1.0, width_scale=2.0, mode="bilinear")
    (have,) = answer(tmp_path, [op], {"x": x}, opset=1)
    np.testing.assert_allclose(have[..., ::2], x, rtol=1e-5)  # the places that both images have
    np.testing.assert_allclose(have[..., 1:-1:2], (x[..., 1:] + x[..., :-1]) / 2, rtol=1e-4, atol=1e-6)


def test_tile(tmp_path):
    x = noise(2, 3, 4)
    weights = {"tiles": np.array([2]), "axis": np.array([1])}
    (have,) = answer(tmp_path, [node("Tile", ["x", *weights], ["y"])], {"x": x}, weights, opset=1)
    np.testing.assert_array_equal(have, np.tile(x, (1, 2, 1)))
    (have,) = answer(tmp_path, [node("Tile", ["x", "r"], ["y"])], {"x": x}, {"r": np.array([1, 1, 3])}, opset=6)
    np.testing.assert_array_equal(have, np.tile(x, (1, 1, 3)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrent(kind, x, w, r, b):
    """One direction over the time steps in dimension 0, as ONNX describes it; gates in ONNX's order."""
    hidden = r.shape[-1]
    h = c = np.zeros((x.shape[1], hidden))
    steps = []
    wb, rb = b[: len(w)], b[len(w) :]
    for step in x:
        if kind == "RNN":
            h = np.tanh(step @ w.T + h @ r.T + wb + rb)
        elif kind == "GRU":
            wz, wr, wh = np.split(step @ w.T + wb, 3, 1)
            rz, rr, rh = np.split(r, 3)
            bz, br, bh = np.split(rb, 3)
            z, reset = sigmoid(wz + h @ rz.T + bz), sigmoid(wr + h @ rr.T + br)
            h = (1 - z) * np.tanh(wh + (reset * h) @ rh.T + bh) + z * h
        else:
            i, o, f, g = np.split(step @ w.T + h @ r.T + wb + rb, 4, 1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        steps.append(h)
    return np.stack(steps)[:, None], h[None]


@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent(tmp_path, kind, gates):
    x = noise(5, 2, 3)
    w, r, b = noise(1, 4 * gates, 3), noise(1, 4 * gates, 4), noise(1, 8 * gates)
    op = node(kind, ["x", "w", "r", "b"], ["y", "h"], hidden_size=4, output_sequence=1)
    opset = 1 if kind == "LSTM" else 6
    have = answer(tmp_path, [op], {"x": x}, {"w": w, "r": r, "b": b}, opset, ("y", "h"))
    for got, want in zip(have, recurrent(kind, x, w[0], r[0], b[0]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_every_rule_is_tested():
    """Must come after the tests above; alone it has nothing to say."""
    if len(ran) < 10:
        pytest.skip("the tests of the rules did not run")
    assert set(RULES) <= ran


CONSUMING = {
    "Abs": np.abs, "Ceil": np.ceil, "Floor": np.floor, "Exp": np.exp, "Neg": np.negative, "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0), "Sigmoid": sigmoid, "Reciprocal": lambda x: 1 / x,
    "LeakyRelu": lambda x: np.where(x > 0, x, 0.01 * x), "Elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONSUMING)
def test_hints_about_memory_are_dropped(tmp_path, kind):
    x = noise(2, 9)
    (have,) = answer(tmp_path, [node(kind, ["x"], ["y"], consumed_inputs=[0])], {"x": x}, opset=1)
    np.testing.assert_allclose(have, CONSUMING[kind](x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "compute"), [("Sum", np.sum), ("Max", np.max), ("Min", np.min), ("Mean", np.mean)])
def test_several_inputs(tmp_path, kind, compute):
    arrays = {f"x{i}": noise(2, 3, seed=i) for i in range(3)}
    (have,) = answer(tmp_path, [node(kind, list(arrays), ["y"], consumed_inputs=[0, 0, 0])], arrays, opset=1)
    np.testing.assert_allclose(have, compute(np.stack(list(arrays.values())), axis=0), rtol=1e-5)


def test_clip_and_instance_normalization(tmp_path):
    x, scale, bias = noise(2, 3, 4, 5), noise(3), noise(3, seed=1)
    op = node("Clip", ["x"], ["y"], min=-0.5, max=0.25, consumed_inputs=[0])
    (have,) = answer(tmp_path, [op], {"x": x}, opset=1)
    np.testing.assert_allclose(have, np.clip(x, -0.5, 0.25), rtol=1e-6)
    op = node("InstanceNormalization", ["x", "scale", "bias"], ["y"], epsilon=0.01, consumed_inputs=[0, 0, 0])
    (have,) = answer(tmp_path, [op], {"x": x}, {"scale": scale, "bias": bias}, opset=1)
    normal = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 0.01)
    np.testing.assert_allclose(have, scale[:, None, None] * normal + bias[:, None, None], rtol=1e-4, atol=1e-5)


def test_experimental_operators_stay(tmp_path):
    x = noise(2, 3, 4, 5)
    nodes = [
        node("ImageScaler", ["x"], ["s"], scale=2.0, bias=[1.0, 2.0, 3.0]),
        node("Add", ["s", "b"], ["y"], broadcast=1, axis=2),
    ]
    b = noise(4, 5)
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], {"b": b}, 1)
    # Its output has a rank that ONNX cannot tell, so an axis on it cannot be placed: said, not guessed.
    with pytest.raises(LoadFailed, match=r'Add \(node 2, "y"\): the number of dimensions of "s" is not known'):
        load(path)
    (have,) = answer(tmp_path, [nodes[0], node("Neg", ["s"], ["y"])], {"x": x}, opset=1)
    np.testing.assert_allclose(have, -(2 * x + np.array([1, 2, 3], np.float32)[:, None, None]), rtol=1e-5)


def test_the_inside_of_a_branch(tmp_path):
    def branch(name, bias):
        made = onnx.helper.make_node("Add", ["x", bias], [name], broadcast=1, axis=1)
        value = onnx.helper.make_tensor_value_info(name, 1, None)
        return onnx.helper.make_graph([made], name, [], [value])

    x, a, b = noise(2, 3, 4), noise(3), noise(3, seed=1)
    op = node("If", ["flag"], ["y"], then_branch=branch("t", "a"), else_branch=branch("e", "b"))
    path = write(tmp_path / "m.onnx", [op], {"x": x, "flag": np.array(True)}, ["y"], {"a": a, "b": b}, 6)
    servable = load(path)
    for flag, bias in ((True, a), (False, b)):
        have = servable.run(S, {"x": x, "flag": np.array(flag)})["y"]
        np.testing.assert_allclose(have, x + bias[:, None], rtol=1e-5)


def old_digits(path, rows="n", opset=3):
    """A net as PyTorch exported them in 2017, and what it answers."""
    w = {"2": noise(4, 1, 5, 5), "3": noise(4), "4": noise(10, 4 * 12 * 12), "5": noise(10)}
    nodes = [
        node(
            "Conv", ["1", "2"], ["6"], kernel_shape=[5, 5], strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1], group=1
        ),
        node("Add", ["6", "3"], ["7"], broadcast=1, axis=1),
        node("MaxPool", ["7"], ["8"], kernel_shape=[2, 2], pads=[0, 0], strides=[2, 2]),
        node("Relu", ["8"], ["9"]),
        node("Reshape", ["9"], ["10"], shape=[-1, 576]),
        node("Transpose", ["4"], ["11"], perm=[1, 0]),
        node("Gemm", ["10", "11", "5"], ["12"], alpha=1.0, beta=1.0, broadcast=1),
        node("Dropout", ["12"], ["13", "14"], is_test=1, ratio=0.5),
        node("LogSoftmax", ["13"], ["15"], axis=1),
    ]
    write(path, nodes, {"1": noise(1, 1, 28, 28)}, ["15"], w, opset)
    model = onnx.load(str(path))
    if rows == 1:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        dims = model.graph.output[0].type.tensor_type.shape
        dims.dim.add(dim_value=1)
        dims.dim.add(dim_value=10)
    path.write_bytes(model.SerializeToString())

    def expected(images):
        windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (5, 5), axis=(2, 3))
        x = np.einsum("nchwij,mcij->nmhw", windows, w["2"]) + w["3"][:, None, None]
        x = np.maximum(x.reshape(len(x), 4, 12, 2, 12, 2).max((3, 5)), 0)
        x = x.reshape(len(x), 576) @ w["4"].T + w["5"]
        x = x - x.max(1, keepdims=True)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    return expected


@pytest.mark.parametrize("rows", ["n", 1])
def test_a_whole_net(tmp_path, rows):
    expected = old_digits(tmp_path / "onnx_model.proto", rows)
    servable = load(tmp_path)
    signature = servable.signatures[S]
    assert signature.batchable  # also where the file has a batch of one
    assert [(s.name, s.shape) for s in signature.inputs] == [("1", (None, 1, 28, 28))]
    images = noise(5, 1, 28, 28)
    have = servable.run(S, {"1": images})["15"]
    np.testing.assert_allclose(have, expected(images), rtol=1e-3, atol=1e-3)
    for i in range(5):
        np.testing.assert_allclose(servable.run(S, {"1": images[i : i + 1]})["15"][0], have[i], rtol=1e-4, atol=1e-4)


def test_weights_in_another_file(tmp_path):
    expected = old_digits(tmp_path / "inline.onnx")
    model = onnx.load(str(tmp_path / "inline.onnx"))
    (tmp_path / "apart").mkdir()
    path = tmp_path / "apart" / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=1000)
    images = noise(2, 1, 28, 28)
    np.testing.assert_allclose(load(path).run(S, {"1": images})["15"], expected(images), rtol=1e-3, atol=1e-3)


def test_a_name_that_is_taken(tmp_path):
    x, b = noise(2, 3, 4), noise(3)
    nodes = [
        node("Relu", ["x"], ["y_aligned"]),
        node("Add", ["y_aligned", "b"], ["y"], broadcast=1, axis=1),
    ]
    (have,) = answer(tmp_path, nodes, {"x": x}, {"b": b})
    np.testing.assert_allclose(have, np.maximum(x, 0) + b[:, None], rtol=1e-6)


REFUSED = [
    ([("BatchNormalization", "xsbmv", ["y", "m2"], {})], 'BatchNormalization (node 1, "y"): it is in its training'),
    ([("Add", "xs", ["y"], {"broadcast": 1, "axis": 3})], 'Add (node 1, "y"): 1 dimensions do not lie on 3'),
    ([("Relu", "x", ["r"], {}), ("Cast", "r", ["y"], {"to": "QUATERNION"})], 'Cast (node 2, "y"): it casts'),
    ([("LpPool", "x", ["y"], {"p": 2.5, "kernel_shape": [2]})], "its p 2.5 is not a whole number"),
    ([("Upsample", "x", ["y"], {"mode": "nearest"})], "neither scales nor height_scale"),
    ([("Tile", "xnn", ["y"], {})], "tiles depends on the values of the request"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "reason"), REFUSED)
def test_what_cannot_be_upgraded(tmp_path, nodes, reason):
    made = [onnx.helper.make_node(kind, list(takes), gives, **said) for kind, takes, gives, said in nodes]
    weights = {name: noise(3) for name in "sbmv"}
    inputs = {"x": noise(2, 3, 4), "n": np.ones(1, np.int64)}
    path = write(tmp_path / "model.onnx", made, inputs, ["y"], weights, 1)
    with pytest.raises(LoadFailed) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be upgraded from opset 1 to 7: ")
    assert reason in message
    assert "\n" not in message


def test_a_model_that_does_not_run_even_then(tmp_path):
    path = write(tmp_path / "m.onnx", [onnx.helper.make_node("Quux", ["x"], ["y"])], {"x": noise(1, 2)}, ["y"], {}, 3)
    with pytest.raises(LoadFailed, match=r"m\.onnx: after its upgrade to opset 7: .*Quux"):
        load(path)


def test_without_the_onnx_package(tmp_path, python):
    old_digits(tmp_path / "model.onnx")
    code = """
import sys
sys.modules["onnx"] = None
from pathlib import Path
from stfs.errors import LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.onnx import OnnxPlatform
try:
    OnnxPlatform().load(Path(sys.argv[1]), LoadOptions())
except LoadFailed as error:
    print(error)
"""
    told = python(code, tmp_path)
    assert f"{tmp_path / 'model.onnx'}: is of opset 3, and onnxruntime " in told
    assert "runs 7 and newer: run pip install onnx" in told


@pytest.mark.parametrize("opset", range(1, 8))
def test_what_opset_a_file_is_of(tmp_path, opset):
    path = write(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], {"x": noise(1, 2)}, ["y"], {}, opset)
    assert opset_of(path) == opset
    assert is_old(path) == (opset < 7)


def test_files_that_do_not_say_or_are_none(tmp_path):
    path = write(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], {"x": noise(2, 2)}, ["y"], {}, 0, ir_version=2)
    assert opset_of(path) == 1
    assert load(path).run(S, {"x": np.array([[-1, 1]], np.float32)})["y"].tolist() == [[0, 1]]
    model = onnx.load(str(path))
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    path.write_bytes(model.SerializeToString())
    assert opset_of(path) == 1
    for content in (
        b"",
        b"hello, this is not a model",
        b"\xff" * 50,
        path.read_bytes()[:30],
        model.graph.SerializeToString(),
    ):
        (tmp_path / "other").write_bytes(content)
        assert not is_old(tmp_path / "other")
    assert opset_of(tmp_path / "gone") is None
    assert opset_of(tmp_path) is None


@pytest.mark.parametrize("opset", [3, 17])
def test_files_that_are_cut_off(tmp_path, opset):
    """Refused at whatever length, and never taken for a file of another opset."""
    path = tmp_path / "model.onnx"
    if opset == 3:
        b = noise(3)
        write(path, [node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)], {"x": noise(2, 3, 4)}, ["y"], {"b": b}, 3)
    else:
        model = onnx.load(str(modelzoo.onnx_mlp(tmp_path)))
        del model.opset_import[1:]  # it says, and does not need, what ai.onnx.ml it uses
        path.write_bytes(model.SerializeToString())
    whole = path.read_bytes()
    told = []
    for length in (*range(0, len(whole) - 60, 7), *range(len(whole) - 60, len(whole))):
        path.write_bytes(whole[:length])
        with pytest.raises(LoadFailed) as caught:
            load(path)
        told.append(str(caught.value))
    assert all(message.startswith(f"{path}: ") and "\n" not in message for message in told)
    assert any("is damaged, or not an ONNX model" in message for message in told)


def test_versions_that_are_too_new(tmp_path):
    import onnxruntime

    path = modelzoo.onnx_mlp(tmp_path)
    model = onnx.load(str(path))
    model.opset_import[0].version = 999
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LoadFailed) as caught:
        load(path)
    assert f"{path}: Opset 999 is newer than " in str(caught.value)
    assert f"the newest that onnxruntime {onnxruntime.__version__} knows: upgrade onnxruntime" in str(caught.value)
    model.opset_import[0].version = 17
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LoadFailed) as caught:
        load(path)
    assert f"{path}: IR version 99 is newer than " in str(caught.value)
    assert f"onnxruntime {onnxruntime.__version__}" in str(caught.value)
