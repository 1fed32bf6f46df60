"""What a front process and the main one say to each other beside requests: small JSON messages over a socket pair.

The main process says ``start`` (the configuration), ``table`` (what is served; the first when there is something),
``sync`` and ``stop``; a front says ``listening``, ``released`` (a version that none of its requests holds any more),
``counts``, ``synced`` and ``bye``.
Messages are read in the order in which they were said, which ``sync`` relies on: who answers it has done all before it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import pickle
import struct
from collections.abc import Callable
from typing import Any, cast

from stfs.batcher.policy import BatchPolicy
from stfs.config import ModelConfig, ServerConfig
from stfs.model import Model
from stfs.platforms.worker_messages import decode_signature, encode_signature
from stfs.signature import Signature

Message = dict[str, Any]

MAX_MESSAGE_BYTES = 256 << 20
"""A longer one is none. Signatures that list many categories are long."""

_LENGTH = struct.Struct("!I")


class Messages(asyncio.Protocol):
    """One end of the socket. ``on_message`` gets each message, ``on_end`` is called once, when there are no more."""

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is another end."""
        return self._transport is not None

    def send(self, message: Message) -> None:
        """Say it; what cannot leave yet is kept. Does nothing once the other end has gone."""
        if self._transport is not None and not self._transport.is_closing():
            body = json.dumps(message, separators=(",", ":")).encode()
            self._transport.write(_LENGTH.pack(len(body)) + body)

    def close(self) -> None:
        """Send what is left and hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, and does not say so

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + length
            if length > MAX_MESSAGE_BYTES:
                self.close()
                return
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            self._on_message(json.loads(body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._transport = None
        self._on_end()


def encode_model(number: int, model: Model, policy: BatchPolicy) -> Message:
    """A model as a front is told of it, with what bounds its batches.

    Its signatures go by their place in this list from then on.
    """
    return {
        "number": number,
        "name": model.name,
        "version": model.version,
        "path": str(model.path),
        "platform": model.platform,
        "runtime": model.runtime,
        "default": model.default_signature,
        "max_batch_size": policy.max_batch_size,
        "has_lanes": not (policy.has_levels or policy.bounds_levels or policy.shares_clients or model.shares_answers),
        "latency_slo_s": 0.0 if math.isinf(policy.latency_slo_s) else policy.latency_slo_s,
        "signatures": [[key, encode_signature(signature)] for key, signature in model.signatures.items()],
    }


def encode_config(config: ServerConfig | ModelConfig | None, is_meant: bool = True) -> str | None:
    """A configuration as text, for a front to read; ``None`` where there is none, or none is meant."""
    return base64.b64encode(pickle.dumps(config)).decode() if config is not None and is_meant else None


def decode_config(told: str) -> Any:
    """What :func:`encode_config` was given. Only for what the process that started this one has said."""
    return pickle.loads(base64.b64decode(told))


def decode_signatures(message: Message) -> dict[str, Signature]:
    """The signatures of a model, in the order in which they were told."""
    return {key: decode_signature(told) for key, told in message["signatures"]}
