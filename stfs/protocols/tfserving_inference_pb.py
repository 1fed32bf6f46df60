"""TensorFlow Serving's gRPC dialect: Classify, Regress and MultiInference as bytes.

All three carry ``tf.Example`` messages, which stay as they came: the model's own graph parses them. Source:
``apis/input.proto``, ``classification.proto``, ``regression.proto`` and ``inference.proto`` of tensorflow/serving.
Must not live here: which signatures may be called so, and what their outputs must be (``tfserving_results``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stfs.errors import InvalidRequest
from stfs.protocols import wire
from stfs.protocols.tfserving_pb import ModelSpec, decode_spec
from stfs.protocols.tfserving_results import FLOAT, classifications, regressions
from stfs.protocols.wire import LEN, Span
from stfs.signature import CLASSIFY, REGRESS, STRING, Array

_FLOAT_FIELD = 2 << 3 | wire.FIXED32
_VALUE_FIELD = 1 << 3 | wire.FIXED32


@dataclass(frozen=True, slots=True)
class ExamplesRequest:
    """A decoded ``ClassificationRequest`` or ``RegressionRequest``. ``serialized``: ``[rows]`` of ``bytes``, some."""

    spec: ModelSpec
    serialized: Array


@dataclass(frozen=True, slots=True)
class Task:
    """A part of a ``MultiInferenceRequest``: a signature, and ``CLASSIFY`` or ``REGRESS``."""

    spec: ModelSpec
    method_name: str


@dataclass(frozen=True, slots=True)
class MultiRequest:
    """A decoded ``MultiInferenceRequest``: what is asked of the same examples, of one model."""

    tasks: tuple[Task, ...]
    serialized: Array


def decode_examples(data: bytes) -> ExamplesRequest:
    """Either request: the two have the same fields. Raises :class:`InvalidRequest`."""
    specs: list[Span] = []
    inputs: list[Span] = []
    for number, kind, begin, end in wire.fields(data, (0, len(data))):
        if kind == LEN and number in (1, 2):
            (specs if number == 1 else inputs).append((begin, end))
    return ExamplesRequest(decode_spec(data, specs), _examples(data, inputs))


def decode_multi(data: bytes) -> MultiRequest:
    """Raises :class:`InvalidRequest`, also for tasks that do not go together."""
    tasks: list[Task] = []
    inputs: list[Span] = []
    for number, kind, begin, end in wire.fields(data, (0, len(data))):
        if number == 1 and kind == LEN:
            tasks.append(_task(data, (begin, end)))
        elif number == 2 and kind == LEN:
            inputs.append((begin, end))
    if not tasks:
        raise InvalidRequest("a MultiInferenceRequest needs tasks")
    if len({task.spec.name for task in tasks}) > 1:
        raise InvalidRequest("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    if len({(task.spec.version, task.spec.label) for task in tasks}) > 1:
        raise InvalidRequest("All ModelSpecs in a MultiInferenceRequest must access the same version.")
    seen: set[str] = set()
    for task in tasks:
        name = task.spec.signature_name
        if name in seen:
            raise InvalidRequest(f"Duplicate evaluation of signature: {name or 'serving_default'}")
        seen.add(name)
    return MultiRequest(tuple(tasks), _examples(data, inputs))


def encode_classification(spec: bytes, outputs: Mapping[str, Array], rows: int) -> bytes:
    """``ClassificationResponse``; ``spec`` is an encoded ``ModelSpec``. Raises as ``tfserving_results`` does."""
    return wire.encode_bytes(1, _classification_result(outputs, rows)) + wire.encode_bytes(2, spec)


def encode_regression(spec: bytes, outputs: Mapping[str, Array], rows: int) -> bytes:
    """``RegressionResponse``; as :func:`encode_classification`."""
    return wire.encode_bytes(1, _regression_result(outputs, rows)) + wire.encode_bytes(2, spec)


def encode_multi(parts: Sequence[tuple[str, bytes, Mapping[str, Array]]], rows: int) -> bytes:
    """``MultiInferenceResponse`` of ``(method name, encoded ModelSpec, outputs)`` of each task, in order."""
    results = []
    for method_name, spec, outputs in parts:
        result = (
            wire.encode_bytes(2, _classification_result(outputs, rows))
            if method_name == CLASSIFY
            else wire.encode_bytes(3, _regression_result(outputs, rows))
        )
        results.append(wire.encode_bytes(1, wire.encode_bytes(1, spec) + result))
    return b"".join(results)


def _classification_result(outputs: Mapping[str, Array], rows: int) -> bytes:
    """``ClassificationResult``: in field 1 for each row, in field 1 there for each class: ``label`` 1, ``score`` 2."""
    labels, scores = classifications(outputs, rows)
    found = labels if labels is not None else scores
    if found is None:
        return wire.encode_bytes(1, b"") * rows
    classes = found.shape[1]
    texts = [b""] * found.size
    if labels is not None:
        # A label is a string, and whoever reads the message refuses one that is not UTF-8.
        texts = [label.decode(errors="replace").encode() for label in labels.ravel().tolist()]
    numbers = [b""] * found.size
    if scores is not None:
        flat = scores.reshape(-1)
        is_written = (flat.view(np.uint32) != 0).tolist()  # proto3 leaves out zeros, but for -0.0
        raw = flat.astype("<f4", copy=False).tobytes()
        tag = bytes((_FLOAT_FIELD,))
        numbers = [tag + raw[4 * i : 4 * i + 4] if written else b"" for i, written in enumerate(is_written)]
    encoded = [
        wire.encode_bytes(1, (wire.encode_bytes(1, text) if text else b"") + number)
        for text, number in zip(texts, numbers, strict=True)
    ]
    return b"".join(
        [wire.encode_bytes(1, b"".join(encoded[row * classes : (row + 1) * classes])) for row in range(rows)]
    )


def _regression_result(outputs: Mapping[str, Array], rows: int) -> bytes:
    """``RegressionResult``: in field 1 for each row a message with the float ``value`` 1, all of one length."""
    values = np.ascontiguousarray(regressions(outputs, rows), FLOAT)
    table = np.empty((rows, 7), np.uint8)
    table[:, :3] = (1 << 3 | LEN, 5, _VALUE_FIELD)
    table[:, 3:] = values.astype("<f4", copy=False).view(np.uint8).reshape(rows, 4)
    return table.tobytes()


def _task(data: bytes, span: Span) -> Task:
    specs: list[Span] = []
    method_name = ""
    for number, kind, begin, end in wire.fields(data, span):
        if number == 1 and kind == LEN:
            specs.append((begin, end))
        elif number == 2 and kind == LEN:
            method_name = wire.text(data, (begin, end), "method_name")
    spec = decode_spec(data, specs)
    if method_name not in (CLASSIFY, REGRESS):
        raise InvalidRequest(f"Unsupported signature method_name: {method_name[:100]}")
    return Task(spec, method_name)


def _examples(data: bytes, spans: Sequence[Span]) -> Array:
    """``Input``: ``example_list`` 1, or ``example_list_with_context`` 2, of which the one that stands last counts."""
    chosen = 0
    lists: list[Span] = []
    for span in spans:
        for number, kind, begin, end in wire.fields(data, span):
            if kind != LEN or number not in (1, 2):
                continue
            if number != chosen:
                chosen, lists = number, []
            lists.append((begin, end))
    examples: list[bytes] = []
    context = b""
    for span in lists:
        for number, kind, begin, end in wire.fields(data, span):
            if number == 1 and kind == LEN:
                examples.append(data[begin:end])
            elif number == 2 and kind == LEN and chosen == 2:
                context += data[begin:end]
    if not examples:
        raise InvalidRequest("Input is empty.")
    # What is written one after the other is merged where it is read, and the example's own features win.
    rows = np.empty(len(examples), STRING)
    rows[:] = [context + example for example in examples] if context else examples
    return rows
