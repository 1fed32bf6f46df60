"""The table of scopes: everything that is served stands in it, and what does not needs admin."""

import pytest
from aiohttp import web

from stfs.access.scopes import (
    EVERY_SCOPE,
    OPEN_PATHS,
    Scope,
    http_scope,
    listed_http_scope,
    name_scopes,
    parse_scopes,
    rpc_scope,
)
from stfs.errors import ConfigError


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        *(("GET", path, Scope.OPEN) for path in sorted(OPEN_PATHS)),
        ("POST", "/health", Scope.ADMIN),
        ("GET", "/%68ealth", Scope.ADMIN),
        ("GET", "/health/", Scope.ADMIN),
        ("GET", "/metrics", Scope.METRICS),
        ("GET", "/live", Scope.METRICS),
        ("POST", "/", Scope.INFER),
        ("GET", "/", Scope.INFER),
        ("HEAD", "/v1/models/m", Scope.INFER),
        ("POST", "/v1/models/m:predict", Scope.INFER),
        ("POST", "/V1/Models/m/Versions/1:Classify", Scope.INFER),
        ("POST", "/v1/models/m/labels/stable:regress", Scope.INFER),
        ("POST", "/v1/models/m/labels", Scope.ADMIN),
        ("POST", "/v1/models/m:reload", Scope.ADMIN),
        ("DELETE", "/v1/models/m", Scope.ADMIN),
        ("POST", "/v2/models/m/infer", Scope.INFER),
        ("POST", "/v2/models/m/versions/3/infer", Scope.INFER),
        ("POST", "/v2/models/m/x/y/infer", Scope.ADMIN),
        ("GET", "/v2/models/m/config", Scope.INFER),
        ("GET", "/v2/repository/index", Scope.ADMIN),
        ("POST", "/v2/repository/models/m/load", Scope.ADMIN),
        ("POST", "/v2/models/../repository/models/m/unload", Scope.ADMIN),
        ("POST", "/v2/logging", Scope.ADMIN),
        ("POST", "/dashboard/models/m/labels", Scope.ADMIN),
        ("PUT", "/", Scope.ADMIN),
        ("GET", "/what/nobody/thought/of", Scope.ADMIN),
        ("OPTIONS", "/", Scope.ADMIN),
    ],
)
def test_what_an_address_needs(method, path, scope):
    assert http_scope(method, path) is scope


def test_the_further_address_of_metrics_needs_what_metrics_need():
    assert http_scope("GET", "/monitoring/x") is Scope.ADMIN
    assert http_scope("GET", "/monitoring/x", "/monitoring/x") is Scope.METRICS
    assert http_scope("POST", "/monitoring/x", "/monitoring/x") is Scope.ADMIN


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        ("/grpc.health.v1.Health/Check", Scope.OPEN),
        ("/tensorflow.serving.PredictionService/Predict", Scope.INFER),
        ("/tensorflow.serving.ModelService/GetModelStatus", Scope.INFER),
        ("/tensorflow.serving.ModelService/HandleReloadConfigRequest", Scope.ADMIN),
        ("/inference.GRPCInferenceService/ModelStreamInfer", Scope.INFER),
        ("/inference.GRPCInferenceService/RepositoryModelLoad", Scope.ADMIN),
        ("/nope.Nope/Predict", Scope.ADMIN),
        ("", Scope.ADMIN),
    ],
)
def test_what_a_method_needs(method, scope):
    assert rpc_scope(method) is scope


def test_scopes_are_read_as_they_are_written():
    for text in ("infer", "metrics", "admin", "infer,metrics", "infer,metrics,admin"):
        assert name_scopes(parse_scopes(text)) == text
    assert parse_scopes(" admin , infer") == Scope.ADMIN | Scope.INFER
    assert parse_scopes("infer,metrics,admin") == EVERY_SCOPE
    for text, told in (("", "no scope is given"), (",", "no scope is given"), ("infer,root", "no scope 'root'")):
        with pytest.raises(ConfigError, match=told):
            parse_scopes(text)


def routes(app: web.Application):
    """(method, path) of each route, with names in the place of what is open in its address."""
    for route in app.router.routes():
        assert route.resource is not None
        canonical = route.resource.canonical
        if isinstance(route.resource, web.StaticResource):
            canonical += "/style.css"
        yield route.method, canonical.replace("{name}", "m").replace("{key}", "k")


@pytest.mark.slow  # makes an application
def test_every_route_of_the_application_has_been_given_its_scope():
    """A route that is new gets its line in the table. What is below /v1 and /v2 is asked one by one above and below."""
    from stfs.config import ServerConfig
    from stfs.server import Server
    from stfs.web.app import make_app

    app = make_app(Server(ServerConfig(models=(), metrics_path="/monitoring/x")).context)
    found = list(routes(app))
    assert len(found) > 10
    missing = [
        (method, path)
        for method, path in found
        if not path.startswith("/{path") and listed_http_scope(method, path, "/monitoring/x") is None
    ]
    assert missing == [], "give these a scope in stfs/access/scopes.py"
    assert sorted({path for _, path in found if path.startswith("/{path")}) == ["/{path}"], found


def test_every_address_of_the_open_inference_protocol_has_been_given_its_scope():
    from stfs.web.oip import _ADDRESSES

    samples = {
        "/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/logging", "/v2/trace/setting",
        "/v2/models/m", "/v2/models/m/versions/1", "/v2/models/m/ready", "/v2/models/m/config", "/v2/models/m/stats",
        "/v2/models/m/infer", "/v2/models/m/versions/1/infer", "/v2/models/m/trace/setting", "/v2/repository/index",
        "/v2/repository/r/index", "/v2/repository/models/m/load", "/v2/repository/r/models/m/unload",
        "/v2/repository/models/m/unload", "/v2/repository/r/models/m/load",
        *(f"/v2/{kind}sharedmemory{rest}" for kind in ("system", "cuda")
          for rest in ("/status", "/unregister", "/region/r/status", "/region/r/register", "/region/r/unregister")),
    }  # fmt: skip
    for pattern, methods in _ADDRESSES:
        fitting = [path for path in samples if pattern.fullmatch(path)]
        assert fitting, f"add a sample of {pattern.pattern}"
        for method in methods:
            assert [path for path in fitting if listed_http_scope(method, path) is None] == [], pattern.pattern


@pytest.mark.slow  # imports gRPC
def test_every_method_of_grpc_has_been_given_its_scope():
    from stfs.access.scopes import listed_rpc_scope
    from stfs.config import ServerConfig
    from stfs.rpc import health, oip, oip_stream, tfserving
    from stfs.server import Server

    context = Server(ServerConfig(models=())).context
    services = {
        **tfserving.services(context),
        oip.INFERENCE_SERVICE: {**oip.unary_methods(context), "ModelStreamInfer": None},
        health.NAME: {"Check": None, "Watch": None},
    }
    assert oip_stream.Streams is not None
    missing = [
        f"/{service}/{method}"
        for service, methods in services.items()
        for method in methods
        if listed_rpc_scope(f"/{service}/{method}") is None
    ]
    assert missing == []
