"""Reads the folders that Spark MLlib's models save themselves to: metadata in JSON, data in parquet, without Spark.

Must not live here: what a model computes (:mod:`stfs.platforms.spark_models`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import LoadFailed
from stfs.platforms.base import one_line
from stfs.signature import Array

ROOM = "org.apache.spark.ml."
MOST_METADATA_BYTES = 16 << 20
DENSE, SPARSE = 1, 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One saved model or transformer. ``kind`` is its class without the package's beginning."""

    folder: Path
    kind: str
    version: str
    parameters: Mapping[str, Any]

    @property
    def short(self) -> str:
        """``LogisticRegressionModel``."""
        return self.kind.rpartition(".")[2]

    def refuse(self, problem: str) -> LoadFailed:
        """The error that says so of this stage."""
        return LoadFailed(f"{self.folder}: {problem} ({self.short}, saved by Spark {self.version})")


def is_saved(path: Path) -> bool:
    """Whether ``path`` is such a folder, by its metadata. Never raises."""
    try:
        return str(_metadata(path).get("class", "")).startswith(ROOM)
    except LoadFailed:
        return False


def read_stage(path: Path) -> Stage:
    """The metadata at ``path``. Raises :class:`LoadFailed` where it is not such a folder, or not whole."""
    found = _metadata(path)
    name = str(found.get("class", ""))
    version = str(found.get("sparkVersion", "of unknown version"))
    if not name.startswith(ROOM):
        raise LoadFailed(f"{path}: holds {name or 'something'} of Spark {version}, and models of {ROOM}* are served")
    # What was set wins over the defaults, which older releases keep in the same place.
    parameters = {**found.get("defaultParamMap", {}), **found.get("paramMap", {})}
    return Stage(path, name.removeprefix(ROOM), version, parameters)


def read_row(stage: Stage) -> Mapping[str, Any]:
    """The one row of a stage's data: numbers, and vectors and matrices as Spark's structures.

    Raises :class:`LoadFailed` where a file is damaged or there is not one row in all of them.
    """
    import pyarrow
    from pyarrow import parquet

    rows: list[Mapping[str, Any]] = []
    folder = stage.folder / "data"
    for file in sorted(folder.glob("*.parquet")):
        try:
            # Straight from the bytes: what folders are called ("a=1") must not become columns.
            rows += parquet.ParquetFile(file).read().to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise LoadFailed(f"{file}: {one_line(error)}") from error
    if len(rows) != 1:
        raise stage.refuse(f"{folder} holds {len(rows)} rows where a model has one: is it whole?")
    return rows[0]


def vector(stage: Stage, row: Mapping[str, Any], name: str) -> Array:
    """A DenseVector or SparseVector of the data, as float64 ``[n]``."""
    found = _of(stage, row, name)
    values = np.array(found["values"], dtype=np.float64)
    if found["type"] == DENSE:
        return values
    whole = np.zeros(found["size"])
    whole[found["indices"]] = values
    return whole


def matrix(stage: Stage, row: Mapping[str, Any], name: str) -> Array:
    """A DenseMatrix, or a SparseMatrix in compressed columns, of the data, as float64 ``[rows, columns]``.

    ``isTransposed`` says that it is kept row by row.
    """
    found = _of(stage, row, name)
    shape = (found["numCols"], found["numRows"])  # as it is kept: column by column
    if found["isTransposed"]:
        shape = shape[::-1]
    values = np.array(found["values"], dtype=np.float64)
    if found["type"] == DENSE:
        kept = values.reshape(shape)
    else:
        kept = np.zeros(shape)
        starts = found["colPtrs"]
        kept[np.repeat(np.arange(shape[0]), np.diff(starts)), found["rowIndices"]] = values
    return kept if found["isTransposed"] else kept.T


def number(stage: Stage, row: Mapping[str, Any], name: str) -> float:
    """A number of the data."""
    return float(_of(stage, row, name))


def _of(stage: Stage, row: Mapping[str, Any], name: str) -> Any:
    if row.get(name) is None:
        raise stage.refuse(f"its data has no {name}, but {', '.join(row)}")
    return row[name]


def _metadata(path: Path) -> Mapping[str, Any]:
    try:
        files = sorted((path / "metadata").glob("part-*"))
        texts = [file.read_text() for file in files if 0 < file.stat().st_size <= MOST_METADATA_BYTES]
    except (OSError, UnicodeDecodeError) as error:
        raise LoadFailed(f"{path}: {one_line(error)}") from error
    if not texts:
        raise LoadFailed(f"{path}: no metadata/part-*: this is no saved model of Spark MLlib")
    try:
        found = json.loads(texts[0])
    except ValueError as error:
        raise LoadFailed(f"{path}: its metadata is not JSON: {one_line(error)}") from error
    return found if isinstance(found, dict) else {}
