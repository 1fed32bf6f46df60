"""Configuration files that are protobuf messages written as text, TensorFlow Serving's and Triton's, made into objects.

The messages are in ``model_server.proto`` and ``triton.proto``. What their fields amount to is not known here.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from stfs.errors import ConfigError

PACKAGE = "tensorflow.serving"

_LISTS = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*)|(?<=\w)(?:[ \t](\s*)|(\s*))\[""")
"""Texts and comments, and the lists that follow a name without a colon."""


@cache
def message_class(name: str) -> Any:
    """The class of a message of ``model_server.proto``, or, as ``inference.NAME``, of ``triton.proto``.

    It is from a descriptor pool of its own.

    Raises :class:`ConfigError` with what to install if protobuf is missing.
    """
    return _classes()[name]


def read(path: Path, name: str) -> Any:
    """The message of that name that the file holds. Blocking.

    Raises :class:`ConfigError`, naming the file, the line and the column, if it cannot be read or does not parse.
    """
    return _parsed(path, name)[0]


def read_known(path: Path, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The same by protobuf's mapping to JSON (``proto3``), with the names that fields have in the file.

    Fields that are not in our message are no mistake; they are named: ``optimization.graph``. Blocking; raises alike.
    """
    message, content = _parsed(path, name, lenient=True)
    from google.protobuf import json_format

    told: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return told, _unknown(content, message.DESCRIPTOR)


def _parsed(path: Path, name: str, *, lenient: bool = False) -> tuple[Any, str]:
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"Invalid protobuf file: '{path}': it is not UTF-8 text") from None
    try:
        return parse(content, name, lenient=lenient), content
    except ConfigError as error:
        raise ConfigError(f"Invalid protobuf file: '{path}': {error}") from None


def parse(content: str, name: str, *, lenient: bool = False) -> Any:
    """The message of that name that ``content`` stands for. Raises :class:`ConfigError` with line and column.

    A field that the message has not is a mistake, unless ``lenient``.
    """
    message = message_class(name)()
    from google.protobuf import text_format

    # Of TensorFlow's own ConfigProto only some fields are in our file, and none of the others is a mistake.
    lenient = lenient or name == "ConfigProto"
    if lenient:  # such a list, of a field that is passed over, is too much for protobuf's parser
        content = _LISTS.sub(lambda match: match[1] or f":{match[2] or match[3] or ''}[", content)
    try:
        text_format.Parse(content, message, allow_unknown_field=lenient, descriptor_pool=message.DESCRIPTOR.file.pool)
    # Besides its own error it raises these for numbers and nesting that go too far.
    except (text_format.ParseError, ValueError, TypeError, RecursionError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"Error parsing text-format {message.DESCRIPTOR.full_name}: {told}") from None
    return message


def _unknown(content: str, descriptor: Any) -> tuple[str, ...]:
    """The fields in ``content``, which parses, that are none of the message's, by their path and once each.

    Protobuf's parser passes over them without a word. A name is what stands before a value or a message.
    """
    from google.protobuf import text_format

    found: dict[str, None] = {}
    tokens = text_format.Tokenizer(content.splitlines())
    within: list[tuple[str, Any]] = [("", descriptor)]
    named = within[0]
    while not tokens.AtEnd():
        token = tokens.token
        tokens.NextToken()
        if token in ("{", "<"):
            within.append(named)
        elif token in ("}", ">"):
            named = within.pop()  # the next message of a list has the same name
        elif tokens.token in (":", "{", "<", "[") and token.isidentifier():
            path, message = within[-1]
            field = None if message is None else message.fields_by_name.get(token)
            if message is not None and field is None:
                found[path + token] = None
            named = (f"{path}{token}.", None if field is None else field.message_type)
    return tuple(found)


@cache
def _classes() -> dict[str, Any]:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise ConfigError(f'protobuf is not installed ({error}): run pip install "stfs[grpc]"') from None
    described = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(__package__).joinpath("model_server.binpb").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        pool.Add(file)
    return {
        found.full_name.removeprefix(f"{PACKAGE}."): message_factory.GetMessageClass(found)
        for file in ("model_server.proto", "triton.proto")
        for found in pool.FindFileByName(file).message_types_by_name.values()
    }
