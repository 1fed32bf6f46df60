"""H2O models: MOJO archives, POJO sources and binary models. Owns recognising, loading and scoring them.

What goes into a row and comes out of one is ``h2o_columns``'s; turning a binary model into a MOJO, ``h2o_binary``'s;
compiling a POJO, ``h2o_pojo``'s. It runs in Java, see :mod:`stfs.platforms.jvm`.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib.metadata
import logging
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import LoadFailed, ModelFailed
from stfs.platforms import jvm
from stfs.platforms.base import DEFAULT_SIGNATURE, LoadOptions, Platform, Servable, model_files, one_line
from stfs.platforms.h2o_binary import binary_version, to_mojo
from stfs.platforms.h2o_columns import Columns, read_columns
from stfs.platforms.h2o_pojo import instantiate, is_pojo
from stfs.signature import Array, Signature, Tensors

MOJO_SUFFIXES = (".zip", ".mojo")
INI = "model.ini"
PACKAGE = "h2o"
MOST_FILES = 64
"""Files of a folder that are opened to see whether one is a binary model, which has no ending to tell."""

LOOP_UP_TO_ROWS = 2
"""Rows that are scored by a call each: preparing one call for all costs as much as three."""

logger = logging.getLogger(__name__)


class H2oPlatform(Platform):
    """``model.zip`` or a single ``*.zip`` or ``*.mojo`` that is a MOJO, a POJO's ``*.java``, or a binary model."""

    name = "h2o"
    aliases = ("h2oai", "h2o-3")
    extra = "h2o"
    isolation = "process"
    worker_group = "jvm"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`."""
        return bool(_mojos(path) or _pojos(path) or _binaries(path))

    def load(self, path: Path, options: LoadOptions) -> H2oServable:
        """See :meth:`Platform.load`. Starts the JVM of this process if it does not run yet.

        A binary model is turned into a MOJO first, by a server of H2O that runs for some ten seconds; a POJO is
        compiled.
        """
        file = find_file(path)
        jpype = jvm.start(self.name, self.extra, PACKAGE, options.jvm_heap_bytes)
        installed = importlib.metadata.version(PACKAGE)
        if file.suffix == ".java":
            with jvm.loading(file):
                model, kind = instantiate(jpype, file, jvm.jars(PACKAGE)), "POJO"
        elif (version := binary_version(file)) is not None:
            with tempfile.TemporaryDirectory(prefix="stfs-h2o-") as folder:
                mojo = to_mojo(file, version, installed, Path(folder), options.jvm_heap_bytes)
                model, kind = _load_mojo(jpype, mojo, installed, file), f"binary model of {version}"
        else:
            model = _load_mojo(jpype, file, installed, file)
            kind = f"MOJO of {model._h2oVersion}"
        with jvm.loading(file):
            servable = H2oServable(jpype, model, read_columns(jpype, model, file))
            java = jpype.JClass("java.lang.System").getProperty("java.version")
            servable.runtime = f"h2o {installed}, Java {java}, {model.getModelCategory()} {kind}"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


class H2oServable(Servable):
    """One model of H2O; its ``run`` may be called on many threads at once.

    Inputs are one column a feature: float64 for numbers, text for categories with their levels in the signature; all of
    them may miss. Outputs are named as in the frames that H2O itself predicts: ``predict``, and a column a class.
    """

    platform = H2oPlatform.name
    concurrent = True
    # score0 works on arrays of its caller's, and keeps nothing between calls.

    def __init__(self, jpype: Any, model: Any, columns: Columns) -> None:
        self.signature = Signature(DEFAULT_SIGNATURE, columns.inputs, columns.outputs, batchable=True)
        self.signatures = {DEFAULT_SIGNATURE: self.signature}
        self._jpype = jpype
        self._columns = columns
        self._score: Callable[[Array], Array] | None = scorer(jpype, model, columns)

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`.

        Raises :class:`stfs.errors.InvalidInput` naming the levels where a category is none of them, and
        :class:`stfs.errors.OutOfMemory` where the heap has no room for the rows.
        """
        assert self._score is not None, "the model is closed"
        rows = self.signature.rows(inputs)
        encoded = self._columns.encode(inputs, rows)
        if rows == 0:
            return self._columns.decode(np.empty((0, self._columns.scores)))
        try:
            with jvm.memory_bounded(f"to score {rows} rows"):
                return self._columns.decode(self._score(encoded))
        except self._jpype.JException as error:
            raise ModelFailed(jvm.told(error)) from error

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._score = None
        jvm.collect()


def scorer(jpype: Any, model: Any, columns: Columns) -> Callable[[Array], Array]:
    """What scores float64 ``[rows, width]`` with one call of Java, to float64 ``[rows, scores]``.

    H2O scores a row a call. The loop over rows is made of Java's own parts: method handles put together so that a row
    is their only argument, mapped over a stream. The last column of a row is the offset if the model has one.
    """
    handles = jpype.JClass("java.lang.invoke.MethodHandles")
    method_type = jpype.JClass("java.lang.invoke.MethodType").methodType
    row, table = jpype.JClass("double[]").class_, jpype.JClass("double[][]").class_
    anything = jpype.JClass("java.lang.Object").class_
    offset = [jpype.JDouble] if columns.has_offset else []
    score0 = handles.publicLookup().findVirtual(
        jpype.JClass("hex.genmodel.GenModel").class_, "score0", method_type(row, row, *offset, row)
    )
    # (row, offset, scores) becomes (row, offset) by new scores each time, and that (row) by taking the row apart.
    new_scores = handles.insertArguments(handles.arrayConstructor(row), 0, jpype.JInt(columns.scores))
    handle = handles.collectArguments(score0.bindTo(model), 1 + len(offset), new_scores)
    if offset:
        arrays = jpype.JClass("java.util.Arrays").class_
        features = columns.width - 1
        copy = handles.publicLookup().findStatic(arrays, "copyOf", method_type(row, row, jpype.JInt))
        head = handles.insertArguments(copy, 1, jpype.JInt(features))
        last = handles.insertArguments(handles.arrayElementGetter(row), 1, jpype.JInt(features))
        handle = handles.permuteArguments(handles.filterArguments(handle, 0, head, last), method_type(row, row), 0, 0)
    as_interface = jpype.JClass("java.lang.invoke.MethodHandleProxies").asInterfaceInstance
    score_row = as_interface(
        jpype.JClass("java.util.function.Function").class_, handle.asType(method_type(anything, anything))
    )
    new_table = as_interface(
        jpype.JClass("java.util.function.IntFunction").class_,
        handles.arrayConstructor(table).asType(method_type(anything, jpype.JInt)),
    )
    stream, to_rows, to_row = jpype.JClass("java.util.Arrays").stream, jpype.JArray.of, jpype.JArray(jpype.JDouble)

    def score(encoded: Array) -> Array:
        if len(encoded) <= LOOP_UP_TO_ROWS:
            return np.array([score_row.apply(to_row(values)) for values in encoded])
        return np.array(stream(to_rows(encoded)).map(score_row).toArray(new_table))

    return score


def find_file(path: Path) -> Path:
    """The model at ``path``. Raises :class:`LoadFailed` if there is none or, naming them, if there are several."""
    found = _mojos(path) or _pojos(path) or _binaries(path)
    if len(found) == 1:
        return found[0]
    if found:
        told = " and ".join(file.name for file in found)
        raise LoadFailed(
            f"{path}: which is the model, {told}? Name one of them model{found[0].suffix}, or keep one only"
        )
    if archives := model_files(path, MOJO_SUFFIXES):
        raise LoadFailed(f"{archives[0]}: {_no_mojo(archives[0])}")
    raise LoadFailed(f"{path}: no MOJO (*.zip), POJO (*.java) or binary model of H2O")


def _mojos(path: Path) -> list[Path]:
    return [file for file in model_files(path, MOJO_SUFFIXES) if not _no_mojo(file)]


def _pojos(path: Path) -> list[Path]:
    return [file for file in model_files(path, (".java",)) if is_pojo(file)]


def _binaries(path: Path) -> list[Path]:
    try:
        files = [path] if path.is_file() else sorted(path.iterdir())[:MOST_FILES]
    except OSError:
        return []
    return [file for file in files if not file.name.startswith(".") and binary_version(file) is not None]


def _no_mojo(file: Path) -> str:
    """Why ``file`` is no MOJO, in words; empty if it is one."""
    try:
        with zipfile.ZipFile(file) as archive:
            return "" if INI in archive.namelist() else f"this archive is no MOJO: it holds no {INI}"
    except zipfile.BadZipFile:
        return "this is no zip archive, or only the first part of one"
    except OSError as error:
        return error.strerror or one_line(error)


def _load_mojo(jpype: Any, mojo: Path, installed: str, file: Path) -> Any:
    """The model of an archive; errors are told of ``file``, which it may have been made from."""
    about = _about(mojo, file)
    try:
        with jvm.loading(file):
            return jpype.JClass("hex.genmodel.MojoModel").load(str(mojo))
    except LoadFailed as error:
        wrote = about.get("h2o_version", "")
        if not wrote or wrote == installed:
            raise
        raise LoadFailed(f"{error} (written by H2O {wrote}, and this is {installed})") from error


def _about(mojo: Path, file: Path) -> Mapping[str, str]:
    """The section ``info`` of a MOJO. Raises :class:`LoadFailed` where an entry of the archive is damaged."""
    try:
        with zipfile.ZipFile(mojo) as archive:
            if (damaged := archive.testzip()) is not None:
                raise LoadFailed(f"{file}: the archive is damaged, at its entry {damaged}")
            text = archive.read(INI).decode(errors="replace")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise LoadFailed(f"{file}: {one_line(error)}") from error
    except Exception as error:  # zlib.error, which is no OSError
        raise error if isinstance(error, LoadFailed) else LoadFailed(f"{file}: {one_line(error)}") from error
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, delimiters=("=",))
    with contextlib.suppress(configparser.Error):  # its other sections are lists, of H2O's own making
        parser.read_string(text.partition("[columns]")[0])
    return dict(parser["info"]) if parser.has_section("info") else {}
