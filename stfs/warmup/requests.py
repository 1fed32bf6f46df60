"""``PredictionLog``, a recorded request of TensorFlow Serving, made into what a model is run on. Pure: bytes in.

Field numbers are those of ``tensorflow_serving/apis/prediction_log.proto`` and the files that it imports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stfs.errors import InvalidRequest
from stfs.protocols import tfserving_pb, wire
from stfs.protocols.wire import LEN, Span
from stfs.signature import STRING, Signature, Tensors

_CLASSIFY, _REGRESS, _MULTI_INFERENCE, _SESSION_RUN, _PREDICT, _PREDICT_STREAMED = 2, 3, 4, 5, 6, 7


@dataclass(frozen=True, slots=True)
class Recorded:
    """One run: ``inputs``, or serialized ``examples`` for the only input of the signature.

    ``signature_name`` is ``None`` for the model's default.
    """

    signature_name: str | None
    inputs: Tensors | None = None
    examples: tuple[bytes, ...] = ()

    def tensors(self, signature: Signature) -> Tensors:
        """The inputs for ``signature``. Raises :class:`InvalidRequest` if it takes no serialized examples."""
        if self.inputs is not None:
            return self.inputs
        if len(signature.inputs) != 1 or signature.inputs[0].dtype != STRING:
            told = ", ".join(f'"{spec.name}" {spec.dtype_name}' for spec in signature.inputs)
            raise InvalidRequest(
                f'signature "{signature.name}" takes no serialized examples, one input of strings: it takes {told}'
            )
        column = np.empty(len(self.examples), STRING)
        column[:] = self.examples
        return {signature.inputs[0].name: column}


def decode(record: bytes) -> tuple[Recorded, ...]:
    """The runs that a serialized ``PredictionLog`` stands for; none for a log that holds no request.

    Raises :class:`InvalidRequest` for bytes that are none, and for kinds of log that no model is warmed up by.
    """
    chosen: tuple[int, list[Span]] | None = None
    for number, kind, begin, end in wire.fields(record, (0, len(record))):
        if kind != LEN or not _CLASSIFY <= number <= _PREDICT_STREAMED:
            continue
        if chosen is not None and chosen[0] == number:
            chosen[1].append((begin, end))  # a message that stands twice is merged
        else:
            chosen = number, [(begin, end)]  # they are one choice, of which the last one stands
    if chosen is None:
        return ()
    number, logs = chosen
    read = _READERS.get(number)
    if read is None:
        raise InvalidRequest(f"Unsupported log_type for warmup: {number}")
    return read(b"".join(record[begin:end] for log in logs for begin, end in _messages(record, log, 1)))


def _predict(request: bytes) -> tuple[Recorded, ...]:
    # The name of the model that was recorded does not matter; what follows is merged over this one.
    any_name = wire.encode_bytes(1, wire.encode_bytes(1, b"-"))
    decoded = tfserving_pb.decode_predict(any_name + request)
    return (Recorded(decoded.spec.signature_name or None, decoded.inputs),)


def _one_task(request: bytes) -> tuple[Recorded, ...]:
    """``ClassificationRequest`` or ``RegressionRequest``: a model in field 1, the examples in field 2."""
    whole = (0, len(request))
    name = _signature_name(request, list(_messages(request, whole, 1)))
    return (Recorded(name, examples=_examples(request, list(_messages(request, whole, 2)))),)


def _tasks(request: bytes) -> tuple[Recorded, ...]:
    """``MultiInferenceRequest``: tasks in field 1, each with a model in its field 1; the examples in field 2."""
    whole = (0, len(request))
    examples = _examples(request, list(_messages(request, whole, 2)))
    names = [_signature_name(request, list(_messages(request, task, 1))) for task in _messages(request, whole, 1)]
    return tuple(Recorded(name, examples=examples) for name in dict.fromkeys(names))


_READERS: Mapping[int, Callable[[bytes], tuple[Recorded, ...]]] = {
    _CLASSIFY: _one_task,
    _REGRESS: _one_task,
    _MULTI_INFERENCE: _tasks,
    _PREDICT: _predict,
}


def _signature_name(data: bytes, specs: Sequence[Span]) -> str | None:
    name = ""
    for spec in specs:
        for begin, end in _messages(data, spec, 3):
            name = wire.text(data, (begin, end), "model_spec.signature_name")
    return name or None


def _examples(data: bytes, inputs: Sequence[Span]) -> tuple[bytes, ...]:
    """``Input``: examples alone, or with a context that each of them is to have.

    Serialized messages one after the other are a message in which they are merged, so no example is taken apart.
    """
    found: list[bytes] = []
    for span in inputs:
        for example_list in _messages(data, span, 1):
            found += [data[begin:end] for begin, end in _messages(data, example_list, 1)]
        for with_context in _messages(data, span, 2):
            context = b"".join(data[begin:end] for begin, end in _messages(data, with_context, 2))
            found += [context + data[begin:end] for begin, end in _messages(data, with_context, 1)]
    if not found:
        raise InvalidRequest("Input is empty")
    return tuple(found)


def _messages(data: bytes, span: Span, number: int) -> Iterator[Span]:
    for found, kind, begin, end in wire.fields(data, span):
        if found == number and kind == LEN:
            yield begin, end
