"""Everything that can go wrong, as types. Owns meaning and wording; knows no HTTP and no gRPC.

Each wire dialect maps these types to its own statuses in one table (see ``stfs.protocols``).

::

    StfsError
    ├── SetupError              the server cannot start, or a model cannot load: an operator's job
    │   ├── ConfigError         a flag, an environment variable or a config file is wrong
    │   │   └── LabelRefused    a label would stand for a version that is not available
    │   ├── PlatformMissing     the framework that a model needs is not installed
    │   └── LoadFailed          the files are there but do not load
    └── RequestError            one request cannot be answered; the next one can
        ├── InvalidRequest      the client's fault: malformed, mistyped, misshaped
        │   ├── MalformedJson   the body is not JSON; carries the byte offset
        │   ├── BadElement      one value in a tensor does not fit; carries offset and path
        │   ├── InvalidInput    a named input is missing, unknown, or of the wrong dtype or shape
        │   ├── UnsupportedMediaType
    │   └── UnsupportedEncoding the body is compressed in a way that is not known here
        ├── TooLarge            the body is over the limit
        ├── NotFound
        │   ├── ModelNotFound
        │   ├── VersionNotFound
        │   └── SignatureNotFound
        ├── Unavailable         not now: loading, unloading, shutting down
        │   ├── Overloaded      the queue is full; carries when to try again
        │   │   └── ShareExceeded   one client has more than its share of it
        │   └── OutOfMemory     a run did not fit into the memory that the model has
        ├── DeadlineExceeded
        │   └── RunTimedOut
        └── ModelFailed         the model raised, or returned what it did not promise
"""

from __future__ import annotations


class StfsError(Exception):
    """Root of the tree. ``str()`` of any of them is a sentence fit for a user."""


class SetupError(StfsError):
    """An operator must act; the message says how."""


class ConfigError(SetupError):
    """A flag, an environment variable or a configuration file is wrong."""


class LabelRefused(ConfigError):
    """A label would stand for a version that is not available; it may be given when the version is."""


class PlatformMissing(SetupError):
    """The framework is not installed. The message holds the command that installs it: pip's, or ``command``."""

    def __init__(self, platform: str, extra: str, detail: str = "", command: str = "") -> None:
        because = f" ({detail})" if detail else ""
        how = command or f'pip install "stfs[{extra}]"'
        super().__init__(f"platform {platform} is not installed{because}: run {how}")
        self.platform = platform
        self.extra = extra


class LoadFailed(SetupError):
    """A model's files are present but cannot be served; the message names the path and the reason."""


class RequestError(StfsError):
    """One request cannot be answered. Never a reason to stop serving others."""


class InvalidRequest(RequestError):
    """The request itself is wrong; sending it again unchanged cannot help."""


class MalformedJson(InvalidRequest):
    """The body is not JSON.

    ``problem`` is a phrase without the offset; ``offset`` counts bytes from the start of the body.
    """

    def __init__(self, problem: str, offset: int) -> None:
        super().__init__(f"malformed JSON at byte {offset}: {problem}")
        self.problem = problem
        self.offset = offset


class BadElement(InvalidRequest):
    """A value inside a tensor does not fit: ragged, wrong type, out of range.

    ``path`` holds the indices from the tensor's root, ``offset`` the byte offset in the body. The dialect that
    knows the input's name turns this into an :class:`InvalidInput` with :meth:`named`.
    """

    def __init__(self, problem: str, offset: int, path: tuple[int, ...] = ()) -> None:
        super().__init__(f"element {format_path(path)} at byte {offset}: {problem}")
        self.problem = problem
        self.offset = offset
        self.path = path

    def named(self, input_name: str) -> InvalidInput:
        """The same fault, told with the input's name: ``input "x", element [0][3] at byte 17: ...``."""
        where = f", element {format_path(self.path)}" if self.path else ""
        return InvalidInput(input_name, f"{self.problem}", where=f"{where} at byte {self.offset}")


class InvalidInput(InvalidRequest):
    """A named input is missing, unknown, or of the wrong dtype or shape."""

    def __init__(self, input_name: str, problem: str, where: str = "") -> None:
        super().__init__(f'input "{input_name}"{where}: {problem}')
        self.input_name = input_name
        self.problem = problem


class UnsupportedMediaType(InvalidRequest):
    """The Content-Type is one that the called dialect does not take."""


class UnsupportedEncoding(InvalidRequest):
    """The Content-Encoding is not one of those that are understood (RFC 9110, 8.4)."""


class TooLarge(RequestError):
    """The request body is over the server's limit."""


class NotFound(RequestError):
    """What the request names is not served here. ``model`` and ``version`` are what was asked for, where known.

    ``version`` is ``None`` where the latest was asked for.
    """

    def __init__(self, message: str, model: str = "", version: int | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.version = version


class ModelNotFound(NotFound):
    """No model of this name."""


class VersionNotFound(NotFound):
    """The model is known, this version of it is not served."""


class SignatureNotFound(NotFound):
    """The model has no signature of this name."""


class Unavailable(RequestError):
    """Not now; the same request may be answered later. ``retry_after_s`` is an estimate, in seconds, of when."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """The queue is full; ``retry_after_s`` estimates when it will have drained."""


class OutOfMemory(Unavailable):
    """A run did not fit into the memory that there is, of the machine or of its GPU; a smaller one may."""


class ShareExceeded(Overloaded):
    """The client has more than its share of the queue; ``retry_after_s`` estimates when it has less."""


class DeadlineExceeded(RequestError):
    """The request's deadline passed before its answer was ready."""


class RunTimedOut(DeadlineExceeded):
    """The run that the request was part of took longer than one may; nothing is known of its answer."""


class ModelFailed(RequestError):
    """The model raised, or returned something other than its signature promises."""


def format_path(path: tuple[int, ...]) -> str:
    """``(0, 3)`` as ``[0][3]``; the empty path as ``[]``."""
    return "".join(f"[{i}]" for i in path) or "[]"
