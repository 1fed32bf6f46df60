"""PMML models on jpmml-evaluator. Owns the calls of a model; what its fields mean to a signature is ``pmml_fields``'s.

It runs in Java, see :mod:`stfs.platforms.jvm`.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed, ModelFailed
from stfs.platforms import jvm
from stfs.platforms.base import DEFAULT_SIGNATURE, LoadOptions, Platform, Servable, model_file, model_files, one_line
from stfs.platforms.pmml_fields import Fields, read_fields
from stfs.signature import Array, Signature, Tensors

SUFFIXES = (".pmml", ".pmml.xml")
PACKAGE = "jpmml_evaluator"

VERSIONS = ("3.0", "3.1", "3.2", "4.0", "4.1", "4.2", "4.2.1", "4.3", "4.4", "4.4.1")
HEAD_BYTES = 1 << 16

OF_SETS = ("associationRules", "sequences")
"""Functions of models whose input is not one row."""

# What jpmml-evaluator raises about a record is of its own package; about the file it is of org.jpmml.model.
BLAMES_THE_RECORD = "org.jpmml.evaluator."

logger = logging.getLogger(__name__)


class PmmlPlatform(Platform):
    """``model.pmml`` or a single ``*.pmml``, of PMML 3.0 to 4.4."""

    name = "pmml"
    aliases = ("jpmml", "openscoring")
    extra = "pmml"
    isolation = "process"
    worker_group = "jvm"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`."""
        return bool(model_files(path, SUFFIXES))

    def load(self, path: Path, options: LoadOptions) -> PmmlServable:
        """See :meth:`Platform.load`. Starts the JVM of this process if it does not run yet."""
        file = model_file(path, SUFFIXES)
        jpype = jvm.start(self.name, self.extra, PACKAGE, options.jvm_heap_bytes)
        with jvm.loading(file):
            evaluator = _evaluator(jpype, file)
            servable = PmmlServable(jpype, evaluator, read_fields(evaluator, file))
            servable.runtime = _runtime(jpype, evaluator)
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


class PmmlServable(Servable):
    """One evaluator; its ``run`` may be called on many threads at once, each row of it being evaluated alone.

    Inputs and outputs are columns, ``[None]`` each. A field that the model does not come to read is not checked
    either: that is jpmml-evaluator's way, and it is the reference for what an answer is.
    """

    platform = PmmlPlatform.name
    concurrent = True
    # jpmml-evaluator: evaluators are thread-safe once verified.

    def __init__(self, jpype: Any, evaluator: Any, fields: Fields) -> None:
        self.signature = Signature(DEFAULT_SIGNATURE, fields.inputs, fields.outputs, batchable=True)
        self.signatures = {DEFAULT_SIGNATURE: self.signature}
        self._jpype = jpype
        self._evaluator = evaluator
        self._fields = fields
        # One call of Java a batch, its columns pickled both ways: a call for each cell would cost more than the model.
        self._evaluate_all = jpype.JClass("org.jpmml.evaluator.python.PythonEvaluatorUtil").evaluateAll

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`.

        Raises :class:`InvalidInput` naming field and value where the file's treatment of invalid values refuses a row,
        and :class:`stfs.errors.OutOfMemory` where the heap has no room for the batch.
        """
        rows = self.signature.rows(inputs)
        if rows == 0:
            return self._fields.outputs_of({}, 0)
        columns = self._fields.columns_of(inputs)
        table = {"columns": list(columns), "data": list(columns.values())}
        try:
            with jvm.memory_bounded(f"to evaluate {rows} rows"):
                answer = bytes(self._evaluate_all(self._evaluator, pickle.dumps(table, protocol=2), None, 1))
        except self._jpype.JException as error:
            raise ModelFailed(jvm.told(error)) from error
        found = pickle.loads(answer)  # made by the library above out of plain values
        for row, problem in enumerate(found["errors"] or ()):
            if problem is not None:
                raise self._blamed(columns, row, rows, problem)
        return self._fields.outputs_of(dict(zip(found["columns"], found["data"], strict=True)), rows)

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._evaluator = None
        self._fields = self._fields.without_java()
        jvm.collect()

    def _blamed(self, columns: Mapping[str, list[Any]], row: int, rows: int, problem: str) -> InvalidRequest | Any:
        """The error for one row: about the field whose value the file does not admit, if there is one such."""
        where = f", row {row}" if rows > 1 else ""
        for field in self._fields.java_inputs:
            value = columns[str(field.getName())][row]
            with contextlib.suppress(self._jpype.JException):
                field.prepare(value)
                continue
            name = str(field.getName())
            return InvalidInput(name, self._fields.refusal(name, value), where=where)
        kind, _, text = problem.partition(": ")
        if kind.startswith(BLAMES_THE_RECORD):
            return InvalidRequest(f"the model has no answer{where}: {one_line(text or kind)}")
        return ModelFailed(f"{kind.rpartition('.')[2]}: {one_line(text)}")


def _evaluator(jpype: Any, file: Path) -> Any:
    """The checked evaluator of the one model in ``file``, its verification records tried if it holds any."""
    builder = jpype.JClass("org.jpmml.evaluator.LoadingModelEvaluatorBuilder")()
    # The default handler prints what is wrong with the XML to standard error.
    problems = jpype.JClass("jakarta.xml.bind.util.ValidationEventCollector")()
    builder.setValidationEventHandler(problems)
    try:
        builder.load(jpype.JClass("java.io.File")(str(file)))
    except jpype.JException as error:
        raise LoadFailed(_unread(file, problems, error)) from error
    if problems.hasEvents():
        raise LoadFailed(_unread(file, problems, None))
    builder.setOutputFilter(jpype.JClass("org.jpmml.evaluator.OutputFilters").KEEP_FINAL_RESULTS)
    model = builder.getModel()
    if model is not None and str(model.getMiningFunction().value()) in OF_SETS:
        raise LoadFailed(
            f"{file}: a model of {model.getMiningFunction().value()} takes sets of records, and rows are served"
        )
    evaluator = builder.build()
    evaluator.verify()
    return evaluator


def _unread(file: Path, problems: Any, error: Any) -> str:
    """Why the file is not read, in one line: its version, what is wrong at which line, or what Java says."""
    start = file.read_bytes()[:HEAD_BYTES]
    root = re.search(rb"<(?:\w+:)?PMML\b[^>]*?\bversion\s*=\s*[\"']([^\"']*)", start)
    if root is None:
        return f"{file}: this is no PMML: it does not begin with the element PMML and its version"
    version = root.group(1).decode(errors="replace")
    if version not in VERSIONS:
        return f"{file}: is PMML {version}, and {_library()} reads {VERSIONS[0]} to {VERSIONS[-1]}"
    for event in problems.getEvents():
        where = event.getLocator().getLineNumber()
        return f"{file}: is PMML {version} and does not read, line {where}: {one_line(str(event.getMessage()), 200)}"
    return f"{file}: is PMML {version} and does not read: {jvm.told(error)}"


def _library() -> str:
    """``jpmml-evaluator 1.7.7``: the version stands in the name of its jar only."""
    names = (re.fullmatch(r"pmml-evaluator-(\d[\d.]*)", jar.stem) for jar in jvm.jars(PACKAGE))
    return next((f"jpmml-evaluator {name.group(1)}" for name in names if name), "jpmml-evaluator")


def _runtime(jpype: Any, evaluator: Any) -> str:
    java = jpype.JClass("java.lang.System").getProperty("java.version")
    return f"{_library()}, Java {java}, {evaluator.getSummary()}"
