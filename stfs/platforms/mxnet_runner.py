"""Runs an MXNet graph for inputs of any shape: owns its executors. Knows no files, signatures or names of outputs."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from stfs.errors import InvalidRequest, ModelFailed
from stfs.platforms.mxnet_capi import MOST_ITEMS, Executor, Library, MxnetError, NdArray, Symbol
from stfs.signature import Array, TensorSpec

MOST_ROWS = 256
"""Rows of one run; more are run in pieces. So many rows cost what rows cost: larger runs would save nothing."""
MOST_EXECUTORS = 16

Shapes = tuple[tuple[int, ...], ...]


class Runner:
    """A graph with its parameters, and an executor for each set of input shapes in use, the last 16 of them.

    An executor has its own inputs, outputs and working memory, and a lock; the parameters are shared by all. Any
    thread may call, several at once.
    """

    def __init__(
        self, library: Library, symbol: Symbol, parameters: Mapping[str, NdArray], inputs: Sequence[TensorSpec]
    ) -> None:
        """``parameters`` are the tensors by the symbol's names; arguments that are neither there nor inputs are labels.

        Labels belong to losses, which do not look at them when a model is served: they are given zeros.
        """
        self._library = library
        self._symbol = symbol
        self._parameters = parameters
        self._inputs = inputs
        given = {*parameters, *(spec.name for spec in inputs)}
        self._labels = [name for name in symbol.arguments if name not in given]
        self._executors: OrderedDict[Shapes, _Bound] = OrderedDict()
        self._lock = threading.Lock()  # runs come from any thread, and this guards the table

    def output_kinds(self, shapes: Sequence[tuple[int, ...]]) -> list[NdArray]:
        """The output tensors for inputs of these shapes, in the symbol's order, for their dtypes and shapes.

        Raises :class:`MxnetError` if the graph does not take them.
        """
        return self._bound(tuple(shapes)).executor.outputs

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs in the symbol's order; blocking.

        Raises :class:`InvalidRequest` for shapes that the graph does not take and :class:`ModelFailed` otherwise.
        """
        try:
            bound = self._bound(tuple(inputs[spec.name].shape for spec in self._inputs))
        except MxnetError as error:
            shapes = ", ".join(f'"{name}" {list(array.shape)}' for name, array in inputs.items())
            raise InvalidRequest(f"the model does not take inputs of these shapes, {shapes}: {error}") from error
        try:
            return bound.run(inputs)
        except MxnetError as error:
            raise ModelFailed(f"MXNet: {error}") from error

    def run_rows(self, inputs: Mapping[str, Array], rows: int) -> list[Array]:
        """:meth:`run` for independent rows along dimension 0, any number of them.

        They are padded with zeros to the next power of two, so that few executors serve every number of rows.
        """
        if rows > MOST_ROWS:
            pieces = []
            for start in range(0, rows, MOST_ROWS):
                piece = {name: array[start : start + MOST_ROWS] for name, array in inputs.items()}
                pieces.append(self.run_rows(piece, min(MOST_ROWS, rows - start)))
            return [np.concatenate(column) for column in zip(*pieces, strict=True)]
        bucket = 1 << max(rows - 1, 0).bit_length()
        if bucket == rows:
            return self.run(inputs)
        padded = {name: np.zeros((bucket, *array.shape[1:]), array.dtype) for name, array in inputs.items()}
        for name, array in inputs.items():
            padded[name][:rows] = array
        return [output[:rows] for output in self.run(padded)]

    def close(self) -> None:
        """Lets go of the executors and parameters, which frees them; to be called once no run is under way."""
        self._executors.clear()
        self._parameters = {}

    def _bound(self, shapes: Shapes) -> _Bound:
        with self._lock:
            found = self._executors.get(shapes)
            if found is None:
                found = self._executors[shapes] = self._bind(shapes)
                if len(self._executors) > MOST_EXECUTORS:
                    self._executors.popitem(last=False)  # freed when the last run that holds it ends
            self._executors.move_to_end(shapes)
            return found

    def _bind(self, shapes: Shapes) -> _Bound:
        if any(dim == 0 for shape in shapes for dim in shape):
            raise MxnetError("there are no elements in it")  # a size of 0 means unknown to MXNet
        if any(math.prod(shape) > MOST_ITEMS for shape in shapes):
            raise MxnetError("it has more elements than this build of MXNet takes")
        inputs = {
            spec.name: NdArray.of(self._library, np.zeros(shape, spec.dtype))
            for spec, shape in zip(self._inputs, shapes, strict=True)
        }
        fixed = {name: self._parameters[name].shape for name in self._symbol.arguments if name in self._parameters}
        inferred = self._symbol.infer_shapes({**fixed, **{name: array.shape for name, array in inputs.items()}})
        labels = {}
        for name in self._labels:
            shape = inferred[name]
            if shape is None:
                raise MxnetError(f'the shape of "{name}" does not follow from the inputs: list it in a signature file')
            labels[name] = NdArray.of(self._library, np.zeros(shape, np.float32))
        tensors = {**self._parameters, **labels, **inputs}
        arguments = [tensors[name] for name in self._symbol.arguments]
        states = [tensors[name] for name in self._symbol.states]
        return _Bound(Executor(self._library, self._symbol, arguments, states), inputs)


class _Bound:
    """An executor and its input tensors; from writing the inputs to reading the outputs it is one thread's."""

    def __init__(self, executor: Executor, inputs: Mapping[str, NdArray]) -> None:
        self.executor = executor
        self._inputs = inputs
        self._lock = threading.Lock()

    def run(self, values: Mapping[str, Array]) -> list[Array]:
        with self._lock:
            for name, tensor in self._inputs.items():
                tensor.write(np.ascontiguousarray(values[name]))
            return self.executor.run()
