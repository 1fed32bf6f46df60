"""TensorFlow Serving's REST dialect: predict, model status and metadata.

Source: ``tensorflow_serving/util/json_tensor.cc`` and ``model_servers/http_rest_api_handler.cc`` of tensorflow/serving.
Kept on purpose: shapes are checked against the signature before the model sees them, where TensorFlow Serving leaves
that to the graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stfs import codec, errors
from stfs.codec import Reader
from stfs.protocols.columns import RowObjects
from stfs.protocols.request import Resolver, is_base64_value, only_input, read_tensor, read_text, require_object
from stfs.signature import Array, Signature, Tensors, TensorSpec


def status_of(error: errors.RequestError) -> int:
    """The HTTP status of an error, as ``http_rest_api_util`` maps them."""
    match error:
        case errors.TooLarge():
            return 413
        case errors.UnsupportedEncoding():
            return 415
        case errors.InvalidRequest():
            return 400
        case errors.NotFound():
            return 404
        case errors.Unavailable():
            return 503
        case errors.DeadlineExceeded():
            return 504
        case _:
            return 500


def encode_error(error: errors.RequestError, text: str) -> bytes:
    """``{"error": text}``, with TensorFlow Serving's opening where a model or version is not there."""
    if isinstance(error, errors.ModelNotFound | errors.VersionNotFound):
        text = f"Servable not found for request: {text}"
    return b'{"error":' + codec.encode_string(text) + b"}"


def decode_predict(body: bytes, resolve: Resolver) -> tuple[Signature, Tensors, bool]:
    """The signature, the inputs (shapes not yet checked) and whether the body was in row form (``instances``).

    Bytes after the JSON value and unknown keys are ignored, as TensorFlow Serving does. Raises
    :class:`stfs.errors.InvalidRequest` for anything wrong in the body, and what ``resolve`` raises.
    """
    reader = Reader(body)
    require_object(reader)
    signature_name: str | None = None
    form: str | None = None
    data_at = -1
    asked: str | None = None
    signature: Signature | None = None
    inputs: Tensors | None = None
    while (key := reader.next_key()) is not None:
        if key in ("instances", "inputs"):
            if form is not None:
                raise errors.InvalidRequest('send either "instances" or "inputs", once')
            form = key
            data_at = reader.position
            asked = signature_name
            try:
                signature = resolve(None, None, asked)
                inputs = _read_data(reader, body, signature, form)
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
        raise errors.InvalidRequest('neither "instances" (rows) nor "inputs" (columns) in the body')
    if signature is None or inputs is None or asked != signature_name:
        signature = resolve(None, None, signature_name)
        reader = Reader(body)
        reader.seek(data_at)
        inputs = _read_data(reader, body, signature, form)
    return signature, inputs, form == "instances"


def encode_predict(outputs: Mapping[str, Array], *, rows: bool) -> bytes:
    """``{"predictions": [...]}`` in row form, ``{"outputs": ...}`` in column form; a single output goes unnamed.

    Raises :class:`stfs.errors.InvalidRequest` if row form is asked of outputs that do not share a first dimension.
    """
    as_b64 = frozenset(name for name in outputs if name.endswith("_bytes"))
    only = next(iter(outputs)) if len(outputs) == 1 else None
    if rows:
        counts = {array.shape[0] if array.ndim else None for array in outputs.values()}
        if len(counts) != 1 or None in counts:
            told = ", ".join(f'"{name}" {list(array.shape)}' for name, array in outputs.items())
            raise errors.InvalidRequest(f'these outputs have no common row count, use "inputs" (columns): {told}')
        if only is not None:
            return b'{"predictions":' + codec.encode(outputs[only], style="tfs", b64=only in as_b64) + b"}"
        return b'{"predictions":' + codec.encode_rows(outputs, style="tfs", b64_names=as_b64) + b"}"
    if only is not None:
        return b'{"outputs":' + codec.encode(outputs[only], style="tfs", b64=only in as_b64) + b"}"
    members = [
        codec.encode_string(name) + b":" + codec.encode(array, style="tfs", b64=name in as_b64)
        for name, array in outputs.items()
    ]
    return b'{"outputs":{' + b",".join(members) + b"}}"


def _read_data(reader: Reader, body: bytes, signature: Signature, form: str) -> Tensors:
    if form == "inputs":
        return _read_columns(reader, body, signature)
    return _read_rows(reader, body, signature)


def _read_columns(reader: Reader, body: bytes, signature: Signature) -> Tensors:
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


def _read_rows(reader: Reader, body: bytes, signature: Signature) -> Tensors:
    """``instances``: a list with one entry a row, each the only input's value or an object naming every input.

    Beyond TensorFlow Serving: an object may name the features of the only input instead, and leave out what may miss.
    """
    if (kind := reader.kind()) != "array":
        raise errors.InvalidRequest(f'"instances" must be a list, not {kind}')
    start = reader.position
    reader.enter_array()
    if not reader.next_item():
        raise errors.InvalidRequest('"instances" is empty')
    if reader.kind() != "object" or is_base64_value(body, reader.position, signature):
        spec = only_input(signature, 'each of the "instances"')
        reader.seek(start)
        return {spec.name: read_tensor(reader, spec, integral_floats=False)}
    rows = RowObjects(reader, body, signature, integral_floats=False, strict=True)
    while True:
        if (kind := reader.kind()) != "object":
            raise errors.InvalidRequest(f'"instances" [{rows.rows}] is {kind} where the ones before are objects')
        rows.add(reader)
        if not reader.next_item():
            return rows.tensors()


def encode_status(versions: Sequence[tuple[int, str, str]]) -> dict[str, Any]:
    """``GetModelStatusResponse`` of ``(version, state, error)`` triples; int64 is a string in protobuf JSON."""
    return {
        "model_version_status": [
            {
                "version": str(version),
                "state": state,
                "status": {"error_code": "UNKNOWN" if error else "OK", "error_message": error},
            }
            for version, state, error in versions
        ]
    }


def encode_metadata(name: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    """``GetModelMetadataResponse`` with the ``signature_def`` map."""
    signature_def = {
        key: {
            "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
            "method_name": "tensorflow/serving/predict",
            "defaults": {},
        }
        for key, signature in sorted(signatures.items())
    }
    return json.dumps(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(version)},
            "metadata": {
                "signature_def": {
                    "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                    "signature_def": signature_def,
                }
            },
        },
        indent=1,
    ).encode()


_DTYPES = {
    "float32": ("DT_FLOAT", 1),
    "float64": ("DT_DOUBLE", 2),
    "int32": ("DT_INT32", 3),
    "uint8": ("DT_UINT8", 4),
    "int16": ("DT_INT16", 5),
    "int8": ("DT_INT8", 6),
    "string": ("DT_STRING", 7),
    "int64": ("DT_INT64", 9),
    "bool": ("DT_BOOL", 10),
    "uint16": ("DT_UINT16", 17),
    "float16": ("DT_HALF", 19),
    "uint32": ("DT_UINT32", 22),
    "uint64": ("DT_UINT64", 23),
}
"""Names and numbers of ``tensorflow/core/framework/types.proto``."""


def dtype_number(spec: TensorSpec) -> int:
    """The dtype as ``types.proto`` numbers it; 0 for one it lacks."""
    return _DTYPES.get(spec.dtype_name, ("DT_INVALID", 0))[1]


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    dims = [] if spec.shape is None else [{"size": str(-1 if d is None else d), "name": ""} for d in spec.shape]
    return {
        "dtype": _DTYPES.get(spec.dtype_name, ("DT_INVALID", 0))[0],
        "tensor_shape": {"dim": dims, "unknown_rank": spec.shape is None},
        "name": f"{spec.name}:0",
    }
