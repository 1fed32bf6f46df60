"""TensorFlow Serving's configuration files, protobuf messages written as text, made into message objects.

The messages are in ``model_server.proto``. What their fields amount to is not known here.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from stfs.errors import ConfigError

PACKAGE = "tensorflow.serving"


@cache
def message_class(name: str) -> Any:
    """The class of a message of ``model_server.proto``, from a descriptor pool of its own.

    Raises :class:`ConfigError` with what to install if protobuf is missing.
    """
    return _classes()[name]


def read(path: Path, name: str) -> Any:
    """The message of that name that the file holds. Blocking.

    Raises :class:`ConfigError`, naming the file, the line and the column, if it cannot be read or does not parse.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"Invalid protobuf file: '{path}': it is not UTF-8 text") from None
    try:
        return parse(content, name)
    except ConfigError as error:
        raise ConfigError(f"Invalid protobuf file: '{path}': {error}") from None


def parse(content: str, name: str) -> Any:
    """The message of that name that ``content`` stands for. Raises :class:`ConfigError` with line and column."""
    message = message_class(name)()
    from google.protobuf import text_format

    # Of TensorFlow's own ConfigProto only some fields are in our file, and none of the others is a mistake.
    lenient = name == "ConfigProto"
    try:
        text_format.Parse(content, message, allow_unknown_field=lenient, descriptor_pool=message.DESCRIPTOR.file.pool)
    # Besides its own error it raises these for numbers and nesting that go too far.
    except (text_format.ParseError, ValueError, TypeError, RecursionError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"Error parsing text-format {PACKAGE}.{name}: {told}") from None
    return message


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
    messages = pool.FindFileByName("model_server.proto").message_types_by_name
    return {name: message_factory.GetMessageClass(found) for name, found in messages.items()}
