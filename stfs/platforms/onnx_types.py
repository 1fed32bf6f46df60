"""What is known of the values of an ONNX graph while its nodes are being written: types, shapes, small constants.

Used where nodes are made or rewritten one by one and the next one depends on the rank or the size of what came before.
Must not live here: what any operator means; ONNX's own inference says it, one node at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stfs.signature import Array, Shape

SMALL = 64
"""Elements of the largest value that is worked out ahead: shapes and scales, never weights."""


class Types:
    """The types of named values. Grown by :meth:`declare`, :meth:`constant` and :meth:`infer`; one thread."""

    def __init__(self, opset: int) -> None:
        import onnx

        self._onnx = onnx
        self._opset = opset
        self._imports = [onnx.helper.make_opsetid("", opset)]
        self._types: dict[str, Any] = {}
        self._known: dict[str, Array] = {}

    def inner(self) -> Types:
        """A copy for the inside of a subgraph, which sees the values around it."""
        copy = Types(self._opset)
        copy._types, copy._known = dict(self._types), dict(self._known)
        return copy

    def declare(self, name: str, type_proto: Any) -> None:
        """``name`` has that ``onnx.TypeProto``."""
        self._types[name] = type_proto

    def constant(self, name: str, value: Array) -> None:
        """``name`` is that array."""
        helper = self._onnx.helper
        self._types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        if value.size <= SMALL:
            self._known[name] = value

    def shape(self, name: str) -> Shape | None:
        """Its shape, ``None`` for a dimension that is not known; ``None`` alone if the rank is not."""
        tensor = self._types[name].tensor_type if name in self._types else None
        if tensor is None or not tensor.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)

    def rank(self, name: str) -> int | None:
        """Its number of dimensions."""
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def dtype(self, name: str) -> np.dtype[Any] | None:
        """Its dtype."""
        kind = self._types[name].tensor_type.elem_type if name in self._types else 0
        return np.dtype(self._onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else None

    def value(self, name: str) -> Array | None:
        """What it holds, where that is small and does not depend on the inputs, or only on their shapes."""
        return self._known.get(name)

    def infer(self, node: Any) -> None:
        """Learn the types of the node's outputs; what cannot be inferred stays unknown.

        Raises ``onnx.shape_inference.InferenceError`` for inputs that do not fit the operator or each other.
        """
        onnx = self._onnx
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
        except onnx.defs.SchemaError:
            return
        inputs = [name for name in node.input if name in self._types]
        if len(inputs) < sum(1 for name in node.input if name):
            return  # inference without an input's type would guess
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            {name: self._types[name] for name in inputs},
            {n: onnx.numpy_helper.from_array(self._known[n], n) for n in inputs if n in self._known},
            opset_imports=self._imports,
        )
        self._types.update((name, kind) for name, kind in found.items() if kind.HasField("tensor_type"))
        self._work_out(node)

    def _work_out(self, node: Any) -> None:
        """The values of outputs that shapes are computed with: a ``Shape``, and integers made of small constants."""
        if node.op_type == "Shape":
            shape = self.shape(node.input[0])
            if shape is not None and None not in shape:
                self._known[node.output[0]] = np.array(shape, np.int64)
            return
        if not all(name in self._known for name in node.input if name) or not self._all_small(node.output):
            return
        from onnx.reference import ReferenceEvaluator

        feed = {name: self._known[name] for name in node.input if name}
        try:
            values = ReferenceEvaluator(self._alone(node)).run(None, feed)
        except Exception:  # the reference lacks an operator, or has other ideas: then the value stays unknown
            return
        self._known.update((n, np.asarray(v)) for n, v in zip(node.output, values, strict=True) if n)

    def _all_small(self, names: Iterable[str]) -> bool:
        shapes = [(self.shape(name), self.dtype(name)) for name in names if name]
        return all(
            shape is not None
            and dtype is not None
            and dtype.kind in "iub"
            and np.prod([SMALL + 1 if d is None else d for d in shape]) <= SMALL
            for shape, dtype in shapes
        )

    def _alone(self, node: Any) -> Any:
        """The node as a model, so that it is evaluated at this opset."""
        helper = self._onnx.helper
        graph = helper.make_graph(
            [node],
            "one_node",
            [helper.make_value_info(name, self._types[name]) for name in dict.fromkeys(node.input) if name],
            [helper.make_value_info(name, self._types[name]) for name in node.output if name],
        )
        return helper.make_model(graph, opset_imports=self._imports)
