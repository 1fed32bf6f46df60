"""Python functions around a model: ``preprocess`` before it, ``postprocess`` after it. Owns finding and wrapping them.

They stand in ``processing.py`` beside the model, or in a file that the user names::

    signature = {"inputs": [{"name": "text", "dtype": "string", "shape": [None]}]}  # what clients send, if it differs

    def preprocess(inputs):  # dict from name to array, as clients sent them, a row for each row
        return {"tokens": ...}  # what the model takes

    def postprocess(outputs):  # what the model gave
        return outputs  # what clients get

Either may be left out, and so may a side of the signature that is the model's own. The arrays hold the rows of several
requests. A ``ValueError`` from ``preprocess`` refuses the request with its text. Must not live here: any model.
"""

from __future__ import annotations

import logging
import mmap
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed, RequestError
from stfs.platforms.base import Servable
from stfs.platforms.user_arrays import BrokenPromise, arrays, copies, require_rows, tells_at_load
from stfs.platforms.user_code import UserCode
from stfs.platforms.user_signature import declared
from stfs.signature import Array, Signature, Tensors, zeros

NAME = "processing.py"
MARSHALLED = ("preprocess_function.marshal", "postprocess_function.marshal")
# An entry of the map collection_def in a MetaGraphDef (meta_graph.proto): the key, then a value with a bytes_list.
COLLECTION = re.compile(rb"\x0a(?:\x13|\x14)(preprocess_function|postprocess_function)\x12[\x80-\xff]*[\x00-\x7f]\x12")
HINT = (
    f"if clients are to see something else than the model has, say it in {NAME}: "
    'signature = {"inputs": [...], "outputs": [{"name": ..., "dtype": ..., "shape": ...}]}'
)

logger = logging.getLogger(__name__)


def find_processing(model: Path, named: Path | None = None) -> Path | None:
    """The file with the functions for the model at ``model``, a file or a folder: ``named``, else the one beside it.

    Raises :class:`LoadFailed` if ``named`` is no file, or if the model's functions are there as bytecode only.
    """
    if named is not None:
        if not named.is_file():
            raise LoadFailed(f"{named}: there is no such file with preprocess and postprocess")
        return named
    folder = model if model.is_dir() else model.parent
    if (folder / NAME).is_file():
        return folder / NAME
    if where := _bytecode(folder):
        raise LoadFailed(
            f"{where} as bytecode, which loads in the very Python that wrote it and is never run here; answers without "
            f"it would be wrong: write def preprocess(inputs) and def postprocess(outputs) into {folder / NAME}"
        )
    return None


def wrap(servable: Servable, file: Path) -> Servable:
    """``servable`` with the functions in ``file`` around it; closing the one that is returned closes both.

    Blocking; runs the file, and the model once. Raises :class:`LoadFailed` if the file does not load or does not fit
    the model. ``servable`` stays the caller's to close then.
    """
    code = UserCode(file)
    try:
        wrapped = ProcessedServable(servable, code)
        _try(wrapped, file)
    except BaseException:
        code.close()
        raise
    logger.info("%s stands around %s", file, servable.runtime)
    return wrapped


class ProcessedServable(Servable):
    """A servable between two functions; either may be missing.

    Where the file says ``signatures``, only those are served; where it says ``signature``, only the model's default
    one. A signature that it does not speak of would be answered without the functions that it needs.
    """

    def __init__(self, servable: Servable, code: UserCode) -> None:
        self.platform = servable.platform
        self.runtime = servable.runtime
        self._servable = servable
        self._code = code
        self._before = _function(code, "preprocess")
        self._after = _function(code, "postprocess")
        if self._before is None and self._after is None:
            raise LoadFailed(f"{code.file}: has neither preprocess(inputs) nor postprocess(outputs)")
        self.signatures = _signatures(servable, code)
        self.on_gpu = servable.on_gpu
        self.concurrent = servable.concurrent  # but for the functions, which wait for each other

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`. The functions run one at a time, the model beside them."""
        outer, inner = self.signatures[signature_name], self._servable.signatures[signature_name]
        tensors = inputs
        if self._before is not None:
            whose = f"{self._code.file.name}: preprocess"
            tensors = arrays(self._code.call(self._before, copies(inputs)), inner.inputs, whose)
            if outer.batchable:
                require_rows(tensors, outer.rows(inputs), whose)
        outputs = self._servable.run(signature_name, tensors)
        if self._after is None:
            return outputs
        whose = f"{self._code.file.name}: postprocess"
        outputs = arrays(self._code.call(self._after, copies(outputs), refuses=False), outer.outputs, whose)
        if outer.batchable:
            require_rows(outputs, outer.rows(inputs), whose)
        return outputs

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._servable.close()
        self._code.close()


def _function(code: UserCode, name: str) -> Callable[..., Any] | None:
    function = getattr(code.module, name, None)
    if function is not None and not callable(function):
        raise LoadFailed(f"{code.file}: {name} is not a function")
    return function


def _signatures(servable: Servable, code: UserCode) -> dict[str, Signature]:
    models = servable.signatures
    said = declared(code.module, code.file, servable.default_signature, models)
    if left := sorted(models.keys() - said.keys()) if said else []:
        logger.warning("%s: says nothing of signature %s, so it is not served", code.file, ", ".join(left))
    return {
        name: Signature(name, outer.inputs, outer.outputs, outer.batchable and models[name].batchable)
        for name, outer in (said or models).items()
    }


def _try(wrapped: ProcessedServable, file: Path) -> None:
    """Runs each signature on zeros. They may mean nothing to the model; what the functions return should still fit."""
    for name, signature in wrapped.signatures.items():
        try:
            wrapped.run(name, zeros(signature.inputs, 1))
        except (Exception, SystemExit) as error:  # a model may raise anything
            if isinstance(error, BrokenPromise) and tells_at_load(error, signature.inputs):
                raise LoadFailed(f"{file.parent / str(error)}; {HINT}") from error
            logger.info(
                "%s: a first run on zeros failed: %s", file, error if isinstance(error, RequestError) else repr(error)
            )


def _bytecode(folder: Path) -> str:
    """Where the functions of simple_tensorflow_serving stand as marshalled code; empty if nowhere."""
    for name in MARSHALLED:
        if (folder / name).is_file():
            return f"{folder / name}: holds a function"
    try:
        with (
            (folder / "saved_model.pb").open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            found = COLLECTION.search(data)
            return f"{file.name}: holds {found.group(1).decode()}" if found else ""
    except (OSError, ValueError):  # no such file, or an empty one
        return ""
