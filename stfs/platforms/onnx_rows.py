"""Many rows through an ONNX model that was exported for one. Knows the file's graph, and no session.

Many exporters write the batch of their example, 1, into the file. Where the graph does not depend on it, dimension 0
can be made symbolic. That is a guess, so it counts only once rows run together are seen to give the answers of rows
run alone by the untouched model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stfs.platforms.base import object_array
from stfs.signature import STRING, Array, Signature, Tensors, TensorSpec

Run = Callable[[Mapping[str, Array]], Tensors]

ROWS = 3
GUESS = 8  # a length to try for a dimension that may vary
RTOL, ATOL = 1e-4, 1e-5  # float32 sums in another order


def free_rows(source: Path | bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The model with dimension 0 of ``inputs`` and ``outputs`` symbolic, and one-row reshapes made to follow it.

    ``source`` is its file or its bytes. Blocking. Weights in external files stay there. Raises ``ImportError`` without
    the ``onnx`` package, and whatever that raises for a file that it cannot read or write.
    """
    import onnx

    if isinstance(source, bytes):
        model = onnx.load_model_from_string(source)
    else:
        model = onnx.load(str(source), load_external_data=False)
    graph = model.graph
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name in (*inputs, *outputs) and dims:
            dims[0].dim_param = "stfs_rows"
    del graph.value_info[:]  # shapes noted for one row; onnxruntime infers them anew
    _follow_rows(onnx, graph)
    return bytes(model.SerializeToString())


def _follow_rows(onnx: Any, graph: Any) -> None:
    """``Reshape`` to a constant ``[1, ...]``: the 1 was the batch, unless what is reshaped is a weight."""
    weights = {weight.name for weight in graph.initializer}
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            weights.add(node.output[0])
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    reshapes = [node for node in graph.node if node.op_type == "Reshape" and len(node.input) == 2]
    for i, node in enumerate(reshapes):
        if node.input[0] in weights or node.input[1] not in constants:
            continue
        shape = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
        if not shape or shape[0] != 1:
            continue
        # 0 keeps the first dimension of what is reshaped; -1 stands for what is left, and may stand once.
        shape[0] = 0 if -1 in shape else -1
        name = f"stfs_rows_{i}"
        tensor = onnx.numpy_helper.from_array(np.array(shape, np.int64), name)
        node.input[1] = name
        graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=tensor))


def rows_agree(signature: Signature, alone: Run, together: Run) -> bool:
    """Whether ``together`` gives ``ROWS`` random rows at once the answers that ``alone`` gives them one by one.

    ``signature`` is that of the one-row model. Draws small values and values of a pixel's size; both must agree, and at
    least one must tell the rows apart: a model that answers the same to everything would prove nothing. Raises what
    the runs raise.
    """
    random = np.random.default_rng(0)
    told_apart = False
    for scale in (1.0, 255.0):
        rows = [{spec.name: _draw(spec, scale, random) for spec in signature.inputs} for _ in range(ROWS)]
        want = [alone(row) for row in rows]
        have = together({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
        for spec in signature.outputs:
            expected = [answer[spec.name] for answer in want]
            if any(array.ndim == 0 or len(array) != 1 for array in expected):
                return False
            if not _close(np.concatenate(expected), have[spec.name]):
                return False
            told_apart |= not all(_close(expected[0], array) for array in expected[1:])
    return told_apart


def _draw(spec: TensorSpec, scale: float, random: np.random.Generator) -> Array:
    assert spec.shape is not None
    shape = tuple(GUESS if dim is None else dim for dim in spec.shape)
    if spec.dtype == STRING:
        words = [b"a", b"b", b"the", b"0", b"1.5"]
        return object_array([words[i] for i in random.integers(len(words), size=int(np.prod(shape)))], shape)
    if spec.dtype.kind == "f":
        drawn = random.normal(0, 1, shape) if scale == 1 else random.uniform(0, scale, shape)
        return drawn.astype(spec.dtype)
    return random.integers(0, 2, shape).astype(spec.dtype)  # small enough for any table that they index


def _close(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.kind == "f":
        slack = 8 * float(np.finfo(a.dtype).eps)
        return bool(np.allclose(a, b, max(RTOL, slack), max(ATOL, slack), equal_nan=True))
    return bool(np.array_equal(a, b))
