"""Answers that are kept: by the digest of what was asked, the least recently used leaving first. Bounded in bytes.

For one thread. Must not live here: who asks, requests that are under way (``sharing``).
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

import numpy as np

from stfs.signature import STRING, Array, Tensors

DIGEST_BYTES = 32
"""Long enough that nobody finds two inputs of one digest, and so an answer that was made for somebody else."""

ENTRY_BYTES = 512
OUTPUT_BYTES = 192
STRING_BYTES = 40
"""What Python takes for an entry, for each of its arrays and for each string beside its text. Counted, since a cache of
small answers is mostly that."""

_KEY = os.urandom(hashlib.blake2b.MAX_KEY_SIZE)
"""Of this process alone, so that nobody outside can work out digests at leisure."""


def digest(place: str, inputs: Tensors) -> bytes:
    """What ``inputs`` are known by: 32 bytes of keyed BLAKE2b (RFC 7693) over names, dtypes, shapes and elements.

    ``place`` says what is asked (a signature's name). Values that are equal but differ in their bytes (``0.0`` and
    ``-0.0``) differ. About 0.7 GB/s; lets the interpreter lock go over large arrays of numbers. Any thread.
    """
    state = hashlib.blake2b(key=_KEY, digest_size=DIGEST_BYTES)
    _add(state, place.encode())
    for name, array in inputs.items():
        is_text = array.dtype == STRING
        _add(state, repr((name, "text" if is_text else array.dtype.str, array.shape)).encode())
        if is_text:
            texts: list[bytes] = array.ravel().tolist()
            _add(state, np.array([len(text) for text in texts], dtype=np.int64).tobytes())
            state.update(b"".join(texts))
        else:
            state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.digest()


def _add(state: hashlib.blake2b, part: bytes) -> None:
    """With its length before it, so that no two lists of parts are the same bytes."""
    state.update(len(part).to_bytes(8, "little"))
    state.update(part)


def kept(outputs: Tensors) -> Tensors:
    """``outputs`` as arrays of their own that nobody can write to, so that they keep no batch alive. Any thread."""
    own: Tensors = {}
    for name, array in outputs.items():
        own[name] = array = array.copy()
        array.flags.writeable = False
    return own


def size_of(outputs: Tensors) -> int:
    """Bytes that an entry of the cache with these outputs takes, its own upkeep included."""
    return ENTRY_BYTES + sum(OUTPUT_BYTES + _bytes_of(array) for array in outputs.values())


def _bytes_of(array: Array) -> int:
    if array.dtype != STRING:
        return array.nbytes
    return array.nbytes + sum([STRING_BYTES + len(text) for text in array.ravel().tolist()])


class ResponseCache:
    """Outputs by digest, ``limit_bytes`` of them at most."""

    __slots__ = ("_entries", "evictions", "limit_bytes", "size_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.evictions = 0
        """Entries that had to make room, so far."""
        self._entries: OrderedDict[bytes, tuple[Tensors, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Tensors | None:
        """The outputs kept under ``key``: the dictionary is the caller's, the arrays are read-only and shared."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return dict(entry[0])

    def put(self, key: bytes, outputs: Tensors) -> None:
        """Keep ``outputs``, which are :func:`kept`'s. What is larger than the whole cache is not kept."""
        size = size_of(outputs)
        if size > self.limit_bytes:
            return
        if (old := self._entries.pop(key, None)) is not None:
            self.size_bytes -= old[1]
        self._entries[key] = outputs, size
        self.size_bytes += size
        while self.size_bytes > self.limit_bytes:
            _, (_, gone) = self._entries.popitem(last=False)
            self.size_bytes -= gone
            self.evictions += 1

    def clear(self) -> None:
        """Forget everything; none of it counts as evicted."""
        self._entries.clear()
        self.size_bytes = 0
