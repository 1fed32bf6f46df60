"""Spark MLlib models, read from their folders and computed in numpy: no Spark, no Java. Owns pipelines and signatures.

What the stages compute is told in :mod:`stfs.platforms.spark_models`, how they lie on disk in
:mod:`stfs.platforms.spark_files`. The libsvm form of requests is a matter of the wire.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import InvalidInput, PlatformMissing
from stfs.platforms.base import DEFAULT_SIGNATURE, LoadOptions, Platform, Servable, one_line
from stfs.platforms.spark_files import Stage, is_saved, read_stage
from stfs.platforms.spark_models import PREDICTORS, TRANSFORMERS, Predictor, Transform
from stfs.signature import Array, Signature, Tensors, TensorSpec

INPUT = "features"
PIPELINE = "PipelineModel"
ASSEMBLER = "feature.VectorAssembler"
FLOAT: np.dtype[Any] = np.dtype("float64")

logger = logging.getLogger(__name__)


class SparkPlatform(Platform):
    """The folder that ``model.save(...)`` of ``pyspark.ml`` or ``org.apache.spark.ml`` wrote."""

    name = "spark"
    aliases = ("sparkml", "mllib", "pyspark")
    extra = "spark"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`."""
        return is_saved(path)

    def load(self, path: Path, options: LoadOptions) -> SparkServable:
        """See :meth:`Platform.load`. Stages that cannot be served are refused by name."""
        try:
            import pyarrow
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        chain = read_chain(read_stage(path))
        servable = SparkServable(chain)
        servable.runtime = f"pyarrow {pyarrow.__version__}, {chain.told}"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


@dataclass(frozen=True, slots=True)
class Chain:
    """A model with what comes before it. ``columns`` are those that a VectorAssembler puts together; else empty.

    ``nan_passes`` says that a value that is not a number goes through; else it is refused, as Spark does.
    """

    predictor: Predictor
    transforms: tuple[Transform, ...]
    columns: tuple[str, ...]
    nan_passes: bool
    told: str


class SparkServable(Servable):
    """One chain; its ``run`` may be called on many threads at once.

    Input ``features`` is float64 ``[None, n]``; for a pipeline that begins with a VectorAssembler the inputs are its
    columns, float64 ``[None]`` each. Outputs are ``prediction`` and ``probability_of_0``, ..., float64 ``[None]`` each.
    """

    platform = SparkPlatform.name

    def __init__(self, chain: Chain) -> None:
        n = chain.predictor.features
        inputs: tuple[TensorSpec, ...] = (TensorSpec(INPUT, FLOAT, (None, n)),)
        if chain.columns:
            inputs = tuple(TensorSpec(name, FLOAT, (None,), nullable=chain.nan_passes) for name in chain.columns)
        outputs = tuple(TensorSpec(name, FLOAT, (None,)) for name in chain.predictor.names)
        self.signatures = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, inputs, outputs, batchable=True)}
        self._chain = chain

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`. Raises :class:`InvalidInput` for NaN where the pipeline's assembler refuses it."""
        chain = self._chain
        if chain.columns:
            self.signatures[DEFAULT_SIGNATURE].rows(inputs)
            if not chain.nan_passes:
                _refuse_nan(inputs)
            x = np.stack([inputs[name] for name in chain.columns], axis=1)
        else:
            x = inputs[INPUT]
        # Overflow to infinity is what Spark's doubles do too, without a word.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            for transform in chain.transforms:
                x = transform(x)
            return chain.predictor.predict(x)


def read_chain(stage: Stage) -> Chain:
    """The model that ``stage`` is, or whose pipeline it is. Raises :class:`LoadFailed` for what cannot be served."""
    stages = pipeline_stages(stage) if stage.kind == PIPELINE else [stage]
    if not stages:
        raise stage.refuse("the pipeline has no stages")
    last = stages[-1]
    if last.kind not in PREDICTORS:
        raise last.refuse(f"cannot be served; these can: {_short(PREDICTORS)}, and pipelines that end in one of them")
    predictor = PREDICTORS[last.kind](last)
    columns: tuple[str, ...] = ()
    nan_passes = True
    transforms = []
    for each, following in itertools.pairwise(stages):
        if each.kind == ASSEMBLER and each is stages[0]:
            columns = tuple(each.parameters.get("inputCols", ()))
            nan_passes = each.parameters.get("handleInvalid", "error") == "keep"
        elif each.kind in TRANSFORMERS:
            transformer = TRANSFORMERS[each.kind](each)
            if transformer.features not in (None, predictor.features):
                raise each.refuse(f"gives {transformer.features} features, and {last.short} takes {predictor.features}")
            transforms.append(transformer.transform)
        else:
            raise each.refuse(
                f"cannot be served as a stage; these can: VectorAssembler, as the first, {_short(TRANSFORMERS)}"
            )
        _follows(each, following)
    if columns and len(columns) != predictor.features:
        raise stage.refuse(
            f"its VectorAssembler has {len(columns)} columns for {predictor.features} features: "
            "columns that are vectors themselves cannot be served"
        )
    told = f"{' '.join(each.short for each in stages)} of Spark {stage.version}"
    return Chain(predictor, tuple(transforms), columns, nan_passes, told)


def pipeline_stages(pipeline: Stage) -> list[Stage]:
    """The stages of a PipelineModel, in order, those of pipelines inside it among them."""
    found: list[Stage] = []
    for index, uid in enumerate(pipeline.parameters.get("stageUids", ())):
        folders = [
            folder
            for folder in sorted((pipeline.folder / "stages").glob("*_*"))
            if folder.name.partition("_")[2] == uid and folder.name.partition("_")[0].isdigit()
        ]
        if not folders:
            raise pipeline.refuse(f"stage {index}, {uid}, is missing in its folder stages")
        stage = read_stage(folders[0])
        found += pipeline_stages(stage) if stage.kind == PIPELINE else [stage]
    return found


def _follows(stage: Stage, following: Stage) -> None:
    """Raises :class:`LoadFailed` unless what ``stage`` gives is what ``following`` takes."""
    given = stage.parameters.get("outputCol")
    taken = following.parameters.get("inputCol" if following.kind in TRANSFORMERS else "featuresCol")
    if following.kind in {*TRANSFORMERS, *PREDICTORS} and given != taken:
        raise following.refuse(
            f'takes column "{taken}", and the stage before it gives "{given}": only chains are served'
        )


def _refuse_nan(inputs: Mapping[str, Array]) -> None:
    for name, values in inputs.items():
        missing = np.isnan(values)
        if missing.any():
            where = f", row {int(missing.argmax())}" if len(values) > 1 else ""
            raise InvalidInput(
                name, "not a number, and this pipeline refuses it (handleInvalid is not keep)", where=where
            )


def _short(kinds: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(kind.rpartition(".")[2] for kind in kinds)
