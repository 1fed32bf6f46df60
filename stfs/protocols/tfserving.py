"""TensorFlow Serving's REST dialect: predict, and its table of errors.

Source: ``tensorflow_serving/util/json_tensor.cc`` and ``model_servers/http_rest_api_handler.cc`` of tensorflow/serving.
Differs on purpose, each time by answering more or sooner: shapes are checked against the signature before the model
sees them, where TensorFlow Serving leaves that to the graph; float16 and uint16 are served; a signature is found where
there is only one; what is wrong with an element is told by input, path and byte.

Must not live here: classify and regress (``tfserving_examples``, ``tfserving_results``), status and metadata
(``tfserving_status``).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Literal

from stfs import codec, errors
from stfs.codec import Reader
from stfs.protocols.columns import RowObjects
from stfs.protocols.request import Resolver, is_base64_value, only_input, read_tensor, read_text, require_object
from stfs.signature import Array, Signature, Tensors

DEFAULT_SIGNATURE = "serving_default"

ROW_KEYS = frozenset({"instances"})
"""The keys of a body whose value holds a row in each item, where that of the others holds columns."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def status_of(error: errors.RequestError) -> int:
    """The HTTP status of an error, as ``http_rest_api_util`` maps them."""
    match error:
        case errors.TooLarge():
            return 413
        case errors.UnsupportedEncoding():
            return 415
        case errors.InvalidRequest() | errors.SignatureNotFound():
            return 400
        case errors.NotFound():
            return 404
        case errors.ShareExceeded():
            return 429
        case errors.Unavailable():
            return 503
        case errors.DeadlineExceeded():
            return 504
        case _:
            return 500


def encode_error(error: errors.RequestError, text: str) -> bytes:
    """``{"error": text}``, in TensorFlow Serving's words where it has words for it."""
    match error:
        case errors.ModelNotFound() | errors.VersionNotFound() if error.model:
            model = error.model[: len(text)]  # a name may be as long as an address
            asked = f"Latest({model})" if error.version is None else f"Specific({model}, {error.version})"
            text = f"Servable not found for request: {asked}"
        case errors.MalformedJson():
            text = f"JSON Parse error: {error.problem} at offset: {error.offset}"
    return b'{"error":' + codec.encode_string(text) + b"}"


def decode_predict(
    body: bytes | memoryview, resolve: Resolver, row_keys: Container[str] = ROW_KEYS
) -> tuple[Signature, Tensors, bool]:
    """The signature, the inputs (shapes not yet checked) and whether the body was in row form (``instances``).

    Bytes after the JSON value and unknown keys are ignored, as TensorFlow Serving does (its parser stops when it is
    done). Raises :class:`stfs.errors.InvalidRequest` for anything wrong in the body, and what ``resolve`` raises.
    """
    reader = open_body(body)
    signature_name: str | None = None
    form: str | None = None
    data_at = -1
    asked: str | None = None
    signature: Signature | None = None
    inputs: Tensors | None = None
    while (key := reader.next_key()) is not None:
        if key in ("instances", "inputs"):
            if form is not None:
                raise errors.InvalidRequest("Expecting only one of 'inputs' or 'instances' keys to exist, once")
            form = key
            data_at = reader.position
            asked = signature_name
            try:
                signature = _resolve(resolve, asked)
                inputs = _read_data(reader, body, signature, form, row_keys)
            except (errors.InvalidRequest, errors.NotFound, errors.Unavailable):
                # Perhaps a later signature_name says what this data is meant for.
                reader.seek(data_at)
                reader.skip()
                inputs = None
        elif key == "signature_name":
            signature_name = read_text(reader, key)
        else:
            reader.skip()
    if form is None:
        raise errors.InvalidRequest("Missing 'inputs' or 'instances' key")
    if signature is None or inputs is None or asked != signature_name:
        signature = _resolve(resolve, signature_name)
        reader = Reader(body)
        reader.seek(data_at)
        inputs = _read_data(reader, body, signature, form, row_keys)
    return signature, inputs, form in row_keys


def open_body(body: bytes | memoryview) -> Reader:
    """A reader inside the body's object, past a byte order mark if it has one."""
    reader = Reader(body)
    if body[:3] == _BYTE_ORDER_MARK:  # true of a view as well
        reader.seek(len(_BYTE_ORDER_MARK))
    require_object(reader)
    return reader


def _resolve(resolve: Resolver, signature_name: str | None) -> Signature:
    try:
        return resolve(None, None, signature_name)
    except errors.SignatureNotFound:
        name = (signature_name or DEFAULT_SIGNATURE)[:100]
        raise errors.SignatureNotFound(f'Serving signature name: "{name}" not found in signature def') from None


def encode_predict(outputs: Mapping[str, Array], *, rows: bool) -> bytes:
    """``{"predictions": [...]}`` in row form, ``{"outputs": ...}`` in column form; a single output goes unnamed.

    Raises :class:`stfs.errors.InvalidRequest` if row form is asked of outputs that do not share a first dimension.
    """
    if rows:
        return b'{"predictions":' + encode_rows(outputs, "tfs") + b"}"
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return b'{"outputs":' + codec.encode(array, style="tfs", b64=_is_bytes(name)) + b"}"
    members = [
        codec.encode_string(name) + b":" + codec.encode(array, style="tfs", b64=_is_bytes(name))
        for name, array in outputs.items()
    ]
    return b'{"outputs":{' + b",".join(members) + b"}}"


def encode_rows(outputs: Mapping[str, Array], style: Literal["shortest", "tfs"]) -> bytes:
    """A list with an entry for each row: the only output's value, or an object of all outputs.

    Raises :class:`stfs.errors.InvalidRequest` if the outputs do not share a first dimension.
    """
    counts = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(counts) != 1 or None in counts:
        told = ", ".join(f'"{name}" {list(array.shape)}' for name, array in outputs.items())
        raise errors.InvalidRequest(f'these outputs have no common row count, use "inputs" (columns): {told}')
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return codec.encode(array, style=style, b64=_is_bytes(name))
    return codec.encode_rows(outputs, style=style, b64_names=frozenset(filter(_is_bytes, outputs)))


def _is_bytes(name: str) -> bool:
    """Whether strings of an output of this name leave as ``{"b64": ...}``."""
    return name.endswith("_bytes")


def _read_data(
    reader: Reader, body: bytes | memoryview, signature: Signature, form: str, row_keys: Container[str]
) -> Tensors:
    if form in row_keys:
        return _read_rows(reader, body, signature, form)
    return _read_columns(reader, body, signature)


def _read_columns(reader: Reader, body: bytes | memoryview, signature: Signature) -> Tensors:
    """``inputs``: an object that names the inputs (others are ignored), or the only input's tensor itself."""
    if reader.kind() != "object" or is_base64_value(body, reader.position, signature):
        spec = only_input(signature, '"inputs"')
        return {spec.name: read_tensor(reader, spec, integral_floats=False)}
    reader.enter_object()
    specs = {spec.name: spec for spec in signature.inputs}
    inputs: Tensors = {}
    while (key := reader.next_key()) is not None:
        if key in specs:
            inputs[key] = read_tensor(reader, specs[key], integral_floats=False)
        else:
            reader.skip()
    return inputs


def _read_rows(reader: Reader, body: bytes | memoryview, signature: Signature, form: str) -> Tensors:
    """``instances`` (``form``): a list with an entry for each row, the only input's value or an object naming all.

    Beyond TensorFlow Serving: an object may name the features of the only input instead, and leave out what may miss.
    """
    if (kind := reader.kind()) != "array":
        raise errors.InvalidRequest(f'"{form}" must be a list, not {kind}')
    start = reader.position
    reader.enter_array()
    if not reader.next_item():
        raise errors.InvalidRequest(f'"{form}" is empty')
    if reader.kind() != "object" or is_base64_value(body, reader.position, signature):
        spec = only_input(signature, f'each of the "{form}"')
        reader.seek(start)
        return {spec.name: read_tensor(reader, spec, integral_floats=False)}
    rows = RowObjects(reader, body, signature, integral_floats=False, strict=True)
    while True:
        if (kind := reader.kind()) != "object":
            raise errors.InvalidRequest(f'"{form}" [{rows.rows}] is {kind} where the ones before are objects')
        rows.add(reader)
        if not reader.next_item():
            return rows.tensors()
