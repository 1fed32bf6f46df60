"""What the server and a worker process say to each other, and how: JSON objects over a Unix stream socket.

Each message is its length in bytes, as four bytes in network order, and the object in UTF-8. A file descriptor may ride
along (``SCM_RIGHTS``, unix(7)): that of a memory segment that the other side has not seen yet. JSON, and not pickle, so
that what a model writes cannot run code in the server, and so that two versions of Python understand each other.

Messages of the server: ``load``, ``run`` and ``close`` carry an ``id``, which the answer repeats; ``forget`` (a memory
segment) and ``end`` have no answer. The worker's first message, its answer to nothing, has id 0.

Must not live here: processes, models.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import traceback
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stfs import errors
from stfs.platforms.base import LoadOptions, one_line
from stfs.signature import STRING, Signature, TensorSpec

Message = dict[str, Any]

HELLO = 0
NO_ANSWER = -1
"""The id of a message whose answer nobody waits for."""

MAX_MESSAGE_BYTES = 256 << 20
"""A longer one is no message, but what somebody wrote over it. Signatures that list many categories are long."""

_LENGTH = struct.Struct("!I")
_PATH = "__path__"


class Channel:
    """One end of the socket: whole messages out, from any thread; what arrives is made whole by :meth:`feed`."""

    __slots__ = ("_buffer", "_sending", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._sending = threading.Lock()
        self._buffer = bytearray()

    def send(self, message: Message, fd: int | None = None) -> None:
        """Send it, with a file descriptor if one is given (a copy: the caller keeps its own). Any thread.

        Raises :class:`OSError` if nobody is there any more.
        """
        body = json.dumps(message, separators=(",", ":")).encode()
        data = _LENGTH.pack(len(body)) + body
        with self._sending:
            sent = 0 if fd is None else socket.send_fds(self.socket, [data], [fd])
            self.socket.sendall(data[sent:])

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now that ``data`` has arrived. Raises :class:`ValueError` for what is none."""
        self._buffer += data
        found: list[Message] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            message = json.loads(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            if not isinstance(message, dict):
                raise ValueError(f"a message that is {type(message).__name__}")
            found.append(message)
        return found


class RemoteTraceback(Exception):
    """The traceback in the worker process, as the cause of an error that came from there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def encode_error(error: BaseException) -> Message:
    """An error as a message: its type, text and fields. Of our own types, the nearest that every side knows."""
    told = next((kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__), None)
    trace = "".join(traceback.format_exception(error))
    if told is None:
        return {"raised": type(error).__name__, "text": one_line(error), "trace": trace}
    state = {key: value for key, value in vars(error).items() if _is_plain(value)}
    return {"type": told.__name__, "text": str(error), "fields": state, "trace": trace}


def decode_error(message: Message) -> Exception:
    """The error that :func:`encode_error` was given, its traceback as its cause.

    One that is not of our own types comes back as an :class:`Exception` whose type has the same name, so that it reads
    as it would have where it was raised.
    """
    kind = getattr(errors, str(message.get("type")), None)
    error: Exception
    if isinstance(kind, type) and issubclass(kind, errors.StfsError):
        error = kind.__new__(kind)  # its __init__ makes the text from parts, and here is the text
        error.args = (message["text"],)
        for key, value in message["fields"].items():
            setattr(error, key, tuple(value) if isinstance(value, list) else value)
    else:
        error = _foreign(str(message["raised"]))(message["text"])
    error.__cause__ = RemoteTraceback(message["trace"])
    return error


@cache
def _foreign(name: str) -> type[Exception]:
    return type(name, (Exception,), {})


def _is_plain(value: Any) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    return all(item is None or isinstance(item, str | int | float) for item in items)


def encode_options(options: LoadOptions) -> Message:
    """Load options as a message."""
    return {field.name: _plain(getattr(options, field.name)) for field in fields(options)}


def decode_options(message: Message) -> LoadOptions:
    """The options that :func:`encode_options` was given."""
    return LoadOptions(**{name: _rich(value) for name, value in message.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return {_PATH: str(value.absolute())}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _rich(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_rich(item) for item in value)
    return Path(value[_PATH]) if isinstance(value, dict) and value.keys() == {_PATH} else value


def encode_signature(signature: Signature) -> Message:
    """A signature as a message."""
    return {
        "name": signature.name,
        "inputs": [_encode_spec(spec) for spec in signature.inputs],
        "outputs": [_encode_spec(spec) for spec in signature.outputs],
        "batchable": signature.batchable,
        "method_name": signature.method_name,
    }


def decode_signature(message: Message) -> Signature:
    """The signature that :func:`encode_signature` was given."""
    inputs, outputs = (tuple(_decode_spec(spec) for spec in message[side]) for side in ("inputs", "outputs"))
    return Signature(message["name"], inputs, outputs, message["batchable"], message["method_name"])


def _encode_spec(spec: TensorSpec) -> Message:
    plain = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return plain | {"dtype": "" if spec.dtype == STRING else spec.dtype.str}


def _decode_spec(message: Message) -> TensorSpec:
    rich = {key: tuple(value) if isinstance(value, list) else value for key, value in message.items()}
    return TensorSpec(**rich | {"dtype": np.dtype(message["dtype"]) if message["dtype"] else STRING})
