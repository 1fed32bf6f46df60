"""``stfs gen-client``: writes a client program for a model that a server serves, or that lies in a file.

Owns the arguments and where the program comes from and goes to. How it is made is ``stfs.clients``'s to say: with a
server, that server's, so that the program is right for it; else this one's, with the model loaded to see what it takes.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stfs import platforms
from stfs.clients import languages
from stfs.clients.call import make_call, server_url
from stfs.clients.render import render
from stfs.errors import ConfigError, InvalidRequest, LoadFailed, SetupError
from stfs.platforms.base import LoadOptions
from stfs.platforms.loading import Hosting, open_servable

TIMEOUT_S = 30.0
DEFAULT_URL = "http://127.0.0.1:8500"

_CREDENTIALS = "STFS_AUTH_USERNAME and STFS_AUTH_PASSWORD, or STFS_AUTH_TOKEN"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def run(argv: Sequence[str]) -> None:
    """``stfs gen-client ARGV``. Raises :class:`SetupError`, one line, if there is no program to write."""
    given = _parser().parse_args(argv)
    try:
        language = languages.find(given.language)
        url = server_url(given.url or DEFAULT_URL)
        text = _from_files(given, language, url) if given.model_path is not None else _from_server(given, language, url)
    except InvalidRequest as error:
        raise ConfigError(str(error)) from None
    if given.output is None:
        sys.stdout.write(text)
        return
    try:
        given.output.write_text(text, encoding="ascii")
    except OSError as error:
        raise ConfigError(f"--output: cannot write {given.output}: {error.strerror}") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="stfs gen-client",
        description="Write a client program for a model: one that a running server serves, or one in a file.",
        epilog=f"Credentials for a server that asks for them are read from {_CREDENTIALS}; STFS_CA_FILE names "
        "certificates to trust. Languages: " + ", ".join(one.name for one in languages.LANGUAGES) + ".",
        allow_abbrev=False,
    )

    def add(name: str, **more: Any) -> None:
        parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), dest=name, **more)

    add("language", required=True, help="the language: bash, python, golang, ...")
    add("url", help=f"the server's address (default: {DEFAULT_URL})")
    add("model_name", default="default", help="the model's name on the server (default: default)")
    add("version", type=_version, metavar="N", help="the version (default: the latest)")
    add("signature_name", default="", help="the signature (default: the model's own default)")
    add("model_path", type=Path, metavar="PATH", help="a model file, or a folder of versions: no server is asked")
    add("model_platform", default="", help="tensorflow, onnx, ...: with --model_path, where the files do not tell")
    add("auth", action="store_true", help="with --model_path: the server will ask for credentials")
    add("output", type=Path, metavar="FILE", help="the file to write (default: standard output)")
    return parser


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("expected a whole number")
    return int(text)


def _from_server(given: argparse.Namespace, language: languages.Language, url: str) -> str:
    """The program that the server makes."""
    if given.auth or given.model_platform:
        raise ConfigError("--auth and --model_platform go with --model_path: a server knows them itself")
    query = {"language": language.name, "signature_name": given.signature_name, "version": given.version}
    asked = urllib.parse.urlencode({key: value for key, value in query.items() if value not in ("", None)})
    address = f"{url}/v1/models/{urllib.parse.quote(given.model_name, safe='')}/gen_client?{asked}"
    try:
        trusted = ssl.create_default_context(cafile=os.environ.get("STFS_CA_FILE"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"STFS_CA_FILE: {error}") from None
    request = urllib.request.Request(address, headers=_authorization(os.environ))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=trusted) as response:
            body: bytes = response.read()
            return body.decode()
    except urllib.error.HTTPError as error:
        hint = f"; set {_CREDENTIALS}" if error.code == 401 else ""
        raise SetupError(f"{url} answers {error.code}: {_reason(error.read())}{hint}") from None
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise SetupError(f"no answer from {url}: {reason}") from None


def _authorization(environ: Mapping[str, str]) -> dict[str, str]:
    if token := environ.get("STFS_AUTH_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if "STFS_AUTH_USERNAME" in environ and "STFS_AUTH_PASSWORD" in environ:
        given = f"{environ['STFS_AUTH_USERNAME']}:{environ['STFS_AUTH_PASSWORD']}"
        return {"Authorization": "Basic " + base64.b64encode(given.encode()).decode()}
    return {}


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:1000]


def _from_files(given: argparse.Namespace, language: languages.Language, url: str) -> str:
    """The program for a model that is loaded here and closed again."""
    version, path = _find(given.model_path, given.model_platform, given.version)
    platform = platforms.find(given.model_platform) if given.model_platform else platforms.detect(path)
    if platform is None:
        raise LoadFailed(f"{path}: no platform recognises these files; say which with --model_platform")
    servable = open_servable(platform, path, LoadOptions(model_name=given.model_name), Hosting())
    try:
        name = given.signature_name or servable.default_signature
        if name not in servable.signatures:
            raise ConfigError(f"--signature_name: there are {', '.join(sorted(servable.signatures))}, but no {name!r}")
        # Whether several rows are taken is known only when it has been tried, and one always is.
        signature = replace(servable.signatures[name], batchable=False)
        is_default = name == servable.default_signature
    finally:
        servable.close()
    call = make_call(
        url, given.model_name, version, signature, servable.platform, is_default=is_default, auth=given.auth
    )
    return render(language, call)


def _find(path: Path, platform: str, wanted: int | None) -> tuple[int, Path]:
    """Version and path of the model: ``path`` itself is version 1, else it holds folders named by their versions."""
    is_model = platforms.find(platform).detect if platform else platforms.is_model
    if not path.exists():
        raise ConfigError(f"--model_path: there is no {path}")
    if is_model(path):
        found = {1: path}
    else:
        folders = (child for child in path.iterdir() if child.name.isascii() and child.name.isdigit())
        found = {int(child.name): child for child in folders if is_model(child)} if path.is_dir() else {}
    if not found:
        raise ConfigError(f"--model_path: no model is found in {path}")
    version = max(found) if wanted is None else wanted
    if version not in found:
        raise ConfigError(f"--version: {path} has {', '.join(map(str, sorted(found)))}, but no {version}")
    return version, found[version]
