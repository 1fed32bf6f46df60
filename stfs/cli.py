"""The commands. Each ends with status 0, or with 2 and one line that says what to do."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

from stfs import __version__
from stfs.errors import SetupError

USAGE = """usage: stfs COMMAND

commands:
  serve PATH    serve the model at PATH (stfs serve --help for every option)
  platforms     list the kinds of model that can be served, and what each needs (--json)
  platforms install NAME...
                install what a kind of model needs
  user add FILE NAME
                add a user who is let in (user list, user remove; --help)
  gen-client    write a client program for a model, in your language
  check PATH    load a model, say what it takes, how fast it is and what is wrong with it
  infer PATH|URL --data JSON
                ask a model once, without a server or on one
  bench URL     put load on a server and time its answers
  tune PATH --latency_ms MS
                find the batch size and threads for a latency
  diff URL1 URL2
                ask two servers the same and compare the answers
  --version     print the version

examples:
  stfs serve model.onnx
  stfs serve ./model --port 8080
  stfs serve --model_config_file models.json
  stfs platforms install xgboost
  stfs check model.onnx
  stfs user add users.txt ana --scopes infer,metrics
  stfs gen-client --language python --model_name iris
"""

TOOLS = {
    "check": "stfs.commands.check_model",
    "infer": "stfs.commands.infer",
    "bench": "stfs.commands.bench",
    "tune": "stfs.commands.tune",
    "diff": "stfs.commands.diff",
}
"""Commands that try models and servers, and where each is."""


def main(argv: Sequence[str] | None = None) -> None:
    """``stfs``."""
    args = list(sys.argv[1:] if argv is None else argv)
    match args:
        case ["serve", *rest]:
            _serve(rest, prog="stfs serve", positional=True)
        case ["platforms", *rest]:
            _platforms(rest)
        case ["user", *rest]:
            _user(rest)
        case ["gen-client", *rest]:
            _gen_client(rest)
        case ["check" | "infer" | "bench" | "tune" | "diff" as name, *rest]:
            _tool(name, rest)
        case ["--version" | "-V"]:
            print(f"stfs {__version__}")
        case ["--help" | "-h"]:
            print(USAGE, end="")
        case []:
            _fail("stfs", "say what to do: stfs serve PATH (see stfs --help)")
        case [unknown, *_]:
            _fail(
                "stfs",
                f"unknown command {unknown!r}: the commands are serve, platforms, user, gen-client, "
                f"{', '.join(TOOLS)}, --version (see stfs --help)",
            )


def main_seed(argv: Sequence[str] | None = None) -> None:
    """``simple_tensorflow_serving``: the seed's executable, with its flags, serving every version as the seed did."""
    args = list(sys.argv[1:] if argv is None else argv)
    _serve(args, prog="simple_tensorflow_serving", positional=False, model_version_policy="all")


def main_tensorflow_model_server(argv: Sequence[str] | None = None) -> None:
    """``tensorflow_model_server``: TensorFlow Serving's executable, with its flags and its dialect."""
    args = list(sys.argv[1:] if argv is None else argv)
    prog = "tensorflow_model_server"
    started_at_s = _begin()
    from stfs.model_server import flags

    if "--help" in args or "-h" in args:
        print(flags.usage(prog), end="")
        return
    try:
        given = flags.parse(args)
        if given.on("version"):
            print(f"TensorFlow ModelServer: stfs {__version__}")
            return
        from stfs import process
        from stfs.model_server import reload, settings

        told = settings.read(given)
        _log_to_stderr(told.server.log_level)
        for line in told.warnings:
            logging.getLogger("stfs").warning(line)
    except SetupError as error:
        _fail(prog, str(error))
    try:
        process.serve(told.server, started_at_s, lambda server: reload.follow(told, server))
    except SetupError as error:
        _fail(prog, flags.renamed(str(error)))


def _serve(argv: Sequence[str], *, prog: str, positional: bool, **defaults: str) -> None:
    started_at_s = _begin()
    # Imported here so that --version and a wrong command answer at once.
    from stfs import config, process

    try:
        settings = config.from_environment(argv, prog=prog, positional=positional, defaults=defaults)
        _log_to_stderr(settings.log_level)
        if warning := config.unknown_variables(os.environ):
            logging.getLogger("stfs").warning("%s", warning)
        process.serve(settings, started_at_s)
    except SetupError as error:
        _fail(prog, str(error))


def _begin() -> float:
    """Make the process fit to serve. When it started, in seconds of ``time.monotonic``."""
    started_at_s = time.monotonic()
    _open_standard_streams()
    # Until the loop has its own handlers; as process 1 of a container the default would be to ignore SIGTERM.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    return started_at_s


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr
    )


def _platforms(argv: Sequence[str]) -> None:
    from stfs.commands import platforms

    try:
        platforms.run(argv)
    except SetupError as error:
        _fail("stfs platforms", str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _user(argv: Sequence[str]) -> None:
    from stfs.commands import users

    try:
        users.run(argv)
    except SetupError as error:
        _fail("stfs user", str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _gen_client(argv: Sequence[str]) -> None:
    from stfs.commands import gen_client

    try:
        gen_client.run(argv)
    except SetupError as error:
        _fail("stfs gen-client", str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _tool(name: str, argv: Sequence[str]) -> None:
    """A command that tries models or servers: it gives the exit status, 1 where what it tried is not well."""
    import importlib

    command = importlib.import_module(TOOLS[name])
    try:
        status = command.run(argv)
    except SetupError as error:
        _fail(f"stfs {name}", str(error))
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    sys.exit(status)


def _open_standard_streams() -> None:
    """The null device where a standard stream was closed: else a socket gets its number, and libuv aborts on it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _fail(prog: str, message: str) -> None:
    line = " ".join(message.split())
    print(f"{prog}: error: {line}", file=sys.stderr)
    sys.exit(2)
