"""OpenTelemetry traces, where ``--tracing`` names a collector: a span for each request, its steps, and its batch.

A request is one server span from its head to its answer, with the steps decode, queue, run and encode below it. A batch
is a span of its own, in the trace of the first of its requests that is told, linked to all of them; each request's run
is linked to the batch. Requests begin and end on the event-loop thread; spans leave on a thread of OpenTelemetry's. A
request may be traced in one process and run in another (:class:`Elsewhere`): each tells the spans of what it does.

Must not live here: how a request's names and headers are spelled (``web``, ``rpc``). OpenTelemetry is imported if this
is on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from stfs import __version__
from stfs.batcher.queue import Journey, Together
from stfs.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanContext

Attributes = Mapping[str, str | int | float | bool]

EXPORT_TIMEOUT_S = 5.0
"""So long one attempt to reach the collector may take, and the end of the server may wait for the last spans."""

_PATH = "/v1/traces"
"""Where OTLP over HTTP has traces, if the address does not say (OpenTelemetry Protocol 1.x)."""


def endpoint_of(address: str) -> str:
    """The whole address of a collector that is told as ``http://HOST:4318``. Raises :class:`ConfigError`."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--tracing: {address!r} is no address of a collector, such as http://127.0.0.1:4318")
    return address if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{_PATH}"


class Tracing:
    """Where spans go. ``ratio`` of the requests that come without a trace are traced; the others as they say.

    ``exporter`` is for tests; as a rule it is OTLP over HTTP, with the headers that ``OTEL_EXPORTER_OTLP_HEADERS`` has.
    Raises :class:`ConfigError` if OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, ratio: float, exporter: SpanExporter | None = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ConfigError(
                f'--tracing: OpenTelemetry is not installed ({error}): run pip install "stfs[otel]"'
            ) from None
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "stfs"}))
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(ratio), resource=resource, shutdown_on_exit=False
        )
        sink = exporter or OTLPSpanExporter(endpoint=endpoint_of(endpoint), timeout=EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(sink))
        self.tracer = self._provider.get_tracer("stfs", __version__)
        self._propagator = TraceContextTextMapPropagator()
        # Spans are told in the time of day, moments are monotonic: one difference for both keeps steps in order.
        self._epoch_s = time.time() - time.monotonic()

    def begin(self, name: str, headers: Mapping[str, str], started_s: float, attributes: Attributes) -> Trace | None:
        """The trace of a request whose head came at ``started_s`` of ``time.monotonic``; ``None`` if it has none.

        Of ``headers``, ``traceparent`` and ``tracestate`` (W3C Trace Context) say whose part it is.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        carrier = {key: value for key in ("traceparent", "tracestate") if (value := headers.get(key)) is not None}
        parent = self._propagator.extract(carrier, Context())
        span = self.tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=self.moment_ns(started_s))
        return Trace(self, span, started_s) if span.is_recording() else None

    def batch(self, together: Together, asker: SpanContext, attributes: Attributes) -> SpanContext:
        """The span of a batch, made for the ``asker`` who comes first, in the trace of the first of its requests.

        Of ``attributes`` those of the model are the batch's too.
        """
        from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, set_span_in_context

        if isinstance(together.told, SpanContext):
            return together.told
        owners = [journey.owner for journey in together.journeys]
        # None of them is traced where the asker was given the answer to another's request.
        requests = [owner.context for owner in owners if isinstance(owner, Trace | Elsewhere)] or [asker]
        told = {key: value for key, value in attributes.items() if key.startswith("stfs.model.")}
        told |= {"stfs.batch.rows": together.rows, "stfs.batch.reason": together.reason}
        span = self.tracer.start_span(
            "batch",
            set_span_in_context(NonRecordingSpan(requests[0])),
            attributes=told,
            links=[Link(context) for context in requests],
            start_time=self.moment_ns(together.launched_s),
        )
        span.end(self.moment_ns(together.finished_s))
        together.told = context = span.get_span_context()
        return context

    def moment_ns(self, moment_s: float) -> int:
        """A moment of ``time.monotonic`` in nanoseconds since 1970."""
        return int((moment_s + self._epoch_s) * 1e9)

    def close(self) -> None:
        """Send what is left, within a few seconds. Blocks; for any thread."""
        self._provider.force_flush(int(EXPORT_TIMEOUT_S * 1e3))
        self._provider.shutdown()


class Elsewhere:
    """A request that another process traces: what this one's spans of it are linked to. The owner of its journey."""

    __slots__ = ("context",)

    def __init__(self, told: Sequence[Any]) -> None:
        self.context = decode_context(told)


def encode_context(context: SpanContext) -> list[Any]:
    """What a span is known by in other processes, as JSON."""
    return [f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags)]


def encode_span(together: Together) -> list[Any]:
    """The same of a batch that :meth:`Tracing.batch` has told of."""
    return encode_context(cast("SpanContext", together.told))


def decode_context(told: Sequence[Any]) -> SpanContext:
    """What :func:`encode_context` was given."""
    from opentelemetry.trace import SpanContext, TraceFlags

    trace_id, span_id, flags = told
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(flags))


class Trace:
    """One request that is traced. ``journey`` is to be given to its batch; :meth:`end` is to be called once."""

    def __init__(self, tracing: Tracing, span: Span, started_s: float) -> None:
        self._tracing = tracing
        self._span = span
        self.started_s = started_s
        self.decoding_s = started_s
        self.encoded_s = started_s
        """When reading the request began, and when writing its answer had ended; set by who carries it."""
        self.journey = Journey(self)

    @property
    def context(self) -> SpanContext:
        """What others link to."""
        return self._span.get_span_context()

    def end(
        self, name: str, decode_s: float, encode_s: float, attributes: Attributes, failed: str | None = None
    ) -> None:
        """The answer is made. ``failed`` says what kind of error was the server's own, if one was."""
        from opentelemetry.trace import Status, StatusCode

        self._step("decode", self.decoding_s, self.decoding_s + decode_s)
        if (together := self.journey.together) is not None:
            launched_s, journey = together.launched_s, self.journey
            self._step("queue", launched_s - journey.queue_s, launched_s)
            self._step(
                "run", launched_s, launched_s + journey.run_s, self._tracing.batch(together, self.context, attributes)
            )
        self._step("encode", self.encoded_s - encode_s, self.encoded_s)
        self._span.update_name(name)
        self._span.set_attributes(dict(attributes))
        if failed is not None:
            self._span.set_attribute("error.type", failed)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._tracing.moment_ns(time.monotonic()))

    def _step(self, name: str, began_s: float, ended_s: float, linked: SpanContext | None = None) -> None:
        """A step of this request, unless it never came to it."""
        from opentelemetry.trace import Link, set_span_in_context

        if ended_s <= began_s:
            return
        moment_ns = self._tracing.moment_ns
        links = [] if linked is None else [Link(linked)]
        parent = set_span_in_context(self._span)
        span = self._tracing.tracer.start_span(name, parent, links=links, start_time=moment_ns(began_s))
        span.end(moment_ns(ended_s))
