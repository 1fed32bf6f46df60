"""CNTK models on CNTK's native library. Owns finding the library, the signature, and how rows become CNTK's sequences.

CNTK's C interface takes one sequence a call. Where a model's inputs are no sequences, many rows can be made one: see
:class:`CntkServable`. How the library is called is told in :mod:`stfs.platforms.cntk_capi`, the model file in
:mod:`stfs.platforms.cntk_proto`. CNTK's Python package is never imported: it is for Python 3.6.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from stfs.errors import InvalidRequest, LoadFailed, ModelFailed, PlatformMissing
from stfs.platforms.base import (
    DEFAULT_SIGNATURE,
    LoadOptions,
    Platform,
    Servable,
    model_file,
    model_files,
    one_line,
    usable_cores,
)
from stfs.platforms.beside import folder
from stfs.platforms.cntk_capi import CORE, VERSION, CntkError, Library, NativeModel, Variable, load_library
from stfs.platforms.cntk_proto import BATCH, ModelMessage
from stfs.platforms.onnx_rows import rows_agree
from stfs.signature import Array, Signature, Tensors, TensorSpec

INSTALL = "stfs platforms install cntk"
LIBRARIES = Path("cntk") / "libs"
SUFFIXES = (".cmf", ".dnn", ".model")
SHARED_SUFFIX = ".model"  # LightGBM, XGBoost and others call their files so too
DICTIONARY = b"\x08"  # CNTK 2: a protobuf whose first field is its version, and whose next is the entries
LEGACY = "BCN\0".encode("utf-16-le")  # CNTK 1: its first marker
FLOAT = np.dtype("float32")
MOST_DEFAULT_THREADS = 8
STEPS = (3, 5)  # two lengths of a sequence, to see which outputs are sequences

Mode = Literal["together", "one by one", "sequence"]

logger = logging.getLogger(__name__)


class CntkPlatform(Platform):
    """``model.cmf``, ``.dnn`` or ``.model``, or a single file that ends so. Models that CNTK exported as ONNX are ONNX.

    Runs are in a worker process: an error in one of CNTK's own threads ends the process that it is in.
    """

    name = "cntk"
    aliases = ("cognitivetoolkit",)
    extra = "cntk"
    isolation = "process"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`. A file that ends in ``.model`` must begin as CNTK's do."""
        return bool(model_files(path, SUFFIXES, accept=_may_be_cntk))

    def load(self, path: Path, options: LoadOptions) -> CntkServable:
        """See :meth:`Platform.load`.

        ``options.threads`` is the number of threads of one run, 0 as many as there are usable cores, up to 8; the first
        CNTK model of the process decides for all. Raises :class:`LoadFailed` for ``device="cuda"``.
        """
        library = _library(options.threads or min(usable_cores(), MOST_DEFAULT_THREADS))
        file = model_file(path, SUFFIXES)
        if options.device == "cuda":
            raise LoadFailed(f"{file}: device cuda was asked for, but CNTK models are run on the CPU")
        message = _message(file)
        try:
            servable = _servable(library, file, message)
        except CntkError as error:
            raise LoadFailed(f"{file}: CNTK {VERSION} does not take it: {error}") from error
        servable.runtime = f"CNTK {VERSION}, CPU"
        logger.info("model %s runs on %s, rows %s", options.model_name, servable.runtime, servable.mode)
        return servable


class CntkServable(Servable):
    """A model in CNTK's memory. Its runs take turns.

    ``mode`` tells how a request's rows are run. ``together``: as the steps of one sequence, which is allowed where
    inputs have, or were given, a sequence axis, and was seen to give the answers of rows run alone. ``one by one``:
    each in a call of its own. ``sequence``: the model looks along the sequence, so a request is one: inputs and outputs
    with a sequence axis have the shape ``[steps, *sample]``, those without one ``[*sample]``, and there is no batch.
    """

    platform = CntkPlatform.name

    def __init__(self, native: NativeModel, signature: Signature, mode: Mode) -> None:
        """Takes over ``native``."""
        self._native = native
        self._signature = signature
        self._outputs = list(zip(signature.outputs, native.outputs, strict=True))
        self._inputs = list(zip(signature.inputs, native.inputs, strict=True))
        self.mode = mode
        self.signatures = {signature.name: signature}

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`."""
        values = {variable.name: inputs[spec.name] for spec, variable in self._inputs}
        if self.mode == "sequence":
            found = self._sequence(values)
        elif (rows := self._signature.rows(inputs)) == 0:
            found = [np.zeros((0, *(dim or 0 for dim in variable.shape)), FLOAT) for variable in self._native.outputs]
        else:
            found = self._evaluate(values) if self.mode == "together" else self._row_by_row(values, rows)
            if any(len(output) != rows for output in found):
                raise ModelFailed(f"CNTK gave {[len(output) for output in found]} rows for {rows}")
        return {spec.name: output for (spec, _), output in zip(self._outputs, found, strict=True)}

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._native.close()

    def _row_by_row(self, values: Mapping[str, Array], rows: int) -> list[Array]:
        alone = [self._evaluate({name: v[i : i + 1] for name, v in values.items()}) for i in range(rows)]
        return [np.concatenate(column) for column in zip(*alone, strict=True)]

    def _sequence(self, values: Mapping[str, Array]) -> list[Array]:
        steps = {}
        for variable in self._native.inputs:
            value = values[variable.name]
            steps[variable.name] = value if value.ndim > len(variable.shape) else value[None]
            if not len(value):
                raise InvalidRequest(f'input "{variable.name}": a sequence must have a step at least')
        found = self._evaluate(steps)
        ranks = [len(spec.shape or ()) for spec, _ in self._outputs]
        return [output[0] if output.ndim > rank else output for output, rank in zip(found, ranks, strict=True)]

    def _evaluate(self, values: Mapping[str, Array]) -> list[Array]:
        try:
            return self._native.evaluate(values)
        except CntkError as error:
            raise ModelFailed(f"CNTK: {error}") from error


def find_libraries() -> Path | None:
    """The folder of CNTK's native libraries, beside the server; ``None`` if they are not installed."""
    found = folder("cntk") / LIBRARIES
    return found if (found / CORE).is_file() else None


def _library(threads: int) -> Library:
    found = find_libraries()
    if found is None:
        raise PlatformMissing(CntkPlatform.name, CntkPlatform.extra, command=INSTALL)
    try:
        return load_library(found, threads)
    except (OSError, ValueError) as error:  # for another kind of machine, or damaged
        raise PlatformMissing(CntkPlatform.name, CntkPlatform.extra, one_line(error), INSTALL) from error


def _may_be_cntk(file: Path) -> bool:
    """By the first bytes, where the ending is shared: a protobuf of a version and entries, or the marker of CNTK 1."""
    if file.suffix != SHARED_SUFFIX:
        return True
    try:
        with file.open("rb") as opened:
            head = opened.read(len(LEGACY))
    except OSError:
        return False
    return head == LEGACY or (head[:1] == DICTIONARY and head[2:3] == b"\x12")


def _message(file: Path) -> ModelMessage | None:
    """What the file says of itself; ``None`` for one of CNTK 1, which only CNTK can read."""
    try:
        with file.open("rb") as opened:
            if opened.read(len(LEGACY)) == LEGACY:
                return None
        return ModelMessage(file)
    except OSError as error:
        raise LoadFailed(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LoadFailed(f"{file}: is not a model of CNTK: {error}") from None
    except ImportError as error:
        raise PlatformMissing(CntkPlatform.name, CntkPlatform.extra, one_line(error)) from error


def _servable(library: Library, file: Path, message: ModelMessage | None) -> CntkServable:
    """Settled by running it: what the file says of axes is not all that decides whether rows are independent."""
    native = NativeModel(library, file)
    try:
        native.evaluate(_zeros(native, set(), 1))  # what cannot be run at all is told now
        axes = message.input_axes() if message else {}
        if message and all(axes.get(variable.name) == [BATCH] for variable in native.inputs):
            servable = CntkServable(native, _rows_signature(native), "one by one")
            return _as_sequence(library, file, message, servable) or servable
        rows = CntkServable(native, _rows_signature(native), "together")
        if _agree(CntkServable(native, rows.signatures[DEFAULT_SIGNATURE], "one by one"), rows, file):
            return rows
        batch_only = {name for name, its in axes.items() if its == [BATCH]}
        return CntkServable(native, _sequence_signature(native, batch_only), "sequence")
    except BaseException:
        native.close()
        raise


def _as_sequence(library: Library, file: Path, message: ModelMessage, alone: CntkServable) -> CntkServable | None:
    """The model with a sequence axis added, if it gives the same answers; the untouched one is closed then."""
    with tempfile.NamedTemporaryFile(suffix=".cmf") as changed:
        changed.write(message.add_sequence_axis())
        changed.flush()
        try:
            native = NativeModel(library, Path(changed.name))
        except CntkError as error:
            logger.warning("%s: rows run one by one, for it cannot be given a sequence axis: %s", file, error)
            return None
    together = CntkServable(native, alone.signatures[DEFAULT_SIGNATURE], "together")
    if not _agree(alone, together, file):
        together.close()
        return None
    alone.close()
    return together


def _agree(alone: CntkServable, together: CntkServable, file: Path) -> bool:
    """Whether rows run together give the answers of rows run alone; raises :class:`CntkError` if none can be run."""
    signature = alone.signatures[DEFAULT_SIGNATURE]
    inputs = tuple(TensorSpec(spec.name, FLOAT, (1, *(spec.shape or ())[1:])) for spec in signature.inputs)
    probe = Signature(DEFAULT_SIGNATURE, inputs, signature.outputs, batchable=False)
    try:
        agree = rows_agree(
            probe,
            lambda tensors: alone.run(DEFAULT_SIGNATURE, tensors),
            lambda tensors: together.run(DEFAULT_SIGNATURE, tensors),
        )
    except ModelFailed as error:
        logger.info("%s: rows run apart: %s", file, error)
        return False
    if not agree:
        logger.info("%s: rows run apart: together they do not give the answers of rows run alone", file)
    return agree


def _names(variables: list[Variable], kind: str) -> list[str]:
    """Names to serve; CNTK leaves those out that nobody gave."""
    made_up = f"{kind}_%d" if sum(not variable.name for variable in variables) > 1 else kind
    return [variable.name or (made_up % i if "%" in made_up else made_up) for i, variable in enumerate(variables)]


def _rows_signature(native: NativeModel) -> Signature:
    sides = [
        tuple(
            TensorSpec(name, FLOAT, (None, *variable.shape))
            for name, variable in zip(_names(variables, kind), variables, strict=True)
        )
        for variables, kind in ((native.inputs, "input"), (native.outputs, "output"))
    ]
    return Signature(DEFAULT_SIGNATURE, sides[0], sides[1], batchable=True)


def _sequence_signature(native: NativeModel, batch_only: set[str]) -> Signature:
    """Which outputs are sequences is seen from two lengths. Raises :class:`CntkError` if it takes neither."""
    inputs = tuple(
        TensorSpec(name, FLOAT, variable.shape if variable.name in batch_only else (None, *variable.shape))
        for name, variable in zip(_names(native.inputs, "input"), native.inputs, strict=True)
    )
    lengths = []
    for steps in STEPS:
        lengths.append([len(output) for output in native.evaluate(_zeros(native, batch_only, steps))])
    outputs = tuple(
        TensorSpec(name, FLOAT, (None, *variable.shape) if {short, long} != {1} else variable.shape)
        for name, variable, short, long in zip(_names(native.outputs, "output"), native.outputs, *lengths, strict=True)
    )
    return Signature(DEFAULT_SIGNATURE, inputs, outputs, batchable=False)


def _zeros(native: NativeModel, batch_only: set[str], steps: int) -> Tensors:
    return {
        variable.name: np.zeros((1 if variable.name in batch_only else steps, *(d or 1 for d in variable.shape)), FLOAT)
        for variable in native.inputs
    }
