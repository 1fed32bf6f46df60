"""Spark MLlib models against the answers that a real Spark gave (recorded, see ``spark_models``)."""

from __future__ import annotations

import copy
import json
import threading

import numpy as np
import pytest
import spark_models

from stfs.errors import InvalidInput, LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.spark import SparkPlatform

pytest.importorskip("pyarrow")

S = "serving_default"
SERVED = [name for name, model in spark_models.recorded().items() if "answers" in model]


def load(path):
    return SparkPlatform().load(path, LoadOptions())


def inputs_of(servable, rows):
    specs = servable.signatures[S].inputs
    if specs[0].name == "features":
        return {"features": rows}
    return {spec.name: rows[:, i].copy() for i, spec in enumerate(specs)}


def recorded_model(name):
    return copy.deepcopy(spark_models.recorded()[name]["model"])


def assert_same(have, want):
    assert list(have) == list(want)
    for name, values in want.items():
        assert have[name].dtype == np.float64
        np.testing.assert_allclose(have[name], values, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SERVED)
def test_answers_are_those_of_spark(tmp_path, name):
    servable = load(spark_models.write(tmp_path / "model", name))
    rows, want = spark_models.asked(name), spark_models.answers(name)
    have = servable.run(S, inputs_of(servable, rows))
    assert list(have) == [spec.name for spec in servable.signatures[S].outputs]
    assert_same({output: have[output] for output in want}, want)
    for i in range(len(rows)):
        alone = servable.run(S, inputs_of(servable, rows[[i]]))
        assert_same({output: alone[output] for output in want}, {output: want[output][[i]] for output in want})
    assert servable.run(S, inputs_of(servable, rows[:0]))["prediction"].shape == (0,)


def test_the_recording_covers_what_is_served():
    kinds = {spark_models.recorded()[name]["model"]["metadata"]["class"].rpartition(".")[2] for name in SERVED}
    assert kinds == {
        "LogisticRegressionModel",
        "LinearSVCModel",
        "LinearRegressionModel",
        "GeneralizedLinearRegressionModel",
        "PipelineModel",
    }
    kept = json.dumps(spark_models.recorded())
    assert '"type": 0' in kept  # a sparse vector and a sparse matrix are among them
    assert '"colPtrs"' in kept


def test_signature_of_a_classifier(tmp_path):
    servable = load(spark_models.write(tmp_path, "multinomial"))
    signature = servable.signatures[S]
    assert signature.batchable
    assert [(s.name, s.dtype_name, s.shape) for s in signature.inputs] == [("features", "float64", (None, 3))]
    assert [(s.name, s.dtype_name, s.shape) for s in signature.outputs] == [
        (name, "float64", (None,))
        for name in ("prediction", "probability_of_0", "probability_of_1", "probability_of_2")
    ]
    assert servable.runtime.endswith("LogisticRegressionModel of Spark 4.1.4")


def test_signature_of_a_pipeline(tmp_path):
    servable = load(spark_models.write(tmp_path, "pipeline"))
    assert [(s.name, s.dtype_name, s.shape, s.nullable) for s in servable.signatures[S].inputs] == [
        (name, "float64", (None,), False) for name in "abc"
    ]
    assert "VectorAssembler StandardScalerModel LogisticRegressionModel" in servable.runtime


def test_a_pipeline_refuses_what_is_no_number_as_spark_does(tmp_path):
    servable = load(spark_models.write(tmp_path, "pipeline"))
    inputs = {name: np.zeros(3) for name in "abc"}
    inputs["b"][1] = np.nan
    with pytest.raises(InvalidInput, match=r'^input "b", row 1: not a number'):
        servable.run(S, inputs)


def test_a_pipeline_that_keeps_what_is_no_number(tmp_path):
    model = recorded_model("pipeline")
    model["stages"][0]["metadata"]["paramMap"]["handleInvalid"] = "keep"
    servable = load(spark_models.write_model(tmp_path, model))
    assert all(spec.nullable for spec in servable.signatures[S].inputs)
    answer = servable.run(S, {"a": np.array([np.nan]), "b": np.zeros(1), "c": np.zeros(1)})
    assert np.isnan(answer["probability_of_1"]).all()


def test_a_model_from_before_spark_2_1(tmp_path):
    """Its data held one vector of coefficients; the numbers are those of the recorded binomial model."""
    model = recorded_model("logistic")
    kept = model["data"]
    matrix = kept["coefficientMatrix"]
    model["data"] = {
        "numClasses": 2,
        "numFeatures": 3,
        "intercept": kept["interceptVector"]["values"][0],
        "coefficients": {"type": 1, "values": matrix["values"]},
    }
    model["metadata"]["sparkVersion"] = "2.0.2"
    model["metadata"]["paramMap"].update(model["metadata"].pop("defaultParamMap"))
    servable = load(spark_models.write_model(tmp_path, model))
    rows = spark_models.asked("logistic")
    assert_same(servable.run(S, {"features": rows}), spark_models.answers("logistic"))


def test_a_matrix_kept_column_by_column(tmp_path):
    """The same coefficients in the other order, dense and in compressed columns."""
    rows, want = spark_models.asked("wide_multinomial"), spark_models.answers("wide_multinomial")
    whole = np.zeros((3, 24))
    whole[0, 3], whole[0, 17], whole[2, 3], whole[2, 17] = spark_models.recorded()["wide_multinomial"]["model"]["data"][
        "coefficientMatrix"
    ]["values"]
    starts = np.concatenate([[0], np.cumsum((whole != 0).sum(axis=0))]).tolist()
    dense = {"type": 1, "numRows": 3, "numCols": 24, "values": whole.T.ravel().tolist(), "isTransposed": False}
    columns = {"type": 0, "numRows": 3, "numCols": 24, "isTransposed": False, "colPtrs": starts}
    columns |= {"rowIndices": [0, 2, 0, 2], "values": [whole[i, j] for j in (3, 17) for i in (0, 2)]}
    for index, matrix in enumerate((dense, columns)):
        model = recorded_model("wide_multinomial")
        model["data"]["coefficientMatrix"] = matrix
        servable = load(spark_models.write_model(tmp_path / str(index), model))
        assert_same(servable.run(S, {"features": rows}), want)


def test_extreme_margins_neither_overflow_nor_warn(tmp_path):
    servable = load(spark_models.write(tmp_path / "logistic", "logistic"))
    far = np.array([[0, -1e6, 0], [0, 1e6, 0]], dtype=np.float64)
    answer = servable.run(S, {"features": far})
    assert answer["prediction"].tolist() == [1.0, 0.0]
    assert answer["probability_of_1"].tolist() == [1.0, 0.0]
    poisson = load(spark_models.write(tmp_path / "poisson", "glr_poisson"))
    assert np.isfinite(poisson.run(S, {"features": far})["prediction"]).all()


def test_concurrent_callers_get_their_own_rows(tmp_path):
    servable = load(spark_models.write(tmp_path, "wide_multinomial"))
    parts = np.random.default_rng(4).normal(size=(8, 5, 24))
    wants = [servable.run(S, {"features": part}) for part in parts]
    wrong = []

    def work(i):
        for _ in range(100):
            have = servable.run(S, {"features": parts[i]})
            if any(not np.array_equal(have[name], values) for name, values in wants[i].items()):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_that_cannot_be_served_is_told_by_its_name(tmp_path):
    path = spark_models.write(tmp_path, "tree")
    with pytest.raises(LoadFailed) as caught:
        load(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: cannot be served; these can: LogisticRegressionModel, ")
    assert told.endswith("(DecisionTreeClassificationModel, saved by Spark 4.1.4)")


def test_a_stage_that_cannot_be_served_is_told_by_its_name(tmp_path):
    model = recorded_model("pipeline")
    model["stages"][1]["metadata"]["class"] = "org.apache.spark.ml.feature.PCAModel"
    with pytest.raises(LoadFailed, match=r"cannot be served as a stage; .* \(PCAModel, saved by Spark 4\.1\.4\)$"):
        load(spark_models.write_model(tmp_path, model))


def test_stages_that_are_no_chain(tmp_path):
    model = recorded_model("pipeline")
    model["stages"][2]["metadata"]["paramMap"]["featuresCol"] = "raw"
    with pytest.raises(LoadFailed, match=r'takes column "raw", and the stage before it gives "scaled"'):
        load(spark_models.write_model(tmp_path, model))


def test_an_assembler_of_vectors(tmp_path):
    model = recorded_model("pipeline")
    model["stages"][0]["metadata"]["paramMap"]["inputCols"] = ["a", "pair"]
    with pytest.raises(LoadFailed, match=r"2 columns for 3 features: columns that are vectors"):
        load(spark_models.write_model(tmp_path, model))


def test_a_stage_that_is_missing(tmp_path):
    model = recorded_model("pipeline")
    del model["stages"][1:]
    with pytest.raises(LoadFailed, match=r"stage 1, StandardScaler_\w+, is missing"):
        load(spark_models.write_model(tmp_path, model))


def test_an_offset_column(tmp_path):
    model = recorded_model("glr_poisson")
    model["metadata"]["paramMap"]["offsetCol"] = "exposure"
    with pytest.raises(LoadFailed, match="trained with an offset column"):
        load(spark_models.write_model(tmp_path, model))


def drop_data(folder):
    for file in (folder / "data").glob("*.parquet"):
        file.unlink()


def cut_data(folder):
    for file in (folder / "data").glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:300])


def other_columns(folder):
    spark_models.write_data(folder, {"weights": {"type": 1, "values": [1.0]}, "numClasses": 2})


def other_framework(folder):
    (folder / "metadata" / "part-00000").write_text(
        '{"class": "org.apache.spark.mllib.Thing", "sparkVersion": "1.6.3"}'
    )


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (drop_data, "holds 0 rows where a model has one: is it whole?"),
        (cut_data, "part-00000-0.snappy.parquet: "),
        (other_columns, "its data has no coefficients, but weights, numClasses"),
        (other_framework, "holds org.apache.spark.mllib.Thing of Spark 1.6.3, and models of org.apache.spark.ml."),
        (lambda folder: (folder / "metadata" / "part-00000").write_text("{"), "its metadata is not JSON"),
        (lambda folder: (folder / "metadata" / "part-00000").unlink(), "this is no saved model of Spark MLlib"),
        (lambda folder: (folder / "metadata" / "part-00000").write_bytes(b"\xff\xfe"), "codec can't decode"),
    ],
)
def test_files_that_are_refused(tmp_path, damage, told):
    path = spark_models.write(tmp_path, "logistic")
    damage(path)
    with pytest.raises(LoadFailed) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_detection(tmp_path):
    platform = SparkPlatform()
    path = spark_models.write(tmp_path / "model", "logistic")
    assert platform.detect(path)
    assert platform.detect(spark_models.write(tmp_path / "pipeline", "pipeline"))
    assert not platform.detect(tmp_path)
    assert not platform.detect(tmp_path / "nothing")
    assert not platform.detect(path / "data")
    other_framework(path)
    assert not platform.detect(path)
