"""A Postman collection (format 2.1.0) of one request, with what checks its answer. Pure."""

from __future__ import annotations

import json
from typing import Any

from stfs.clients.call import Call
from stfs.clients.literals import json_pieces

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"

DESCRIPTION = (
    "Import the file in Postman, or run it with newman, which takes the time limit: "
    "newman run client.postman_collection.json --timeout-request 30000"
)
DESCRIPTION_OF_AUTH = (
    "Give the variables username and password their values (newman: --env-var username=NAME --env-var password=WORD); "
    "for a token, choose Bearer Token in the tab Authorization."
)
DESCRIPTION_OF_TLS = "For a certificate that is not signed by a public authority: newman --ssl-extra-ca-certs ca.pem."

_TEST = """\
pm.test("the model answers", () => {
    pm.expect(pm.response.code, pm.response.text()).to.equal(200);
});"""

_FILLED = """\
// Nested arrays of these sizes that hold the value everywhere.
function filled([size, ...rest], value) {
    return Array.from({ length: size }, () => (rest.length > 0 ? filled(rest, value) : value));
}"""


def collection(call: Call) -> str:
    """The collection as JSON.

    Postman replaces ``{{name}}`` in a body: no text of ``call`` has a brace in it, since ``json_pieces`` escapes them,
    and what is long is put in by a script in just this way.
    """
    raw, script = "", [_FILLED]
    for piece in json_pieces(dict(call.body)):
        if isinstance(piece, str):
            raw += piece
        else:
            name = f"filled_{len(script)}"
            raw += f"{{{{{name}}}}}"
            script.append(f'pm.variables.set("{name}", JSON.stringify(filled([{piece[0]}], {piece[1]})));')
    request: dict[str, Any] = {
        "method": "POST",
        "header": [{"key": "Content-Type", "value": "application/json"}],
        "body": {"mode": "raw", "raw": raw, "options": {"raw": {"language": "json"}}},
        "url": call.url,
    }
    told, variables = [DESCRIPTION], []
    if call.auth:
        told.append(DESCRIPTION_OF_AUTH)
        keys = ("username", "password")
        request["auth"] = {
            "type": "basic",
            "basic": [{"key": key, "value": f"{{{{{key}}}}}", "type": "string"} for key in keys],
        }
        variables = [{"key": key, "value": "", "type": "string"} for key in keys]
    if call.tls:
        told.append(DESCRIPTION_OF_TLS)
    events = [_event("test", _TEST)]
    if len(script) > 1:
        events.insert(0, _event("prerequest", "\n".join(script)))
    name = f"stfs: {call.body['model_name']}"
    found = {
        "info": {"name": name, "description": " ".join(told), "schema": SCHEMA},
        "item": [{"name": "predict", "event": events, "request": request}],
        "variable": variables,
    }
    return json.dumps(found, indent=2) + "\n"


def _event(listen: str, script: str) -> dict[str, Any]:
    return {"listen": listen, "script": {"type": "text/javascript", "exec": script.splitlines()}}
