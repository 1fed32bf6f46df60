"""Which exceptions of which framework say that memory ran out: the one place that knows their names and words.

An adapter may raise what it likes: the exceptions that it was raised from are looked at as well. Frameworks' own types
are gone by their names, so that none has to be imported. Their words count only in types that the frameworks raise, and
as their allocators put them: what a client has sent may be quoted in an error, and must not pass for one of memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from stfs.errors import InvalidRequest, OutOfMemory, Unavailable
from stfs.platforms.base import Servable, one_line
from stfs.signature import Array, Tensors

TYPES = {
    ("torch", "OutOfMemoryError"),
    ("tensorflow", "ResourceExhaustedError"),
    ("cupy", "OutOfMemoryError"),
}
"""Top-level package and name of the exceptions that mean nothing else."""

_BAD_ALLOC = r"^(?:\[\S+\] )?(?:std::bad_alloc|bad allocation)"
WORDS = {
    "onnxruntime": re.compile(
        r"Failed to allocate memory for requested buffer of size \d+"
        r"|Available memory of \d+ is smaller than requested bytes of \d+"
        r"|CUDA failure 2: out of memory|CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"
        r"|CUDNN_STATUS_ALLOC_FAILED|Status Message: std::bad_alloc|: RUNTIME_EXCEPTION : std::bad_alloc"
    ),
    # TorchScript raises its own errors as RuntimeError with a traceback, the words of the allocator in the last line.
    "builtins.RuntimeError": re.compile(
        r"^(?:RuntimeError: )?(?:torch\.OutOfMemoryError: )?CUDA out of memory\. Tried to allocate"
        r"|^(?:RuntimeError: )?\[enforce fail at [^\]]*alloc_cpu\.cpp:\d+\][^\n]*can't allocate memory"
        r"|^(?:RuntimeError: )?CUDA error: out of memory$|CUBLAS_STATUS_ALLOC_FAILED when calling",
        re.MULTILINE,
    ),
    "torch": re.compile(r"^CUDA error: out of memory"),
    "xgboost": re.compile(r"std::bad_alloc|Memory allocation error on worker \d+|cudaErrorMemoryAllocation"),
    "lightgbm": re.compile(_BAD_ALLOC),
    "_catboost": re.compile(r"bad allocation|std::bad_alloc"),
    "catboost": re.compile(r"bad allocation|std::bad_alloc"),
}
"""By package, or by type: how errors of memory are told that have no type of their own."""

DEPTH = 8
"""So many exceptions are looked at, from the one raised to those that it came from."""


def run_on(servable: Servable, signature_name: str, inputs: Mapping[str, Array], *, limit_s: float = 0.0) -> Tensors:
    """:meth:`Servable.run_within`; raises :class:`OutOfMemory` in the place of whatever said that memory ran out."""
    try:
        return servable.run_within(limit_s, signature_name, inputs) if limit_s else servable.run(signature_name, inputs)
    except Exception as error:
        if (told := out_of_memory(error)) is None:
            raise
        raise OutOfMemory(f"out of memory: {told}") from error


def out_of_memory(error: BaseException) -> str | None:
    """What an error says of memory that ran out, in one line; ``None`` if it is about something else."""
    if isinstance(error, InvalidRequest | Unavailable):  # they have been looked into by those who raised them
        return None
    at: BaseException | None = error
    for _ in range(DEPTH):
        if at is None:
            return None
        if (said := _said(at)) is not None:
            return said
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return None


def _said(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return one_line(error)
    kind = type(error)
    package = kind.__module__.partition(".")[0]
    if any((base.__module__.partition(".")[0], base.__name__) in TYPES for base in kind.__mro__):
        return one_line(error)
    words = WORDS.get(package) or WORDS.get(f"{kind.__module__}.{kind.__name__}")
    found = words.search(str(error)) if words is not None else None
    if found is None:
        return None
    return one_line(str(error)[found.start() :])
