"""Models written in plain Python: a file with a ``predict`` function or a ``Model`` class. Owns what such a file says.

::

    class Model:
        signature = {
            "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 4]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [None]}],
        }

        def __init__(self, folder):  # pathlib.Path of the folder that the file is in
            self.weights = numpy.load(folder / "weights.npy")

        def predict(self, inputs):  # dict from name to array: the rows of several requests at once
            return {"y": inputs["x"] @ self.weights}

A ``close`` method is called at the end. Without a class, the file itself holds ``signature`` and ``predict``, and
``load(folder)`` if there is something to prepare; what ``load`` returns, if anything, is the model. For several
signatures say ``signatures``, a dict by name: ``serving_default`` is answered by ``predict``, others by the method of
its name. The signature may as well stand in a signature file (:mod:`stfs.platforms.sidecar`). A ``ValueError`` refuses
the request with its text. Must not live here: importing and calling (:mod:`stfs.platforms.user_code`).
"""

from __future__ import annotations

import inspect
import logging
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed, ModelFailed, RequestError
from stfs.platforms.base import (
    DEFAULT_SIGNATURE,
    Isolation,
    LoadOptions,
    Platform,
    Servable,
    model_file,
    model_files,
)
from stfs.platforms.processing import NAME as PROCESSING
from stfs.platforms.sidecar import example_sidecar, find_sidecar
from stfs.platforms.user_arrays import BrokenPromise, arrays, copies, require_rows, tells_at_load
from stfs.platforms.user_code import UserCode
from stfs.platforms.user_signature import declared
from stfs.signature import Array, Signature, Tensors, can_batch, zeros

SUFFIXES = (".py",)
MOST_READ_BYTES = 1 << 20
ANSWERS = re.compile(rb"^\s*def\s+predict\b", re.MULTILINE)
SAYS_WHAT_IT_TAKES = re.compile(rb"^\s*(?:self\.)?signatures?\s*[:=]", re.MULTILINE)

logger = logging.getLogger(__name__)


class PythonPlatform(Platform):
    """``model.py``, or a single ``*.py`` that defines ``predict``; never ``processing.py``."""

    name = "python"
    aliases = ("py", "custom")
    extra = "python"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`.

        Beside files of another platform, a file counts if it defines both ``predict`` and a signature: then it may
        well be what serves them, and the user must say which is meant.
        """
        if path.is_file():
            return path.suffix in SUFFIXES and path.name != PROCESSING
        file = _only_file(path)
        source = _beginning(file) if file is not None else b""
        if not ANSWERS.search(source):
            return False
        return bool(SAYS_WHAT_IT_TAKES.search(source)) or not _of_another_platform(path)

    def isolation_for(self, path: Path) -> Isolation:
        """A worker process: Python holds the GIL while it runs, and may do anything to the process that it is in."""
        return "process"

    def load(self, path: Path, options: LoadOptions) -> PythonServable:
        """See :meth:`Platform.load`. Of ``options``, only ``signature_file`` counts: the code sees to the rest."""
        file = path if path.is_file() else _only_file(path) or model_file(path, SUFFIXES)
        code = UserCode(file)
        try:
            servable = PythonServable(code, _model(code), options)
        except BaseException:
            code.close()
            raise
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


class PythonServable(Servable):
    """The object or module of a user's file; its methods are called one at a time, on whatever thread asks."""

    platform = PythonPlatform.name

    def __init__(self, code: UserCode, model: Any, options: LoadOptions) -> None:
        self.runtime = f"Python {platform.python_version()}, {code.file.name}"
        self._code = code
        self._model = model
        try:
            self.signatures = declared(model, code.file, DEFAULT_SIGNATURE) or _beside(code.file, options)
            self._methods = {name: _method(model, name, code.file) for name in self.signatures}
            self._try()
        except BaseException:
            self._end()
            raise

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`. The methods get copies, which they may write into."""
        signature = self.signatures[signature_name]
        method = self._methods[signature_name]
        whose = f"{self._code.file.name}: {method.__name__}"
        outputs = arrays(self._code.call(method, copies(inputs)), signature.outputs, whose)
        if signature.batchable:
            require_rows(outputs, signature.rows(inputs), whose)
        return outputs

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._end()
        self._model = None
        self._methods = {}

    def _end(self) -> None:
        close = getattr(self._model, "close", None)
        try:
            if callable(close):
                self._code.call(close, refuses=False)
        except ModelFailed as error:
            logger.warning("%s did not close: %s", self._code.file, error)
        finally:
            self._code.close()

    def _try(self) -> None:
        """Runs each signature on zeros. They may mean nothing to the model; what it returns should still fit."""
        for name, signature in self.signatures.items():
            try:
                self.run(name, zeros(signature.inputs, 1))
            except RequestError as error:
                if isinstance(error, BrokenPromise) and tells_at_load(error, signature.inputs):
                    raise LoadFailed(f"{self._code.file.parent / str(error)}") from error
                logger.info("%s: a first run on zeros failed: %s", self._code.file, error)


def _model(code: UserCode) -> Any:
    """The object that answers: an instance of ``Model``, what ``load`` returned, or the module."""
    folder = code.file.parent
    kind = getattr(code.module, "Model", None)
    # Where there is a predict function, a class of that name is the network that it calls.
    if isinstance(kind, type) and not callable(getattr(code.module, "predict", None)):
        return code.build(kind, folder) if _takes_one(kind) else code.build(kind)
    if callable(load := getattr(code.module, "load", None)):
        made = code.build(load, folder) if _takes_one(load) else code.build(load)
        return code.module if made is None else made
    return code.module


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a constructor or ``load`` wants the folder."""
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def _method(model: Any, signature: str, file: Path) -> Callable[..., Any]:
    name = "predict" if signature == DEFAULT_SIGNATURE else signature
    method: Callable[..., Any] | None = getattr(model, name, None)
    if not callable(method):
        raise LoadFailed(f'{file}: there is no {name}(inputs) to answer signature "{signature}"')
    if inspect.iscoroutinefunction(method):
        raise LoadFailed(f"{file}: {name} is async, which cannot be served: write def {name}(inputs)")
    return method


def _beside(file: Path, options: LoadOptions) -> dict[str, Signature]:
    sidecar = find_sidecar(file, options)
    if sidecar is None or not sidecar.outputs:
        raise LoadFailed(f"{file}: does not say what it takes and gives: add signature = {example_sidecar((), ())}")
    batches = can_batch(sidecar.inputs, sidecar.outputs)
    return {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, sidecar.inputs, sidecar.outputs, batches)}


def _only_file(folder: Path) -> Path | None:
    """``model.py``, else the only Python file of the folder that is not :data:`PROCESSING`."""
    files = [file for file in model_files(folder, SUFFIXES) if file.name != PROCESSING]
    return files[0] if len(files) == 1 else None


def _beginning(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_READ_BYTES)
    except OSError:
        return b""


def _of_another_platform(path: Path) -> bool:
    from stfs.platforms import available  # not at the top: it imports this file

    return any(other.detect(path) for other in available().values() if not isinstance(other, PythonPlatform))
