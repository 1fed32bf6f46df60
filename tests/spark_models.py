"""Folders as Spark MLlib saves its models, written without Spark out of what a real Spark saved and predicted.

``spark_recorded.json`` holds, for each model, its metadata and the row of its parquet file as Spark wrote them, rows to
ask, and Spark's own answers to them; its ``source`` says which Spark. The parquet types are those of Spark's files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).with_name("spark_recorded.json")


@cache
def recorded() -> Mapping[str, Any]:
    """By name: ``model``, ``rows`` and, unless it is one that cannot be served, ``answers``."""
    models: Mapping[str, Any] = json.loads(RECORDED.read_text())["models"]
    return models


def asked(name: str) -> np.ndarray:
    """The rows that Spark was asked, float64 ``[rows, n]``."""
    return np.array(recorded()[name]["rows"], dtype=np.float64)


def answers(name: str) -> dict[str, np.ndarray]:
    """What Spark answered, by the names of our outputs."""
    return {output: np.array(values) for output, values in recorded()[name]["answers"].items()}


def write(folder: Path, name: str) -> Path:
    """The recorded model of that name as a folder; returns it."""
    return write_model(folder, recorded()[name]["model"])


def write_model(folder: Path, model: Mapping[str, Any]) -> Path:
    """A model, given as its ``metadata``, its ``data`` and, of a pipeline, its ``stages``."""
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    (folder / "metadata" / "_SUCCESS").touch()
    (folder / "metadata" / "part-00000").write_text(json.dumps(model["metadata"]) + "\n")
    if "data" in model:
        write_data(folder, model["data"])
    for index, stage in enumerate(model.get("stages", ())):
        write_model(folder / "stages" / f"{index}_{stage['metadata']['uid']}", stage)
    return folder


def write_data(folder: Path, row: Mapping[str, Any]) -> Path:
    """The data's one parquet file, compressed as Spark does."""
    import pyarrow
    from pyarrow import parquet

    integers, doubles = pyarrow.list_(pyarrow.int32()), pyarrow.list_(pyarrow.float64())
    vector = pyarrow.struct(
        [("type", pyarrow.int8()), ("size", pyarrow.int32()), ("indices", integers), ("values", doubles)]
    )
    matrix = pyarrow.struct(
        [
            *(("type", pyarrow.int8()), ("numRows", pyarrow.int32()), ("numCols", pyarrow.int32())),
            *(("colPtrs", integers), ("rowIndices", integers), ("values", doubles), ("isTransposed", pyarrow.bool_())),
        ]
    )

    def kind(value: Any) -> Any:
        if isinstance(value, dict):
            return matrix if "numRows" in value else vector
        return {bool: pyarrow.bool_(), int: pyarrow.int32(), float: pyarrow.float64()}[type(value)]

    schema = pyarrow.schema([(name, kind(value)) for name, value in row.items()])
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "_SUCCESS").touch()
    file = folder / "data" / "part-00000-0.snappy.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([dict(row)], schema), file, compression="snappy")
    return file
