"""What each request on the stock path is called: its client's own word for it, or one that is made here.

An id is made only where something is kept of every request, an access log or traces: then the express lane is not used,
and it costs nothing that anybody notices. The hot path has the same rule in ``hot_shared``, gRPC in ``rpc.unary``.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from stfs.carry import REQUEST_ID, gives_ids, is_sane, make_request_id
from stfs.context import Context

_MAKES = web.AppKey("stfs_makes_request_ids", bool)

# Aiohttp before 3.14 has no keys of this kind, and warns of others from then on.
_ID: Any = web.RequestKey("stfs_request_id", str) if hasattr(web, "RequestKey") else "stfs_request_id"


def add_ids(app: web.Application, context: Context) -> None:
    """Every answer of the application tells what its request is called, errors and streams included."""
    app[_MAKES] = gives_ids(context)

    async def tell(request: web.Request, response: web.StreamResponse) -> None:
        if (name := request_id(request)) is not None:
            response.headers[REQUEST_ID] = name

    app.on_response_prepare.append(tell)


def request_id(request: web.Request) -> str | None:
    """What the request is called, the same each time; ``None`` if nobody calls it anything."""
    known: str | None = request.get(_ID)
    if known is not None:
        return known
    name = request.headers.get(REQUEST_ID)
    if name is None or not is_sane(name):
        if not request.config_dict[_MAKES]:
            return None
        name = make_request_id()
    request[_ID] = name
    return name
