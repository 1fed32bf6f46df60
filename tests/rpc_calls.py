"""Calls of a running server over gRPC, with bytes written by hand: no protobuf messages, so no TensorFlow here."""

from __future__ import annotations

import re
from typing import Any

import grpc
import numpy as np
from running import Running

from stfs.protocols import tensor_pb, wire

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


def address(server: Running, kind: str = "tcp") -> str:
    """Where the server says that it serves gRPC."""
    told = re.search(r"over gRPC at (.+?)(?: and at http\S+)?$", server.log(), re.MULTILINE)
    assert told, server.log()
    return next(place for place in told[1].split(", ") if place.startswith("unix:") == (kind == "unix"))


def predict_bytes(name: str, *rest: bytes, **inputs: Any) -> bytes:
    """A ``PredictRequest``; arrays become tensors, ``rest`` are further fields."""
    entries = [
        wire.encode_bytes(
            2, wire.encode_bytes(1, key.encode()) + wire.encode_bytes(2, tensor_pb.encode(np.asarray(value)))
        )
        for key, value in inputs.items()
    ]
    return wire.encode_bytes(1, wire.encode_bytes(1, name.encode())) + b"".join(entries) + b"".join(rest)


def outputs_of(answer: bytes) -> dict[str, Any]:
    """The tensors of a ``PredictResponse``."""
    found = {}
    for number, _, begin, end in wire.fields(answer, (0, len(answer))):
        if number == 1:
            entry = {which: (a, b) for which, _, a, b in wire.fields(answer, (begin, end))}
            name = answer[slice(*entry[1])].decode()
            found[name] = tensor_pb.decode(answer, [entry[2]], name, tensor_pb.Budget())
    return found


def call(channel: grpc.Channel, method: str, body: bytes, **options: Any) -> bytes:
    """One call of one answer, within a minute unless ``timeout`` says otherwise."""
    return channel.unary_unary(method)(body, **{"timeout": 60, **options})


def refused(channel: grpc.Channel, method: str, body: bytes, **options: Any) -> tuple[grpc.StatusCode, str]:
    """The status and the text that the call ends with, which must not be success."""
    try:
        answer = call(channel, method, body, **options)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"answered: {answer!r}")
