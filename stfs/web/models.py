"""What is served, told over HTTP: the list of models, the detail of one, health and readiness.

TensorFlow Serving's status and metadata are in ``web.tfserving``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from stfs.context import Context
from stfs.lifecycle.record import ModelStatus
from stfs.protocols import tfserving_status
from stfs.signature import Signature, TensorSpec
from stfs.web.key import CONTEXT


def list_models(context: Context) -> web.Response:
    """``GET /v1/models``: the details of every model, as the seed lists them."""
    return _json([detail(context, status) for status in context.manager.status()])


async def health(_: web.Request) -> web.Response:
    """``GET /health``: the process lives. Never asks for credentials."""
    return web.Response(text="healthy")


async def ready(request: web.Request) -> web.Response:
    """``GET /ready``: 200, or 503 while stopping. Until the models serve nothing listens, so nothing is answered."""
    is_ready = request.app[CONTEXT].ready()
    return web.Response(text="ready" if is_ready else "not ready", status=200 if is_ready else 503)


def detail(context: Context, status: ModelStatus) -> dict[str, Any]:
    """The seed's fields of one model, with TensorFlow Serving's status and every signature beside them."""
    versions = context.registry.serving().get(status.name, ())
    found: dict[str, Any] = {
        "model_name": status.name,
        "model_base_path": str(status.base_path),
        "model_version_list": list(versions),
        "model_signature": {"inputs": [], "outputs": []},
        "platform": next((m.platform or "" for m in context.models() if m.name == status.name), ""),
        "signatures": {},
        **tfserving_status.encode_status([(v.version, v.state.name, v.error) for v in status.versions]),
    }
    if status.problem:
        found["problem"] = status.problem
    if workers := worker_processes(context, status.name, versions):
        found["workers"] = {str(version): worker for version, worker in workers.items()}
    if versions:
        with context.registry.acquire(status.name) as handle:
            model = handle.model
            found["platform"] = model.platform
            found["runtime"] = model.runtime
            found["default_signature"] = model.default_signature
            found["calibration"] = {
                key: {**one.as_json(), "in_flight": one.in_flight, "words": one.words, "origin": one.origin}
                for key, one in sorted(model.calibrations.items())
            }
            found["batch_limit_rows"] = model.batch_limit_rows()
            found["signatures"] = {key: describe(signature) for key, signature in sorted(model.signatures.items())}
            found["model_signature"] = {
                k: found["signatures"][model.default_signature][k] for k in ("inputs", "outputs")
            }
    return found


def worker_processes(context: Context, name: str, versions: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The worker process, as ``pid``, ``state``, ``restarts``, ``error`` and ``resident_bytes``, of each of a model's
    versions that runs in one; with ``instances``, a list of the same, where it runs in several.
    """
    found: dict[int, dict[str, Any]] = {}
    for version in versions:
        with context.registry.acquire(name, version) as handle:
            if (worker := handle.model.worker) is not None:
                told = asdict(worker)
                if not told["instances"]:
                    del told["instances"]
                found[version] = told
    return found


def describe(signature: Signature) -> dict[str, Any]:
    """Inputs and outputs as the seed tells them, -1 for an open dimension."""
    return {
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
        "batchable": signature.batchable,
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = None if spec.shape is None else [-1 if size is None else size for size in spec.shape]
    told = {
        "name": spec.name,
        "dtype": tfserving_status.dtype_number(spec),
        "dtype_name": spec.dtype_name,
        "shape": shape,
    }
    rest = {"doc": spec.doc, "nullable": spec.nullable, "values": spec.values, "columns": spec.columns}
    return told | {key: value for key, value in rest.items() if value}


def _json(value: Any) -> web.Response:
    return web.Response(body=json.dumps(value, indent=1).encode(), content_type="application/json")
