"""The STFS dialect: ``POST /`` with ``{"model_name", "model_version", "signature_name", "data"}``.

Body and answers as simple_tensorflow_serving 0.8.2 has them. Every model takes every form of ``data`` that the seed
took for one kind of model or showed in its documentation (see ``forms``), and a body without ``data`` may name the
inputs itself.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import numpy as np

from stfs import codec, errors
from stfs.codec import Reader
from stfs.protocols.forms import read_data, read_named
from stfs.protocols.request import Resolver, read_text, read_version, require_object
from stfs.signature import STRING, Array, Signature, Tensors

OPTIONS = ("model_name", "model_version", "signature_name", "base64_decode", "preprocess", "postprocess", "run_profile")

MAX_UNKNOWN = 64
"""Keys beyond this are not remembered; no signature has as many inputs as a body may have keys."""

UNSUPPORTED_MEDIA_TYPE = "Error, unsupported content type"


def status_of(error: errors.RequestError) -> int:
    """The HTTP status of an error. STFS knows one status for everything that the client could have avoided: 400."""
    match error:
        case errors.TooLarge():
            return 413
        case errors.UnsupportedEncoding():
            return 415
        case errors.InvalidRequest() | errors.NotFound():
            return 400
        case errors.ShareExceeded():
            return 429
        case errors.Unavailable():
            return 503
        case errors.DeadlineExceeded():
            return 504
        case _:
            return 500


def decode(body: bytes | memoryview, resolve: Resolver) -> tuple[Signature, Tensors]:
    """The signature that the body means and its inputs, each of the signature's dtype, shapes not yet checked.

    Raises :class:`stfs.errors.InvalidRequest` for anything wrong in the body, and what ``resolve`` raises.
    """
    reader = Reader(body)
    require_object(reader)
    model: str | None = None
    version: int | None = None
    signature_name: str | None = None
    decode_base64 = False
    asked: tuple[str | None, int | None, str | None] | None = None
    signature: Signature | None = None
    inputs: Tensors | None = None
    data_at = -1
    unknown: list[str] = []
    while (key := reader.next_key()) is not None:
        if key == "data":
            if data_at >= 0:
                raise errors.InvalidRequest('"data" stands twice in the body')
            # Nearly always the small keys stand before the data or are left out, so parse with what is known so far;
            # the check after the loop catches the rest.
            data_at = reader.position
            asked = (model, version, signature_name)
            try:
                signature = resolve(*asked)
                inputs = read_data(reader, body, signature)
            except (errors.InvalidRequest, errors.NotFound, errors.Unavailable):
                # Perhaps a later key names the model or signature that this data is meant for.
                reader.seek(data_at)
                reader.skip()
                inputs = None
        elif key == "model_name":
            model = read_text(reader, key)
        elif key == "model_version":
            version = read_version(reader)
        elif key == "signature_name":
            signature_name = read_text(reader, key)
        elif key == "base64_decode":
            decode_base64 = reader.value() is True
        else:
            if key not in OPTIONS and len(unknown) < MAX_UNKNOWN:
                unknown.append(key)
            reader.skip()
    reader.end()
    if data_at < 0:
        signature = resolve(model, version, signature_name)
        inputs = _read_unwrapped(body, signature, unknown)
    elif signature is None or inputs is None or asked != (model, version, signature_name):
        signature = resolve(model, version, signature_name)
        reader = Reader(body)
        reader.seek(data_at)
        inputs = read_data(reader, body, signature)
    if decode_base64:
        inputs = {name: _decode_base64(name, array) for name, array in inputs.items()}
    return signature, inputs


def encode(outputs: Mapping[str, Array]) -> bytes:
    """``{output_name: nested list, ...}``, floats in their shortest round-trip form."""
    members = [codec.encode_string(name) + b":" + codec.encode(array) for name, array in outputs.items()]
    return b"{" + b",".join(members) + b"}"


def encode_error(error: errors.RequestError, text: str) -> bytes:
    """``{"error": text}``; for a wrong content type the seed's own text, with ours beside it."""
    if isinstance(error, errors.UnsupportedMediaType):
        detail = codec.encode_string(text)
        return b'{"error":' + codec.encode_string(UNSUPPORTED_MEDIA_TYPE) + b',"detail":' + detail + b"}"
    return b'{"error":' + codec.encode_string(text) + b"}"


def _read_unwrapped(body: bytes | memoryview, signature: Signature, keys: list[str]) -> Tensors:
    """A body without ``data`` whose other keys name inputs, as in the seed's generated clients."""
    names = {spec.name for spec in signature.inputs} | signature.columns.keys()
    stray = [key for key in keys if key not in names]
    if stray or not keys:
        told = f" (unknown here: {', '.join(stray[:5])})" if stray else ""
        raise errors.InvalidRequest(f'"data" is missing{told}; send {{"data": {{input: values}}}}')
    return read_named(Reader(body), body, signature, inner=True, ignored=OPTIONS)


def _decode_base64(name: str, array: Array) -> Array:
    """String tensors with each element base64-decoded, either alphabet, padded or not; other tensors as they are."""
    if array.dtype != STRING:
        return array
    decoded = np.empty(array.shape, dtype=STRING)
    for index, text in np.ndenumerate(array):
        standard = text.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
        try:
            decoded[index] = base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
        except binascii.Error as fault:
            raise errors.InvalidInput(name, f"element {list(index)} is not base64: {fault}") from None
    return decoded
