"""``stfs infer``: one request, to a model that is loaded for it or to a server; prints the answer.

Owns the arguments and what is printed. Must not live here: what bodies mean (``protocols``), addresses (``remote``).
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stfs.commands import bodies, remote
from stfs.commands.arguments import Parser, count, read_data, results_only
from stfs.commands.local_model import configured, versions_of
from stfs.commands.progress import Progress
from stfs.config import ModelConfig
from stfs.errors import ConfigError, ModelNotFound, RequestError
from stfs.loader import ModelLoader
from stfs.metrics import Metrics
from stfs.model import Model
from stfs.protocols import oip, stfs, tfserving, tfserving_examples, tfserving_results
from stfs.protocols.request import Payload, Resolver
from stfs.signature import Signature, Tensors

EPILOG = f"""--data takes every body that a server takes: {{"data": ...}}, {{"instances": ...}}, {{"inputs": ...}},
those of the Open Inference Protocol, or a bare list; the keys tell the dialect, unless --dialect does. Without it a
request is made up that fits. With a PATH every option of a model of stfs serve is understood too (see stfs serve
--help). A URL is a server's, a model's (http://HOST:PORT/v1/models/NAME) or that of a call.
{remote.CREDENTIALS}

status: 0  the answer is on standard output
        1  the request was refused, or the model failed; why is on standard error
        2  there is no such model or server, or an argument is wrong
"""

Encode = Callable[[Tensors], bytes | Payload]


def run(argv: Sequence[str]) -> int:
    """``stfs infer ARGV``; the exit status. Raises :class:`stfs.errors.SetupError` if nobody could be asked."""
    parser = Parser(
        "stfs infer", "Ask a model once: one at PATH, without a server, or one of the server at URL.", EPILOG
    )
    parser.usage = "stfs infer PATH|URL [--data JSON|@FILE|-] [--dialect D] [--json] [options]"
    parser.add("data", metavar="JSON", help="the request's body, @FILE for a file, - for standard input")
    parser.add("image", type=Path, metavar="FILE", help="an image file to send, in place of --data (URL only)")
    parser.add("dialect", choices=("auto", *remote.DIALECTS), default="auto", help="what the body speaks")
    parser.add("version", type=count, metavar="N", help="the version (default: the latest)")
    parser.add_argument("--json", action="store_true", help='write {"status", "seconds", "answer"}')
    remote.add_arguments(parser)
    given, rest = parser.parse_known_args(argv)
    body = None if given.data is None else bodies.wrapped(read_data(given.data))
    if urls := [part for part in rest if remote.is_url(part)]:
        if len(rest) > 1:
            raise ConfigError(f"not understood: {' '.join(part for part in rest if part != urls[0])}")
        return _ask_server(urls[0], given, body)
    if not rest:
        raise ConfigError("say what to ask: stfs infer PATH or stfs infer URL (see stfs infer --help)")
    if given.image is not None:
        raise ConfigError("--image: files are decoded by a server; start one, and give its address")
    named = ["--model_name", given.model_name] if given.model_name else []
    model = configured([*rest, *named], "stfs infer")
    return _ask_model(model, given.version, given.dialect, body, as_json=given.json)


def _ask_server(url: str, given: Any, body: bytes | None) -> int:
    asked = remote.target(url, given)
    if given.version is not None:
        asked = replace(asked, version=given.version)
    kind, dialect = "application/json", given.dialect
    if given.image is not None:
        if body is not None:
            raise ConfigError("give either --data or --image")
        dialect = "stfs"
        body, kind = _form(given.image, asked)
    elif body is None:
        dialect = asked.dialect or ("stfs" if dialect == "auto" else dialect)
        interface = bodies.describe(asked, dialect)
        made = bodies.made_up(interface.inputs, 1, np.random.default_rng(0))
        body = asked.named(bodies.write(dialect, made, interface.inputs), dialect)
    else:
        if dialect == "auto":
            dialect = asked.dialect or bodies.dialect_of(body)
        if dialect == "tfserving" and not asked.verb and b'"examples"' in body and b'"inputs"' not in body:
            raise ConfigError(
                f"examples are for :classify or :regress: put it at the end of the address, {url}:classify"
            )
        body = asked.named(body, dialect)
    began_s = time.monotonic()
    status, answer = remote.call(asked.server, "POST", asked.path(dialect), body, kind)
    seconds = time.monotonic() - began_s
    if status != 200:
        return _tell_failure(f"{asked.server.url} answers {status}{remote.hint(status)}: {_reason(answer)}")
    with results_only() as out:
        out.write(_told(answer, status, seconds) if given.json else answer.decode(errors="replace").rstrip() + "\n")
    return 0


def _form(file: Path, asked: remote.Target) -> tuple[bytes, str]:
    """A form (RFC 7578) with the image and the model's name; its content type."""
    try:
        image = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"--image: cannot read {file}: {error.strerror}") from None
    boundary = secrets.token_hex(16)
    fields = {"model_name": asked.model} if asked.model != "default" else {}
    if asked.version is not None:
        fields["model_version"] = str(asked.version)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
    parts += [head.encode(), f"Content-Type: {kind}\r\n\r\n".encode(), image, f"\r\n--{boundary}--\r\n".encode()]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _ask_model(config: ModelConfig, version: int | None, dialect: str, body: bytes | None, *, as_json: bool) -> int:
    found = versions_of(config)
    number = max(found) if version is None else version
    if number not in found:
        raise ConfigError(f"--version: {config.base_path} has {', '.join(map(str, found))}, but no {number}")
    with results_only() as out:
        try:
            answer, seconds = asyncio.run(
                _infer(replace(config, calibrate=False), number, found[number], dialect, body)
            )
        except RequestError as error:
            return _tell_failure(str(error))
        out.write(_told(answer, 200, seconds) if as_json else answer.decode(errors="replace") + "\n")
    return 0


async def _infer(
    config: ModelConfig, version: int, path: Path, dialect: str, body: bytes | None
) -> tuple[bytes, float]:
    loader = ModelLoader(Metrics())
    loader.configure([config])
    with Progress(f"loading {path}"):
        model = await loader(config.name, version, path)
    try:
        if body is None:
            signature = model.signature(None)
            made = bodies.made_up(signature.inputs, 1, np.random.default_rng(0))
            dialect = "stfs" if dialect == "auto" else dialect
            body = bodies.write(dialect, made, signature.inputs)
        elif dialect == "auto":
            dialect = bodies.dialect_of(body)
        began_s = time.monotonic()
        inputs_of, inputs, encode = _decode(dialect, body, model, version)
        answer = encode(await model.infer(inputs_of, inputs, None))
        seconds = time.monotonic() - began_s
    finally:
        await model.close()
    return (answer.body if isinstance(answer, Payload) else answer), seconds


def _decode(dialect: str, body: bytes, model: Model, version: int) -> tuple[Signature, Tensors, Encode]:
    """What the body asks for and how its answer is written. Raises :class:`RequestError`."""
    resolve = _resolver(model)
    if dialect == "oip":
        request = oip.decode(body, resolve)
        return request.signature, request.inputs, lambda out: oip.encode(request, out, model.name, version)
    if dialect == "tfserving":
        if b'"examples"' in body:
            return _decode_examples(body, resolve, model)
        signature, inputs, rows = tfserving.decode_predict(body, resolve)
        return signature, inputs, lambda out: tfserving.encode_predict(out, rows=rows)
    signature, inputs = stfs.decode(body, resolve)
    return signature, inputs, stfs.encode


def _decode_examples(body: bytes, resolve: Resolver, model: Model) -> tuple[Signature, Tensors, Encode]:
    """A body of classify or regress: the signature that it names says which of the two."""
    examples = tfserving_examples.decode_examples(body, "classify")
    rows = len(examples.serialized)
    inputs = {tfserving_results.INPUTS: examples.serialized}
    if model.signature(examples.signature_name).method_name.endswith("regress"):
        signature = tfserving_results.regress_signature(resolve, examples.signature_name)
        return signature, inputs, lambda out: tfserving_results.encode_regressions(out, rows)
    signature = tfserving_results.classify_signature(resolve, examples.signature_name)
    return signature, inputs, lambda out: tfserving_results.encode_classifications(out, rows)


def _resolver(model: Model) -> Resolver:
    def resolve(model_name: str | None, version: int | None, signature_name: str | None) -> Signature:
        if model_name not in (None, "", model.name) or version not in (None, model.version):
            told = f'the body asks for model "{model_name or model.name}" version {version or "latest"}'
            raise ModelNotFound(f'{told}, but "{model.name}" version {model.version} is what is loaded: --model_name')
        return model.signature(signature_name)

    return resolve


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:1000]


def _told(answer: bytes, status: int, seconds: float) -> str:
    try:
        value = json.loads(answer)
    except ValueError:
        value = answer.decode(errors="replace")
    return json.dumps({"status": status, "seconds": seconds, "answer": value}) + "\n"


def _tell_failure(reason: str) -> int:
    print(f"stfs infer: error: {' '.join(reason.split())}", file=sys.stderr)
    return 1
