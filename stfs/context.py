"""What the rooms that carry requests are given to serve from. References only; ``stfs.server`` fills them in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from stfs.access.door import Door
from stfs.config import ModelConfig, ServerConfig
from stfs.lifecycle.manager import Manager
from stfs.lifecycle.registry import Handle, Registry
from stfs.metrics import Metrics
from stfs.model import Model
from stfs.repository import Repository
from stfs.signature import Signature
from stfs.tracing import Tracing


@dataclass(frozen=True, slots=True)
class FrontStatus:
    """One of the places for front processes: whether the one there accepts connections, how many came after it."""

    up: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of a running server that a handler may use. ``ready`` is false while it is stopping.

    ``models`` gives what is served now, in the configuration's order; ``apply`` changes it (``stfs.server``). ``door``
    is who is let in; ``None`` if everybody is. ``tracing`` is where spans go, ``None`` for nowhere. ``fronts`` tells of
    the front processes, if there are any.
    """

    config: ServerConfig
    registry: Registry[Model]
    manager: Manager[Model]
    metrics: Metrics
    ready: Callable[[], bool]
    models: Callable[[], tuple[ModelConfig, ...]]
    apply: Callable[[Sequence[ModelConfig]], Awaitable[Mapping[str, str]]]
    repository: Repository
    door: Door | None = None
    tracing: Tracing | None = None
    fronts: Callable[[], Sequence[FrontStatus]] = tuple

    def __post_init__(self) -> None:
        if self.config.enable_auth and self.door is None:
            raise ValueError("a server that asks for credentials needs a door to look at them")

    def default_model(self) -> str:
        """``default``, as in the seed; the only model's name if there is just one."""
        models = self.models()
        return models[0].name if len(models) == 1 else "default"


class Lease:
    """The hold that one request has on one model version: a :class:`stfs.protocols.request.Resolver`.

    Calling it acquires what the request names so far and lets go of what an earlier call acquired. Release it when the
    answer is ready, whatever happened; ``served`` tells of the version held last even then. For the event-loop thread.
    """

    __slots__ = (
        "_context",
        "_default_name",
        "_default_version",
        "_handle",
        "client",
        "decode_s",
        "encode_s",
        "priority",
        "served",
        "timeout_s",
    )

    def __init__(self, context: Context, name: str | None = None, version: int | None = None) -> None:
        self._context = context
        self._default_name = name
        self._default_version = version
        self._handle: Handle[Model] | None = None
        self.served: Handle[Model] | None = None
        """Name and version of the model that was held last, released or not; ``None`` if none was found."""
        self.timeout_s: float | None = None
        """How long the request's body allows for its answer; set by the dialects that have a place for it."""
        self.client: str | None = None
        """Who asks, where clients share queues; set by what carries the request."""
        self.priority = 0
        """The level that the request asks for, 1 the highest; 0 for the default, as where it says nothing."""
        self.decode_s = self.encode_s = 0.0
        """How long reading the request and writing the answer took; set by what carries it, for the statistics."""

    def __call__(self, model_name: str | None, version: int | None, signature_name: str | None) -> Signature:
        """The signature meant; see :class:`stfs.protocols.request.Resolver` for what is raised."""
        self.release()
        name = model_name or self._default_name or self._context.default_model()
        self.served = self._handle = self._context.registry.acquire(
            name, self._default_version if version is None else version
        )
        return self._handle.model.signature(signature_name)

    @property
    def model(self) -> Model | None:
        """The model held, if any."""
        return self._handle.model if self._handle is not None else None

    def release(self) -> None:
        """Let go. Safe to call twice."""
        if self._handle is not None:
            self._handle.release()
            self._handle = None
