"""What a user may do, and what an address asks for: three scopes, one table, and admin for whatever is not in it.

The only place where an address or a method is given its scope; ``web`` and ``rpc`` ask here. Pure functions.
"""

from __future__ import annotations

import re
from enum import Flag
from functools import lru_cache

from stfs.errors import ConfigError


class Scope(Flag):
    """Scopes are independent: admin alone does not infer. ``OPEN`` needs no credentials at all."""

    OPEN = 0
    INFER = 1
    METRICS = 2
    ADMIN = 4


EVERY_SCOPE = Scope.INFER | Scope.METRICS | Scope.ADMIN

_BY_NAME = {"infer": Scope.INFER, "metrics": Scope.METRICS, "admin": Scope.ADMIN}


def parse_scopes(text: str) -> Scope:
    """``infer,metrics`` as scopes. Raises :class:`ConfigError` for a name that is none, and for none at all."""
    found = Scope.OPEN
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name not in _BY_NAME:
            raise ConfigError(f"no scope {name[:60]!r}: scopes are {', '.join(_BY_NAME)}")
        found |= _BY_NAME[name]
    if not found:
        raise ConfigError(f"no scope is given: scopes are {', '.join(_BY_NAME)}")
    return found


def name_scopes(scopes: Scope) -> str:
    """What :func:`parse_scopes` reads."""
    return ",".join(name for name, scope in _BY_NAME.items() if scope in scopes)


OPEN_PATHS = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})
"""Probes ask these; they tell nothing and need no credentials."""

_READ = ("GET", "HEAD")
_POST = ("POST",)
_ANY = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

# The first that fits decides. Paths as they stand in the request, not decoded, for so they are dispatched: what is
# spelled in another way fits nothing here and needs admin.
_HTTP: tuple[tuple[tuple[str, ...], re.Pattern[str], Scope], ...] = tuple(
    (methods, re.compile(pattern), scope)
    for methods, pattern, scope in (
        (_READ, "|".join(map(re.escape, sorted(OPEN_PATHS))), Scope.OPEN),
        (_READ, r"/metrics|/live", Scope.METRICS),
        (_POST, r"/", Scope.INFER),
        (_READ, r"/|/(?:image_inference|json_inference|generate_clients|favicon\.(?:ico|svg))", Scope.INFER),
        (_READ, r"/(?:dashboard|static|docs)(?:/.*)?|/openapi\.json", Scope.INFER),
        (_READ, r"/(?i:v1)(?:/.*)?", Scope.INFER),
        (
            _POST,
            r"(?i:/v1/models/[^/]+(?:/(?:versions|labels)/[^/]+)?:(?:predict|classify|regress|explain))",
            Scope.INFER,
        ),
        (_POST, r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer", Scope.INFER),
        (_READ, r"/v2/?|/v2/models/.*", Scope.INFER),
        (_READ, r"/v2/(?:system|cuda)sharedmemory(?:/region/[^/]+)?/status", Scope.INFER),
        (_POST, r"/v2/(?:system|cuda)sharedmemory(?:/region/[^/]+)?/unregister", Scope.INFER),  # there are none
        (_POST, r"/v2/(?:system|cuda)sharedmemory/region/[^/]+/register", Scope.ADMIN),
        (_ANY, r"/v2/repository/.*", Scope.ADMIN),
        (_POST, r"/dashboard/models/[^/]+/labels", Scope.ADMIN),
        (_ANY, r"/v2/logging|/v2/(?:models/[^/]+/)?trace/setting", Scope.ADMIN),
    )
)

HEALTH = "/grpc.health.v1.Health/"

_PREDICTION, _MODELS, _INFERENCE = (
    "/tensorflow.serving.PredictionService/",
    "/tensorflow.serving.ModelService/",
    "/inference.GRPCInferenceService/",
)

_RPC: dict[str, Scope] = {
    HEALTH + "Check": Scope.OPEN,
    HEALTH + "Watch": Scope.OPEN,
    **dict.fromkeys(
        (
            *(_PREDICTION + name for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")),
            _MODELS + "GetModelStatus",
            *(_INFERENCE + name for name in ("ModelInfer", "ModelStreamInfer", "ServerLive", "ServerReady")),
            *(_INFERENCE + name for name in ("ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig")),
            _INFERENCE + "ModelStatistics",
            *(
                _INFERENCE + f"{kind}SharedMemory{what}"
                for kind in ("System", "Cuda")
                for what in ("Status", "Unregister")
            ),
        ),
        Scope.INFER,
    ),
    _MODELS + "HandleReloadConfigRequest": Scope.ADMIN,
    **dict.fromkeys(
        (
            *(_INFERENCE + name for name in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")),
            *(_INFERENCE + name for name in ("TraceSetting", "LogSettings")),
            *(_INFERENCE + f"{kind}SharedMemoryRegister" for kind in ("System", "Cuda")),
        ),
        Scope.ADMIN,
    ),
}


@lru_cache(maxsize=1024)
def listed_http_scope(method: str, raw_path: str, metrics_path: str = "") -> Scope | None:
    """The scope that the table gives an address, ``None`` if it is not in it. ``metrics_path`` is as configured."""
    if metrics_path and method in _READ and raw_path == metrics_path:
        return Scope.METRICS
    return next((scope for methods, path, scope in _HTTP if method in methods and path.fullmatch(raw_path)), None)


def http_scope(method: str, raw_path: str, metrics_path: str = "") -> Scope:
    """What a request needs. Whatever nobody has thought of needs admin."""
    found = listed_http_scope(method, raw_path, metrics_path)
    return Scope.ADMIN if found is None else found


def listed_rpc_scope(method: str) -> Scope | None:
    """The scope that the table gives a method of gRPC, spelled ``/package.Service/Method``."""
    return _RPC.get(method)


def rpc_scope(method: str) -> Scope:
    """What a call needs. Whatever nobody has thought of needs admin."""
    return _RPC.get(method, Scope.ADMIN)
