"""Caffe2 models: a pair of nets, converted to ONNX in memory and run by onnxruntime.

Owns finding the files and what the inputs look like, which the nets do not say. Converting is told in
:mod:`stfs.platforms.caffe2_ops`, running in :mod:`stfs.platforms.onnx`. Caffe2 itself is not needed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import LoadFailed, PlatformMissing
from stfs.platforms.base import LoadOptions, Platform, one_line
from stfs.platforms.caffe2_ops import Converted, convert, net_inputs
from stfs.platforms.caffe2_proto import Net, net_pairs, read_net
from stfs.platforms.onnx import OnnxServable, load_graph
from stfs.platforms.onnx_names import Names
from stfs.platforms.sidecar import example_sidecar, find_sidecar
from stfs.signature import Shape, TensorSpec

VALUE_INFO = "value_info.json"

# Numbers of ONNX's TensorProto.DataType: the tool that writes value_info.json is made for ONNX.
VALUE_INFO_DTYPES: Mapping[int, str] = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64",
}  # fmt: skip

LIKELY_SIZES = (28, 32, 224, 227, 299, 64, 96, 128, 256)
"""Heights and widths of images to try for the example in a message, commonest first."""

MOST_TRIED = 5_000_000
"""Weights of the largest model that sizes are tried with."""

logger = logging.getLogger(__name__)


class Caffe2Platform(Platform):
    """``init_net.pb`` and ``predict_net.pb`` in a folder, with ``value_info.json`` or a signature file beside them.

    The names may have a prefix (``squeezenet_init_net.pb``), and end in ``.pbtxt`` where they are text.
    """

    name = "caffe2"
    extra = "caffe2"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`."""
        return bool(net_pairs(path))

    def load(self, path: Path, options: LoadOptions) -> Caffe2Servable:
        """See :meth:`Platform.load`.

        The inputs' names, dtypes and shapes are those of the signature file, else of ``value_info.json``; the outputs
        those of the signature file, if it lists any, else the net's own. ``options`` mean what they mean for ONNX.
        """
        try:
            import onnx  # noqa: F401 - like the others, so that its absence is told now
            import onnxruntime  # noqa: F401
            from google.protobuf import descriptor_pb2  # noqa: F401
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        init, predict = (read_net(file) for file in _pair(path))
        source, inputs, outputs = _described(predict, options)
        if not outputs:
            raise LoadFailed(
                f"{predict.path}: names no outputs, so it may be cut off; "
                "if it is whole, list its outputs in a signature file"
            )
        if source is None:
            inputs = _inferred(init, predict, outputs)
        else:
            _check(source, inputs, net_inputs(init, predict, outputs), predict)
        return self._open(init, predict, inputs, outputs, options)

    def _open(
        self, init: Net, predict: Net, inputs: Sequence[TensorSpec], outputs: Sequence[str], options: LoadOptions
    ) -> Caffe2Servable:
        """Converted for one row, which then is made any number; as it was described only where that does not work.

        Caffe2 takes any number of rows, and the one that is described is no more than what an example had.
        """

        def opened(rows: int | None) -> Caffe2Servable:
            sized = [replace(s, shape=_sized(s, rows)) for s in inputs]
            converted = convert(init, predict, sized, outputs)
            names = Names(outputs={name: blob for name, blob in converted.outputs.items() if name != blob})
            content = _bytes(predict, converted)
            return load_graph(self, predict.path, options, content, Caffe2Servable, lambda _: names)

        described = {s.shape[0] if s.shape else None for s in inputs}
        if len(described) > 1 or described <= {None, 1}:
            return opened(None)
        try:
            servable = opened(1)
            if servable.signature.batchable:
                return servable
            servable.close()
        except LoadFailed as error:
            logger.info("%s: does not take one row: %s", predict.path, error)
        return opened(None)


class Caffe2Servable(OnnxServable):
    """The net as an onnxruntime session. Output blobs keep their names."""

    platform = Caffe2Platform.name


def _pair(path: Path) -> tuple[Path, Path]:
    pairs = net_pairs(path)
    if not pairs:
        raise LoadFailed(f"{path}: no pair of nets: a Caffe2 model is init_net.pb and predict_net.pb in one folder")
    if len(pairs) > 1:
        told = " and ".join(predict.name for _, predict in pairs)
        raise LoadFailed(f"{path}: which is the model, {told}? Give each a folder of its own")
    return pairs[0]


def _described(predict: Net, options: LoadOptions) -> tuple[Path | None, Sequence[TensorSpec], Sequence[str]]:
    """The file that describes the inputs, if there is one, what it says of them, and the outputs to compute."""
    folder = predict.path.parent
    outputs = predict.external_outputs
    named = options.signature_file
    prefix = predict.path.stem.rpartition("_net")[0].rpartition("_")[0]
    if named is None or named.name != VALUE_INFO:
        sidecar = find_sidecar(folder, options, prefix) if prefix else find_sidecar(folder, options)
        if sidecar is not None:
            return sidecar.path, sidecar.inputs, [s.name for s in sidecar.outputs] or outputs
        named = next((f for f in (folder / f"{prefix}_{VALUE_INFO}", folder / VALUE_INFO) if f.is_file()), None)
    return (None, (), outputs) if named is None else (named, read_value_info(named), outputs)


def read_value_info(path: Path) -> tuple[TensorSpec, ...]:
    """The inputs in a ``value_info.json``: ``{"data": [1, [1, 3, 224, 224]]}``, the 1 being ONNX's number for float32.

    Raises :class:`LoadFailed` naming the file, the input and what was wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadFailed(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LoadFailed(f"{path}: is not JSON: {error}") from None
    if not isinstance(content, dict) or not content:
        raise LoadFailed(f'{path}: must be an object such as {{"data": [1, [1, 3, 224, 224]]}}')
    return tuple(_value_info(path, name, entry) for name, entry in content.items())


def _value_info(path: Path, name: str, entry: Any) -> TensorSpec:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], list):
        raise LoadFailed(f'{path}: "{name}" must be a number for the dtype and a shape: [1, [1, 3, 224, 224]]')
    number, shape = entry
    if type(number) is not int or number not in VALUE_INFO_DTYPES:
        raise LoadFailed(f'{path}: "{name}": {number!r} is no dtype; 1 is float32, 6 int32, 7 int64')
    if not all(d is None or (type(d) is int and d >= -1) for d in shape):
        raise LoadFailed(f'{path}: "{name}": its shape must be a list of sizes, not {shape!r}')
    return TensorSpec(name, np.dtype(VALUE_INFO_DTYPES[number]), tuple(None if d in (None, -1) else d for d in shape))


def _check(source: Path, inputs: Sequence[TensorSpec], needed: Sequence[str], predict: Net) -> None:
    """Whether what ``source`` says of the inputs can be meant for this net."""
    read = {name for op in predict.operators for name in op.inputs}
    for spec in inputs:
        if spec.name not in read and spec.name not in predict.external_outputs:
            told = ", ".join(f'"{name}"' for name in needed)
            raise LoadFailed(f'{source}: "{spec.name}" is no input of {predict.path.name}, which takes {told}')
        if spec.shape is None or any(d is None for d in spec.shape[1:]):
            raise LoadFailed(
                f'{source}: "{spec.name}" has shape {spec.describe_shape()}, '
                "but only the first dimension of a Caffe2 input may vary: say the sizes of the others"
            )
        if spec.dtype.kind not in "biuf":
            raise LoadFailed(f'{source}: "{spec.name}" is of dtype {spec.dtype_name}, which cannot be served')


def _sized(spec: TensorSpec, rows: int | None) -> Shape | None:
    """The shape with ``rows`` rows; with as many as it says, one where it does not, for ``None``."""
    if not spec.shape:
        return spec.shape
    return (rows or spec.shape[0] or 1, *spec.shape[1:])


def _bytes(predict: Net, converted: Converted) -> bytes:
    try:
        return bytes(converted.model.SerializeToString())
    except Exception as error:  # protobuf's errors differ in kind between its implementations
        raise LoadFailed(f"{predict.path}: is too large for ONNX, which holds 2 GB: {one_line(error)}") from error


def _inferred(init: Net, predict: Net, outputs: Sequence[str]) -> Sequence[TensorSpec]:
    """The inputs, where the weights that meet them leave no choice; else an error with an example to fill in."""
    names = net_inputs(init, predict, outputs)
    shapes = {name: _features(init, predict, name) for name in names}
    specs = [TensorSpec(name, np.dtype("float32"), shapes[name]) for name in names]
    if names and all(shapes.values()):
        return specs
    example = [s if s.shape else replace(s, shape=_example(init, predict, s, specs, outputs)) for s in specs]
    shown = json.dumps({s.name: [1, [d or 1 for d in s.shape or ()]] for s in example})
    made = [TensorSpec(name, np.dtype("float32"), None) for name in outputs]
    raise LoadFailed(
        f"{predict.path}: the nets do not say what shape the input has: write it into {VALUE_INFO} beside them, "
        f"such as {shown}, or into signature.json, such as {example_sidecar(example, made)}"
    )


def _weight_shape(init: Net, name: str) -> list[int]:
    return next((op.args.integers("shape") for op in init.operators if name in op.outputs), [])


def _readers(predict: Net, name: str) -> list[Any]:
    return [op for op in predict.operators if name in op.inputs]


def _features(init: Net, predict: Net, name: str) -> Shape | None:
    """Rows of as many numbers as the fully connected layer that reads them has weights for; else ``None``."""
    readers = _readers(predict, name)
    if len(readers) != 1 or readers[0].type != "FC" or "axis" in readers[0].args or "axis_w" in readers[0].args:
        return None
    weights = _weight_shape(init, readers[0].inputs[1])
    return (None, weights[1]) if len(weights) == 2 and readers[0].inputs[0] == name else None


def _example(init: Net, predict: Net, spec: TensorSpec, specs: Sequence[TensorSpec], outputs: Sequence[str]) -> Shape:
    """A shape for the message: that of an image with as many channels as the first convolution takes."""
    conv = next((op for op in _readers(predict, spec.name) if op.type.startswith("Conv")), None)
    weights = _weight_shape(init, conv.inputs[1]) if conv is not None else []
    if conv is None or len(weights) != 4:
        return (None, 3, 224, 224)
    last = conv.args.text("order", "NCHW") == "NHWC"
    channels = weights[3] if last else weights[1] * conv.args.integer("group", 1)

    def image(size: int) -> Shape:
        return (None, size, size, channels) if last else (None, channels, size, size)

    numbers = sum(int(np.prod(op.args.integers("shape"))) for op in init.operators)
    if len(specs) == 1 and numbers < MOST_TRIED:
        for size in LIKELY_SIZES:
            try:
                converted = convert(
                    init, predict, [replace(spec, shape=_sized(replace(spec, shape=image(size)), 1))], outputs
                )
            except LoadFailed:
                continue
            shapes = [value.type.tensor_type.shape.dim for value in converted.model.graph.output]
            if all(dims and dims[0].dim_value == 1 for dims in shapes):
                return image(size)
    return image(224)
