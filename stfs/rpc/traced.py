"""What a trace tells of a call over gRPC, by OpenTelemetry's semantic conventions for gRPC (``rpc.*``, 1.23 and later).

Must not live here: spans and where they go (``stfs.tracing``).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from stfs.carry import REQUEST_ID, snake_case
from stfs.context import Lease
from stfs.tracing import Trace, Tracing

CANCELLED = 1
FAULTS = frozenset((2, 4, 12, 13, 14, 15))
"""The statuses that are the server's own fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and
DATA_LOSS, as the conventions have it."""


def begin(
    tracing: Tracing,
    method: str,
    peer: str,
    metadata: Mapping[str, str],
    request_id: str | None,
    started_s: float,
) -> Trace | None:
    """The trace of a call of ``method`` (``SERVICE/METHOD``), ``None`` if it is not one of those that are traced.

    ``peer`` is gRPC's word for the client: ``ipv4:127.0.0.1:4711``, ``ipv6:%5B::1%5D:4711`` or ``unix:``.
    """
    service, _, name = method.rpartition("/")
    told: dict[str, str | int] = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    kind, _, address = peer.partition(":")
    if kind in ("ipv4", "ipv6"):
        host, _, port = unquote(address).rpartition(":")
        told["client.address"] = host.strip("[]")
        if port.isdecimal():
            told["client.port"] = int(port)
    if (agent := metadata.get("user-agent")) is not None:
        told["user_agent.original"] = agent
    if request_id is not None:
        told[f"rpc.grpc.request.metadata.{REQUEST_ID.lower()}"] = request_id
    return tracing.begin(method, metadata, started_s, told)


def end(trace: Trace, method: str, status: int, dialect: str, lease: Lease, failure: BaseException | None) -> None:
    """The call has ended with ``status``, a number of gRPC's."""
    told: dict[str, str | int] = {"rpc.grpc.status_code": status, "stfs.dialect": dialect}
    if (served := lease.served) is not None:
        told |= {"stfs.model.name": served.name, "stfs.model.version": served.version}
    is_fault = status in FAULTS or status == CANCELLED
    failed = snake_case(type(failure).__name__) if failure is not None and is_fault else None
    trace.end(method, lease.decode_s, lease.encode_s, told, failed)
