"""The OpenAPI document against the application's routes, both ways, and against addresses in the documentation."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from stfs.config import ServerConfig
from stfs.protocols.openapi import Served, document
from stfs.protocols.openapi import Server as Described
from stfs.protocols.openapi_parts import HEADERS
from stfs.protocols.stfs_form import IMAGE_FIELDS, TEXT_FIELDS
from stfs.server import Server
from stfs.signature import CLASSIFY, REGRESS, Signature, TensorSpec, zeros
from stfs.web.app import make_app
from stfs.web.oip import _BY_ADDRESS
from stfs.web.tfserving import PREDICT_PATH, STATUS_PATH

pytestmark = pytest.mark.slow  # makes an application

ROOT = Path(__file__).parents[2]
METRICS = "/monitoring/x"
FILES_OF_PAGES = {"/static/{file}", "/docs/assets/{name}", "/dashboard/assets/{key}/{name}"}
TELLS_WHAT_IS_NOT_HERE = ("sharedmemory", "trace/setting", "/v2/logging")
"""Triton's calls that there is nothing behind; they answer, since its clients ask."""


@pytest.fixture(scope="module")
def paths():
    """Of a document of one model that has every verb, a version and a label."""
    x = TensorSpec("x", np.dtype("float32"), (None, 3))
    kinds = {"serving_default": "", "c": CLASSIFY, "r": REGRESS}
    signatures = {
        name: Signature(name, (x,), (x,), True, **({"method_name": method} if method else {}))
        for name, method in kinds.items()
    }
    served = Served("m", 1, ("stable",), "serving_default", signatures)
    described = Described("1", "m", metrics_path=METRICS)
    return document([served], lambda signature: zeros(signature.inputs, 1), described)["paths"]


@pytest.fixture(scope="module")
def app():
    return make_app(Server(ServerConfig(models=(), metrics_path=METRICS)).context)


def filled(path):
    return path.replace("{model}", "m").replace("{version}", "1").replace("{name}", "m")


def test_every_route_is_in_the_document(app, paths):
    told = {(method.upper(), filled(path)) for path, item in paths.items() for method in item}
    missing = []
    for route in app.router.routes():
        canonical = route.resource.canonical + ("/{file}" if isinstance(route.resource, web.StaticResource) else "")
        if route.method == "HEAD" or canonical in FILES_OF_PAGES or canonical == "/{path}":
            continue
        if (route.method, filled(canonical)) not in told:
            missing.append((route.method, canonical))
    assert missing == []


def test_every_address_below_v1_and_v2_is_in_the_document(paths):
    asked = {method: [filled(path) for path in paths if method in paths[path]] for method in ("get", "post")}
    missing = []
    for pattern, methods in _BY_ADDRESS.items():
        if any(what in pattern for what in TELLS_WHAT_IS_NOT_HERE):
            continue
        forms = {pattern.replace("(?:/versions/(?P<version>[^/]+))?", which) for which in ("", "/versions/1")}
        for form in forms:
            for method in methods:
                if not any(re.fullmatch(form, path) for path in asked[method.lower()]):
                    missing.append((method, form))
    assert missing == []
    seen = {
        (match["verb"], match["version"] is not None, match["label"] is not None)
        for path in asked["post"]
        if (match := PREDICT_PATH.fullmatch(path))
    }
    verbs = ("predict", "classify", "regress")
    assert seen == {(verb, *which) for verb in verbs for which in ((False, False), (True, False), (False, True))}
    seen = {
        (match["version"] is not None, match["label"] is not None, match["metadata"] is not None)
        for path in asked["get"]
        if (match := STATUS_PATH.fullmatch(path)) and match["name"]
    }
    assert seen == {(*which, m) for m in (False, True) for which in ((False, False), (True, False), (False, True))}


def test_everything_in_the_document_is_an_address(app, paths):
    async def resolve(method, path):
        return await app.router.resolve(make_mocked_request(method, path, app=app))

    for path, item in paths.items():
        for method in item:
            address = filled(path)
            info = asyncio.run(resolve(method.upper(), address))
            assert info.http_exception is None, (method, path)
            assert (
                address.startswith("/v2")
                or "path" not in info
                or STATUS_PATH.fullmatch(address)
                or PREDICT_PATH.fullmatch(address)
            ), path
            if address.startswith("/v2"):
                assert any(
                    re.fullmatch(pattern, address) and method.upper() in methods
                    for pattern, methods in _BY_ADDRESS.items()
                ), path


def test_what_the_pages_of_the_documentation_call_is_in_the_document(paths):
    """Such as ``GET /v1/models/M[/versions/N]/metadata``: what is in brackets may be left out."""
    known = {(method.upper(), filled(path)) for path, item in paths.items() for method in item}
    elsewhere = re.compile("|".join((*TELLS_WHAT_IS_NOT_HERE, "{system", ":explain", "/generate", "/monitoring/")))
    found, missing = set(), set()
    for page in [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]:
        for method, address in re.findall(r"\b(GET|POST) (/(?:\[[^]]*\]|[^ `?,)\n[])*)", page.read_text()):
            form = re.sub(r"\[[^]]*\]", "", address)
            form = re.sub(r"(/models/)(?:M|NAME)\b", r"\1m", form).rstrip(":;.")
            if not elsewhere.search(form):
                found.add(form)
                if (method, form) not in known:
                    missing.add((method, address, page.name))
    assert missing == set()
    assert len(found) > 15


def test_the_form_is_told_whole(paths):
    content = paths["/"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    form = content["multipart/form-data"]["schema"]["properties"]
    obsolete = {"preprocess", "postprocess", "run_profile"}
    assert set(form) == {*IMAGE_FIELDS, *TEXT_FIELDS} - obsolete
    assert {header["name"] for header in HEADERS} <= {one["name"] for one in paths["/"]["post"]["parameters"]}
