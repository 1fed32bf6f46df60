"""What every dialect decodes into, and how it finds the signature that says how to decode.

A body names its model, version and signature in small keys that may stand before or after the tensors. A dialect
asks its :class:`Resolver` for the signature as soon as it meets the tensors, with what it has read so far, and asks
again in the rare case that a later key names another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stfs import codec
from stfs.codec import Reader
from stfs.errors import BadElement, InvalidRequest, MalformedJson
from stfs.protocols.ragged import read_ragged
from stfs.signature import STRING, Array, Signature, TensorSpec


class Resolver(Protocol):
    """Finds the signature that a request means."""

    def __call__(self, model_name: str | None, version: int | None, signature_name: str | None) -> Signature:
        """The signature; ``None`` stands for the server's or model's default.

        Raises :class:`stfs.errors.NotFound` or :class:`stfs.errors.Unavailable`.
        """


@dataclass(frozen=True, slots=True)
class Payload:
    """An answer that is more than JSON text: ``headers`` stand beside the content type."""

    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def read_tensor(reader: Reader, spec: TensorSpec, *, integral_floats: bool, name: str = "") -> Array:
    """The value at the cursor as ``spec``'s dtype; a fault in it is told with the input's name, or with ``name``.

    ``null`` is a missing value where the spec allows it; numbers are their own text in a category of strings.
    """
    try:
        if spec.nullable or spec.values:  # said apart, for most have neither and each word costs
            return reader.tensor(
                spec.dtype, integral_floats=integral_floats, nullable=spec.nullable, literals=bool(spec.values)
            )
        return reader.tensor(spec.dtype, integral_floats=integral_floats)
    except BadElement as fault:
        if spec.ragged and reader.kind() == "array":
            return read_ragged(reader, spec, integral_floats=integral_floats, name=name or spec.name)
        raise fault.named(name or spec.name) from None


def new_column(spec: TensorSpec, *, integral_floats: bool) -> codec.Column:
    """A column to fill with rows of ``spec``, taking what :func:`read_tensor` takes."""
    return codec.Column(spec.dtype, integral_floats=integral_floats, nullable=spec.nullable, literals=bool(spec.values))


def read_text(reader: Reader, key: str) -> str | None:
    """The string at the cursor; ``None`` for ``null``."""
    if (kind := reader.kind()) == "null":
        reader.skip()
        return None
    if kind != "string":
        raise InvalidRequest(f'"{key}" must be a string, not {kind}')
    value = reader.value()
    assert isinstance(value, str)
    return value


def read_version(reader: Reader, key: str = "model_version") -> int | None:
    """A version at the cursor, a number or a string of digits; ``None`` for ``null`` and ``""``."""
    value = reader.value()
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidRequest(f'"{key}" must be a whole number, not {value!r}')
    return parse_version(value, key)


def parse_version(value: int | str, key: str = "model_version") -> int:
    """``3`` and ``"3"`` as 3. Raises :class:`InvalidRequest`."""
    if isinstance(value, int) or (value.isascii() and value.isdigit() and len(value) <= 19):
        version = int(value)
        if 0 <= version < 1 << 63:
            return version
    raise InvalidRequest(f'"{key}" must be a whole number below 2^63, not {value!r}')


def only_input(signature: Signature, what: str) -> TensorSpec:
    """The single input of a signature, for bodies that do not name it."""
    if len(signature.inputs) == 1:
        return signature.inputs[0]
    raise InvalidRequest(f"{what} must be an object that names the inputs {signature.input_names()}")


def first_key(body: bytes | memoryview, position: int) -> str | None:
    """The first key of the object at ``position``; ``None`` if it is empty or no object. Moves nobody's cursor."""
    probe = Reader(body)
    probe.seek(position)
    if probe.kind() != "object":
        return None
    probe.enter_object()
    return probe.next_key()


def is_base64_value(body: bytes | memoryview, position: int, signature: Signature) -> bool:
    """Whether the object at ``position`` is a ``{"b64": ...}`` string rather than an object that names inputs."""
    if len(signature.inputs) != 1 or signature.inputs[0].dtype != STRING or signature.inputs[0].name == "b64":
        return False
    return first_key(body, position) == "b64"


def require_object(reader: Reader) -> None:
    """Enter the body's object; anything else is refused by name."""
    if (kind := reader.kind()) != "object":
        raise MalformedJson(f"the body must be a JSON object, not {kind}", reader.position)
    reader.enter_object()
