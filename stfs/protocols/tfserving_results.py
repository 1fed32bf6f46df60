"""TensorFlow Serving's classify and regress: which signatures can be called so, and outputs as results.

REST and gRPC share the checks; the JSON form is at the end. Sources: ``servables/tensorflow/classifier.cc`` and
``regressor.cc`` of tensorflow/serving. As there (unless a flag says otherwise, which ours has not), the names of the
inputs and outputs decide and ``method_name`` is not looked at.

Must not live here: what goes in (``tfserving_examples``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stfs import codec
from stfs.errors import InvalidRequest, SignatureNotFound
from stfs.protocols.request import Resolver
from stfs.signature import STRING, Array, Signature

INPUTS = "inputs"
CLASSES, SCORES, OUTPUTS = "classes", "scores", "outputs"
"""Names that a signature gives its tensors (``signature_constants.h`` of TensorFlow)."""

FLOAT = np.dtype(np.float32)


def classify_signature(resolve: Resolver, name: str | None) -> Signature:
    """The signature of that name, which classifies.

    Raises :class:`SignatureNotFound`, saying what it lacks, if there is none or it does not classify.
    """
    signature = _named(resolve, name)
    _check_inputs(signature, "classification")
    if len(signature.outputs) not in (1, 2):
        raise SignatureNotFound(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if not {spec.name for spec in signature.outputs} & {CLASSES, SCORES}:
        raise SignatureNotFound(
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". Signature was: {_told(signature)}'
        )
    return signature


def regress_signature(resolve: Resolver, name: str | None) -> Signature:
    """The signature of that name, which regresses; raises as :func:`classify_signature` does."""
    signature = _named(resolve, name)
    _check_inputs(signature, "regression")
    if len(signature.outputs) != 1:
        raise SignatureNotFound("Expected one output Tensor.")
    if signature.outputs[0].name != OUTPUTS:
        raise SignatureNotFound(f"No regression outputs found in SignatureDef: {_told(signature)}")
    return signature


def _named(resolve: Resolver, name: str | None) -> Signature:
    try:
        return resolve(None, None, name)
    except SignatureNotFound:
        told = (name or "serving_default")[:100]
        raise SignatureNotFound(f"No signature was found with the name: {told}") from None


def _check_inputs(signature: Signature, purpose: str) -> None:
    if len(signature.inputs) != 1:
        raise SignatureNotFound("Expected one input Tensor.")
    if signature.inputs[0].name != INPUTS:
        raise SignatureNotFound(f"No {purpose} inputs found in SignatureDef: {_told(signature)}")


def _told(signature: Signature) -> str:
    outputs = ", ".join(f'"{spec.name}"' for spec in signature.outputs)
    return f'"{signature.name}" takes {signature.input_names()} and gives {outputs}'


def classifications(outputs: Mapping[str, Array], rows: int) -> tuple[Array | None, Array | None]:
    """Labels (``bytes``) and scores (float32), each ``[rows, classes]``, ``None`` where the signature has none.

    Raises :class:`InvalidRequest` (as TensorFlow Serving blames the request) if the model gave something else.
    """
    labels, scores = outputs.get(CLASSES), outputs.get(SCORES)
    for name, array, dtype, shown in ((CLASSES, labels, STRING, "STRING"), (SCORES, scores, FLOAT, "FLOAT")):
        if array is None:
            continue
        if array.ndim != 2:
            raise InvalidRequest(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
        if array.dtype != dtype:
            raise InvalidRequest(f"Expected {name} Tensor of DT_{shown}. Got: {array.dtype}")
        if len(array) != rows:
            raise InvalidRequest(f"Expected {name} output batch size of {rows}. Got: {len(array)}")
    if labels is not None and scores is not None and labels.shape != scores.shape:
        raise InvalidRequest(
            f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    return labels, scores


def regressions(outputs: Mapping[str, Array], rows: int) -> Array:
    """A value for each row, float32 of shape ``[rows]``. Raises :class:`InvalidRequest` if the model gave none."""
    values = outputs[OUTPUTS]
    if values.ndim != 1 and values.shape[1:] != (1,):
        raise InvalidRequest(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(values.shape)}"
        )
    if len(values) != rows:
        raise InvalidRequest(f"Input batch size did not match output batch size: {rows} vs. {len(values)}")
    if values.dtype != FLOAT:
        raise InvalidRequest(f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype}")
    return values.reshape(rows)


def encode_classifications(outputs: Mapping[str, Array], rows: int) -> bytes:
    """``{"results": [[[label, score], ...], ...]}``; what the model does not give is ``""`` and ``0.0``."""
    labels, scores = classifications(outputs, rows)
    shape = labels.shape if labels is not None else scores.shape if scores is not None else (0, 0)
    texts = [b'""'] * (shape[0] * shape[1])
    if labels is not None:
        # Bytes as they are would not be JSON where they are not UTF-8.
        texts = [codec.encode_string(label.decode(errors="replace")) for label in labels.ravel().tolist()]
    flat = np.zeros(len(texts), FLOAT) if scores is None else scores.reshape(-1)
    numbers = codec.encode(flat, style="tfs")[1:-1].split(b",")
    pairs = [b"[%b,%b]" % pair for pair in zip(texts, numbers, strict=False)]
    classes = shape[1]
    lists = [b"[" + b",".join(pairs[row * classes : (row + 1) * classes]) + b"]" for row in range(shape[0])]
    return b'{"results":[' + b",".join(lists) + b"]}"


def encode_regressions(outputs: Mapping[str, Array], rows: int) -> bytes:
    """``{"results": [value, ...]}``."""
    return b'{"results":' + codec.encode(regressions(outputs, rows), style="tfs") + b"}"
