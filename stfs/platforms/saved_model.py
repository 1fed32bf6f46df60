"""What a SavedModel says about itself: its tags, and its signatures in our terms. Opens no session, runs nothing.

The formats are ``saved_model.proto`` and ``meta_graph.proto`` of TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import LoadFailed
from stfs.platforms.base import one_line
from stfs.signature import STRING, Shape, Signature, TensorSpec, can_batch

SERVE = "serve"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Binding:
    """A signature, and how its tensors are called in the graph.

    ``feeds`` and ``input_names`` run alongside each other; ``feed_dtypes`` holds the dtype to cast to where the graph's
    is not the signature's (bfloat16), else ``None``. ``fetches`` holds no tensor twice and none that is fed, which
    a session refuses; ``sources`` says for each of ``output_names`` which fetch it is, or ``-1 - i`` for feed ``i``.
    """

    signature: Signature
    input_names: tuple[str, ...]
    feeds: tuple[str, ...]
    feed_dtypes: tuple[np.dtype[Any] | None, ...]
    output_names: tuple[str, ...]
    fetches: tuple[str, ...]
    sources: tuple[int, ...]


class _NotServableError(Exception):
    """A signature that takes or gives what no client can send or read."""


def choose_tags(folder: Path, wanted: Sequence[str] = ()) -> list[str]:
    """The tags of the graph to load: ``serve`` alone if there is such a graph, else those of the only one there is.

    Where tags are ``wanted``, it must be the graph that has these and no others.

    Blocking; reads the whole file. Raises :class:`LoadFailed` if it does not parse, or listing the tags if several fit.
    """
    tag_sets = [sorted(meta.meta_info_def.tags) for meta in _parse(folder).meta_graphs]
    if wanted and sorted(wanted) in tag_sets:
        return sorted(wanted)
    if [SERVE] in tag_sets and not wanted:
        return [SERVE]
    if len(tag_sets) == 1 and not wanted:
        return tag_sets[0]
    told = "; ".join(", ".join(tags) or "none" for tags in tag_sets) or "it holds no graph"
    asked = f'"{", ".join(wanted or [SERVE])}"'
    raise LoadFailed(f"{folder}: no graph is tagged {asked} alone; the tags are {told}")


def _parse(folder: Path) -> Any:
    from google.protobuf import message, text_format
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    binary, text = folder / "saved_model.pb", folder / "saved_model.pbtxt"
    try:
        if binary.is_file():
            saved.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse(text.read_text(), saved)
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise LoadFailed(f"{folder}: not a SavedModel: {one_line(error)}") from error
    except OSError as error:
        raise LoadFailed(f"{folder}: {one_line(error)}") from error
    return saved


def read_bindings(tf: Any, meta_graph: Any, folder: Path) -> Mapping[str, Binding]:
    """Every signature that can be served, by name. One that cannot be is logged and left out.

    Raises :class:`LoadFailed` if none is left.
    """
    bindings: dict[str, Binding] = {}
    refused: list[str] = []
    for name in sorted(meta_graph.signature_def):
        if name.startswith("__saved_model_"):  # its own init and train operations, which the loader has run
            continue
        try:
            bindings[name] = _binding(tf, name, meta_graph.signature_def[name])
        except _NotServableError as error:
            refused.append(f'signature "{name}" cannot be served: {error}')
            logger.warning("%s: %s", folder, refused[-1])
    if not bindings:
        raise LoadFailed(f"{folder}: {'; '.join(refused) or 'it has no signatures'}")
    return bindings


def _binding(tf: Any, name: str, definition: Any) -> Binding:
    inputs = [part for key in sorted(definition.inputs) for part in _parts(tf, key, definition.inputs[key])]
    outputs = [part for key in sorted(definition.outputs) for part in _parts(tf, key, definition.outputs[key])]
    if not outputs:
        raise _NotServableError("it has no outputs")
    feeds = tuple(part.tensor for part in inputs)
    fetches = tuple(dict.fromkeys(part.tensor for part in outputs if part.tensor not in feeds))
    takes, gives = tuple(part.spec for part in inputs), tuple(part.spec for part in outputs)
    sparse = any(part.sparse for part in (*inputs, *outputs))  # rows of which cannot be stacked
    return Binding(
        Signature(name, takes, gives, not sparse and can_batch(takes, gives), definition.method_name),
        tuple(spec.name for spec in takes),
        feeds,
        tuple(part.dtype if part.dtype != part.spec.dtype else None for part in inputs),
        tuple(spec.name for spec in gives),
        fetches,
        tuple(-1 - feeds.index(p.tensor) if p.tensor in feeds else fetches.index(p.tensor) for p in outputs),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One tensor of the graph; a sparse one is three."""

    spec: TensorSpec
    tensor: str
    dtype: np.dtype[Any]
    sparse: bool


def _part(
    name: str, shown: np.dtype[Any], shape: Shape | None, tensor: str, actual: np.dtype[Any], sparse: bool = False
) -> _Part:
    return _Part(TensorSpec(name, shown, shape, graph_name=tensor), tensor, actual, sparse)


def _parts(tf: Any, name: str, info: Any) -> Sequence[_Part]:
    kind = info.WhichOneof("encoding")
    shown, actual = _dtypes(tf, name, info.dtype)
    shape = _shape(info.tensor_shape)
    if kind == "name":
        return [_part(name, shown, shape, info.name, actual)]
    if kind == "coo_sparse":
        index = np.dtype("int64")
        rank = None if shape is None else len(shape)
        coo = info.coo_sparse
        return [
            _part(f"{name}_values", shown, (None,), coo.values_tensor_name, actual, sparse=True),
            _part(f"{name}_indices", index, (None, rank), coo.indices_tensor_name, index, sparse=True),
            _part(f"{name}_shape", index, (rank,), coo.dense_shape_tensor_name, index, sparse=True),
        ]
    raise _NotServableError(f'"{name}" is neither a dense nor a sparse tensor')


def _dtypes(tf: Any, name: str, number: int) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The dtype that clients see, and the graph's own: bfloat16 is shown as the float32 that holds it."""
    dtype = tf.dtypes.as_dtype(number).base_dtype
    if dtype == tf.string:
        return STRING, STRING
    if dtype == tf.bfloat16:
        return np.dtype("float32"), np.dtype(dtype.as_numpy_dtype)
    try:
        numeric = np.dtype(dtype.as_numpy_dtype)
    except (KeyError, TypeError, NotImplementedError):
        numeric = STRING
    if numeric.kind not in "biuf":
        raise _NotServableError(f'"{name}" is of type {dtype.name}')
    return numeric, numeric


def _shape(proto: Any) -> Shape | None:
    return None if proto.unknown_rank else tuple(None if dim.size < 0 else int(dim.size) for dim in proto.dim)
