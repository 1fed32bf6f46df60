"""CatBoost models against CatBoost called directly."""

from __future__ import annotations

import re

import boosters
import numpy as np
import pytest
from boosted_suite import GROWTH, S, answers, assert_batches, assert_many_threads, loaded

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed
from stfs.platforms import detect
from stfs.platforms.base import LoadOptions
from stfs.platforms.catboost import CatBoostPlatform

cb = pytest.importorskip("catboost")

PLATFORM = CatBoostPlatform()


def load(path, **options):
    return PLATFORM.load(path, LoadOptions(**options))


def saved(model, folder):
    model.save_model(str(folder / "model.cbm"))
    return loaded(PLATFORM, folder)


def assert_classifies(servable, model, inputs, cells):
    """The three outputs are the model's own; probabilities to the last bit or two, for they are derived."""
    outputs = answers(servable, inputs)
    assert list(outputs) == ["result", "predict", "predict_proba"]
    # The last digit is lost in CatBoost's JSON.
    np.testing.assert_allclose(outputs["result"], model.predict(cells, prediction_type="RawFormulaVal"), rtol=1e-14)
    np.testing.assert_allclose(outputs["predict_proba"], model.predict_proba(cells), rtol=1e-14, atol=1e-300)
    want = model.predict(cells)
    want = want[:, 0] if want.ndim == 2 and want.shape[1] == 1 else want
    if want.dtype.kind in "OUS":
        assert outputs["predict"].tolist() == [str(label).encode() for label in want.tolist()]
    else:
        np.testing.assert_array_equal(outputs["predict"], want)


@pytest.mark.parametrize("suffix", [".cbm", ".json", ".pkl", ".joblib"])
def test_every_form_gives_what_the_model_gives(tmp_path, suffix):
    servable = loaded(PLATFORM, boosters.catboost_model(tmp_path, suffix).parent)
    x = boosters.rows(60, seed=3)
    assert_classifies(servable, boosters.catboost_fit(), {"data": x}, x)
    (data,) = servable.signatures[S].inputs
    assert (data.name, data.dtype, data.shape, data.nullable) == ("data", np.float32, (None, 4), True)
    assert [(s.name, s.dtype_name, s.shape) for s in servable.signatures[S].outputs] == [
        ("result", "float64", (None, 3)),
        ("predict", "int64", (None,)),
        ("predict_proba", "float64", (None, 3)),
    ]
    assert servable.runtime == f"catboost {cb.__version__}, CatBoostClassifier MultiClass"


Y = boosters.targets(boosters.rows())


@pytest.mark.parametrize(
    ("y", "parameters"),
    [
        (Y > 0, {}),
        (np.where(Y > 0, 7, 3), {}),
        (np.array(boosters.NAMES)[Y], {}),
        (np.array(boosters.NAMES)[Y // 2], {}),
        (Y, {"loss_function": "MultiClassOneVsAll"}),
        ((Y > 0) * 0.7, {"loss_function": "CrossEntropy"}),
        (np.stack([Y > 0, Y > 1, Y == 0], axis=1).astype(int), {"loss_function": "MultiLogloss"}),
    ],
    ids=["bool", "two numbers", "texts", "two texts", "one against all", "cross-entropy", "several labels"],
)
def test_every_kind_of_classifier(tmp_path, y, parameters):
    model = boosters.catboost_fit(y=y, **parameters)
    servable = saved(model, tmp_path)
    x = boosters.rows(60, seed=3)
    assert_classifies(servable, model, {"data": x}, x)
    assert_batches(servable, {"data": x})
    assert_many_threads(servable, {"data": x}, calls=8)


def test_a_threshold_of_its_own(tmp_path):
    model = boosters.catboost_fit(y=(Y > 0).astype(int))
    model.set_probability_threshold(0.8)
    x = boosters.rows(60, seed=3)
    assert not np.array_equal(model.predict(x), model.predict_proba(x)[:, 1] > 0.5)
    assert_classifies(saved(model, tmp_path), model, {"data": x}, x)


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        ("RMSE", (None,)),
        ("Poisson", (None,)),
        ("Tweedie:variance_power=1.5", (None,)),
        ("RMSEWithUncertainty", (None, 2)),
        ("MultiQuantile:alpha=0.1,0.5,0.9", (None, 3)),
    ],
)
def test_every_kind_of_regressor(tmp_path, loss, shape):
    model = boosters.catboost_fit("CatBoostRegressor", loss_function=loss)
    servable = saved(model, tmp_path)
    x = boosters.rows(60, seed=3)
    outputs = answers(servable, {"data": x})
    assert list(outputs) == ["result"]
    np.testing.assert_array_equal(outputs["result"], model.predict(x))
    assert servable.signatures[S].outputs[0].shape == shape
    assert_batches(servable, {"data": x})


def test_a_ranker(tmp_path):
    x = boosters.rows()
    data = cb.Pool(x, Y, group_id=np.arange(len(x)) // 20)
    model = cb.CatBoostRanker(iterations=5, depth=3, verbose=0, allow_writing_files=False, thread_count=1).fit(data)
    np.testing.assert_array_equal(answers(saved(model, tmp_path), {"data": x})["result"], model.predict(x))


@pytest.mark.parametrize("suffix", [".cbm", ".json", ".pkl"])
def test_categories_are_columns_of_text(tmp_path, suffix):
    path = boosters.catboost_categories(tmp_path, suffix)
    servable = loaded(PLATFORM, path)
    specs = servable.signatures[S].inputs
    assert [(s.name, s.dtype_name, s.shape, s.nullable) for s in specs] == [
        ("colour", "string", (None,), True),
        ("size", "float32", (None,), True),
        ("shelf", "string", (None,), True),
        ("weight", "float32", (None,), True),
    ]
    cells = boosters.catboost_table(60, seed=4)
    cells[7, 0] = "mauve"  # what it has not seen is for CatBoost to judge
    inputs = {
        name: np.array([v.encode() for v in cells[:, i]], object) if i in (0, 2) else cells[:, i].astype(np.float32)
        for i, name in enumerate(boosters.CATBOOST_COLUMNS)
    }
    reference = boosters.catboost_categories(tmp_path / "reference")
    model = cb.CatBoostClassifier().load_model(str(reference))
    assert_classifies(servable, model, inputs, cells)
    assert_batches(servable, inputs)
    assert_many_threads(servable, inputs, calls=8)
    inputs["colour"][3] = b"\xff"
    with pytest.raises(InvalidInput, match='input "colour": not UTF-8'):
        answers(servable, inputs)


def test_text_features(tmp_path):
    words = np.array(["good day", "bad day", "good food", "bad luck today"] * 20, object)
    y = np.array([1, 0, 1, 0] * 20)
    data = cb.Pool(words.reshape(-1, 1), y, text_features=[0], feature_names=["review"])
    model = cb.CatBoostClassifier(iterations=5, depth=2, verbose=0, allow_writing_files=False, thread_count=1).fit(data)
    servable = saved(model, tmp_path)
    (review,) = servable.signatures[S].inputs
    assert (review.name, review.dtype_name, review.doc) == ("review", "string", "text")
    inputs = {"review": np.array([word.encode() for word in words], object)}
    assert_classifies(servable, model, inputs, words.reshape(-1, 1))


def test_names_of_features_are_told(tmp_path):
    data = cb.Pool(boosters.rows(), Y, feature_names=["sl", "sw", "pl", "pw"])
    model = cb.CatBoostClassifier(iterations=2, verbose=0, allow_writing_files=False, thread_count=1).fit(data)
    assert saved(model, tmp_path).signatures[S].inputs[0].columns == ("sl", "sw", "pl", "pw")


def test_wrong_inputs(tmp_path):
    boosters.catboost_model(tmp_path)
    signature = load(tmp_path).signatures[S]
    for inputs, problem in [
        ({"data": np.zeros((2, 3), np.float32)}, r"shape \[2, 3\] does not match \[\?, 4\]"),
        ({"data": np.array([["a"] * 4], object)}, "dtype string"),
        ({"date": np.zeros((2, 4), np.float32)}, "missing"),
    ]:
        with pytest.raises(InvalidRequest, match=problem):
            signature.bind(inputs)


@pytest.mark.parametrize(
    ("name", "content"), [("model.json", b'{"nodes": []}'), ("model.json", b'{"learner": {}}'), ("model.json", b"")]
)
def test_files_of_others_are_not_claimed(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert not PLATFORM.detect(tmp_path)
    with pytest.raises(LoadFailed, match=rf"{re.escape(str(tmp_path / name))}: is no CatBoost model"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".cbm", ".json", ".pkl"])
@pytest.mark.parametrize("make", ["catboost_model", "catboost_categories"])
def test_files_cut_short(tmp_path, make, suffix):
    path = getattr(boosters, make)(tmp_path, suffix)
    content = path.read_bytes().rstrip(b"\n")
    for size in (*range(0, len(content), len(content) // 25), len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(LoadFailed) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_pickles_of_others(tmp_path):
    from sklearn.linear_model import LinearRegression

    path = boosters.pickled(LinearRegression(), tmp_path / "model.pkl")
    assert detect(path).name == "scikitlearn"
    with pytest.raises(LoadFailed, match=r"model\.pkl: is a pickle of scikit-learn, not of catboost"):
        load(path)
    path = boosters.pickled(cb.CatBoostRegressor(), tmp_path / "model.pkl")
    with pytest.raises(LoadFailed, match="holds CatBoostRegressor, which is not fitted"):
        load(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".cbm", ".pkl"])
def test_unloading_frees_the_memory(python, tmp_path, suffix):
    path = boosters.catboost_categories(tmp_path, suffix)
    assert int(python(GROWTH, "catboost", path)) < 8 << 20
