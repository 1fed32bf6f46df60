"""Estimators fitted on data frames and on texts, against their own answers for the same frames and texts."""

from __future__ import annotations

import threading

import modelzoo
import numpy as np
import pytest

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.scikitlearn import ScikitLearnPlatform

pytest.importorskip("sklearn")
pytest.importorskip("joblib")
pd = pytest.importorskip("pandas", reason="pandas makes the frames that estimators are fitted on")

S = "serving_default"
ROWS = 60


def people(seed=0):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": random.normal(40, 9, ROWS),
            "city": random.choice(["Bern", "Zürich", "Genf"], ROWS),
            "rooms": random.integers(1, 5, ROWS),
            "sex": random.choice(["f", "m"], ROWS),
            "note": random.choice(["good one", "bad", "very good", "so so"], ROWS),
            "id": [f"id{i}" for i in range(ROWS)],
        }
    )
    target = (frame["age"] + 5 * (frame["city"] == "Bern") + frame["rooms"] > 44).astype(int).to_numpy()
    return frame, target


def with_gaps(frame):
    frame = frame.copy()
    frame.loc[::5, "age"] = np.nan
    frame.loc[::7, "sex"] = None
    return frame


def arrays(frame, specs):
    """The frame's columns as a request would have brought them."""
    made = {}
    for spec in specs:
        values = frame[spec.name]
        if spec.dtype == object:
            made[spec.name] = np.array([b"" if pd.isna(v) else v.encode() for v in values] + [None], object)[:-1]
        else:
            made[spec.name] = values.to_numpy().astype(spec.dtype)
    return made


def served(estimator, folder, suffix=".joblib"):
    return ScikitLearnPlatform().load(modelzoo.save_estimator(estimator, folder, suffix), LoadOptions())


def assert_answers(servable, estimator, frame):
    """The answers for the columns are the estimator's for the frame, and a row alone is as a row among others."""
    signature = servable.signatures[S]
    assert signature.batchable
    bound = signature.bind(arrays(frame, signature.inputs))
    outputs = servable.run(S, bound)
    with np.errstate(divide="ignore"):
        for name, have in outputs.items():
            want = np.asarray(getattr(estimator, name)(frame))
            assert have.dtype == want.dtype
            np.testing.assert_array_equal(have, want)
    alone = servable.run(S, {name: array[3:4] for name, array in bound.items()})
    for name, array in alone.items():
        np.testing.assert_allclose(array, outputs[name][3:4], rtol=1e-12)


def mixed(**encoder):
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
            ("sex", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(**encoder)), ["sex"]),
            ("kinds", OrdinalEncoder(), ["city", "rooms"]),
            ("words", TfidfVectorizer(), "note"),
        ]
    )
    return make_pipeline(columns, RandomForestClassifier(7, random_state=0))


@pytest.mark.parametrize("suffix", [".joblib", ".pkl"])
def test_a_frame_of_texts_and_numbers(tmp_path, suffix):
    frame, target = people()
    gaps = with_gaps(frame)
    pipeline = mixed().fit(gaps, target)
    servable = served(pipeline, tmp_path, suffix)
    told = [(s.name, s.dtype_name, s.shape, s.nullable, s.values) for s in servable.signatures[S].inputs]
    assert told == [
        ("age", "float64", (None,), True, ()),
        ("city", "string", (None,), False, ("Bern", "Genf", "Zürich")),
        ("rooms", "int64", (None,), False, ("1", "2", "3", "4")),
        ("sex", "string", (None,), True, ("f", "m")),
        ("note", "string", (None,), False, ()),
    ]
    assert_answers(servable, pipeline, gaps)
    assert_answers(servable, pipeline, people(seed=1)[0])


def test_values_that_were_not_there_when_it_was_fitted(tmp_path):
    frame, target = people()
    servable = served(mixed().fit(frame, target), tmp_path)
    signature = servable.signatures[S]
    bad = frame.copy()
    bad.loc[4, "city"] = "Paris"
    with pytest.raises(InvalidInput, match='input "city", row 4: "Paris" is not one of its values, "Bern", "Genf"'):
        signature.bind(arrays(bad, signature.inputs))
    bad = frame.assign(rooms=9)
    with pytest.raises(InvalidInput, match='input "rooms", row 0: "9" is not one of its values'):
        signature.bind(arrays(bad, signature.inputs))
    fine = arrays(frame, signature.inputs)
    with pytest.raises(InvalidInput, match='input "note": not UTF-8'):
        servable.run(S, fine | {"note": np.array([b"\xff"] * ROWS, object)})
    with pytest.raises(InvalidRequest, match="Input X contains infinity"):
        servable.run(S, fine | {"age": np.full(ROWS, np.inf)})


def test_an_encoder_that_ignores_what_it_does_not_know(tmp_path):
    frame, target = people()
    pipeline = mixed(handle_unknown="ignore").fit(frame, target)
    servable = served(pipeline, tmp_path)
    spec = servable.signatures[S].input("sex")
    assert spec.values == ()
    assert_answers(servable, pipeline, frame.assign(sex="x"))


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_category_may_be_missing_if_it_was_when_fitted(tmp_path, missing):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame, target = people()
    frame = frame[["city", "sex"]].astype(object)
    frame.loc[::7, "sex"] = missing
    pipeline = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, target)
    servable = served(pipeline, tmp_path)
    assert [(s.name, s.nullable, s.values) for s in servable.signatures[S].inputs] == [
        ("city", False, ("Bern", "Genf", "Zürich")),
        ("sex", True, ("f", "m")),
    ]
    assert_answers(servable, pipeline, frame)


def test_numbers_by_name_stay_one_matrix(tmp_path):
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame, target = people()
    frame = with_gaps(frame)[["age", "rooms"]]
    columns = ColumnTransformer(
        [("a", make_pipeline(SimpleImputer(), StandardScaler()), ["age"])], remainder="passthrough"
    )
    for name, pipeline in {
        "by name": make_pipeline(columns, LogisticRegression()),
        "whole": make_pipeline(SimpleImputer(), LogisticRegression()),
        "framed": make_pipeline(SimpleImputer(), columns, LogisticRegression()),
    }.items():
        if name == "framed":
            pipeline.set_output(transform="pandas")
        pipeline.fit(frame, target)
        servable = served(pipeline, tmp_path / name)
        (spec,) = servable.signatures[S].inputs
        assert (spec.name, spec.dtype_name, spec.shape, spec.columns) == (
            "data",
            "float64",
            (None, 2),
            ("age", "rooms"),
        )
        assert spec.nullable == (name != "by name")  # there "rooms" is passed through to what takes no NaN
        outputs = servable.run(S, {"data": frame.to_numpy(float)})
        np.testing.assert_array_equal(outputs["predict_proba"], pipeline.predict_proba(frame))


def test_columns_that_are_dropped_are_not_asked_for(tmp_path):
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    frame, target = people()
    columns = ColumnTransformer([("a", "passthrough", ["age", "rooms"]), ("gone", "drop", ["city"])])
    pipeline = make_pipeline(columns, LinearRegression()).fit(frame, target)
    servable = served(pipeline, tmp_path)
    assert [(s.name, s.dtype_name) for s in servable.signatures[S].inputs] == [("age", "float64"), ("rooms", "float64")]
    assert_answers(servable, pipeline, frame)


def test_columns_picked_by_kind_by_place_and_by_mask(tmp_path):
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame, target = people()
    frame = frame[["age", "city", "sex"]]
    numeric = make_column_selector(dtype_include=np.number)
    for i, (numbers, texts) in enumerate(
        [
            (numeric, make_column_selector(dtype_exclude=np.number)),
            ([0], [1, 2]),
            ([True, False, False], slice("city", "sex")),
            (slice(0, 1), [-2, -1]),
        ]
    ):
        columns = make_column_transformer(("passthrough", numbers), (OneHotEncoder(), texts))
        pipeline = make_pipeline(columns, LogisticRegression()).fit(frame, target)
        servable = served(pipeline, tmp_path / str(i))
        assert [(s.name, s.dtype_name, len(s.values)) for s in servable.signatures[S].inputs] == [
            ("age", "float64", 0),
            ("city", "string", 3),
            ("sex", "string", 2),
        ]
        assert_answers(servable, pipeline, frame)


def test_estimators_around_a_pipeline(tmp_path):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import StackingClassifier, VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    frame, target = people()
    frame = with_gaps(frame)
    for i, estimator in enumerate(
        [
            GridSearchCV(mixed(), {"randomforestclassifier__max_depth": [1, 2]}, cv=2),
            VotingClassifier([("a", mixed()), ("b", mixed())], voting="soft"),
            StackingClassifier([("a", mixed())], LogisticRegression(), cv=2),
            CalibratedClassifierCV(mixed(), cv=2),
        ]
    ):
        estimator.fit(frame, target)
        servable = served(estimator, tmp_path / str(i))
        assert {s.name: s.values for s in servable.signatures[S].inputs if s.values}["sex"] == ("f", "m")
        assert_answers(servable, estimator, frame)


def test_categories_of_a_frame_in_gradient_boosting(tmp_path):
    from sklearn.ensemble import HistGradientBoostingClassifier

    frame, target = people()
    frame = frame[["age", "city"]].astype({"city": "category"})
    boosting = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=5, random_state=0)
    boosting.fit(frame, target)
    servable = served(boosting, tmp_path)
    assert [(s.name, s.dtype_name, s.nullable) for s in servable.signatures[S].inputs] == [
        ("age", "float64", True),
        ("city", "string", True),
    ]
    assert_answers(servable, boosting, frame)
    gaps = frame.copy()
    gaps.loc[::3, "city"] = None
    gaps.loc[::4, "age"] = np.nan
    assert_answers(servable, boosting, gaps)


def test_arrays_of_objects_have_columns_without_names(tmp_path):
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame, target = people()
    x = frame[["city", "age"]].to_numpy(object)
    columns = ColumnTransformer([("city", OneHotEncoder(), [0])], remainder="passthrough")
    pipeline = make_pipeline(columns, LogisticRegression()).fit(x, target)
    servable = served(pipeline, tmp_path)
    signature = servable.signatures[S]
    assert [(s.name, s.dtype_name, len(s.values)) for s in signature.inputs] == [
        ("x0", "string", 3),
        ("x1", "float64", 0),
    ]
    data = {"x0": np.array([v.encode() for v in x[:, 0]], object), "x1": x[:, 1].astype(float)}
    np.testing.assert_array_equal(servable.run(S, signature.bind(data))["predict_proba"], pipeline.predict_proba(x))


def test_numbers_that_are_categories(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame, target = people()
    pipeline = make_pipeline(OneHotEncoder(), LogisticRegression())
    nameless = served(pipeline.fit(frame[["rooms"]].to_numpy(), target), tmp_path / "nameless")
    assert [(s.name, s.shape) for s in nameless.signatures[S].inputs] == [("data", (None, 1))]
    x = frame[["rooms"]].to_numpy(float)
    np.testing.assert_array_equal(nameless.run(S, {"data": x})["predict_proba"], pipeline.predict_proba(x))
    with pytest.raises(InvalidInput, match="unknown categories"):
        nameless.run(S, {"data": x + 100})
    named = served(pipeline.fit(frame[["rooms"]], target), tmp_path / "named")
    assert [(s.name, s.dtype_name, s.values) for s in named.signatures[S].inputs] == [
        ("rooms", "int64", ("1", "2", "3", "4"))
    ]
    assert_answers(named, pipeline, frame[["rooms"]])


TEXTS = ["good one", "bad", "very good", "so so", "ugly", "nice"] * 4
LABELS = [1, 0, 1, 0, 0, 1] * 4


def documents():
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline, make_union

    words = make_union(TfidfVectorizer(), CountVectorizer(analyzer="char"))
    return [
        make_pipeline(TfidfVectorizer(), LogisticRegression()),
        make_pipeline(CountVectorizer(), TfidfTransformer(), MultinomialNB()),
        make_pipeline(HashingVectorizer(n_features=64), SGDClassifier(random_state=0)),
        make_pipeline(words, LogisticRegression()),
        GridSearchCV(make_pipeline(TfidfVectorizer(), LogisticRegression()), {"logisticregression__C": [1, 2]}, cv=2),
    ]


@pytest.mark.parametrize("estimator", documents(), ids=str)
def test_documents(tmp_path, estimator):
    estimator.fit(TEXTS, LABELS)
    servable = served(estimator, tmp_path)
    signature = servable.signatures[S]
    assert [(s.name, s.dtype_name, s.shape, s.nullable) for s in signature.inputs] == [
        ("data", "string", (None,), False)
    ]
    assert signature.batchable
    asked = ["good", "", "so bad, so ugly", "Zürich"]
    outputs = servable.run(S, {"data": np.array([text.encode() for text in asked], object)})
    assert set(outputs) >= {"predict"}
    for name, have in outputs.items():
        np.testing.assert_array_equal(have, getattr(estimator, name)(asked))
    with pytest.raises(InvalidInput, match='input "data": not UTF-8'):
        servable.run(S, {"data": np.array([b"\xff"], object)})


def test_a_vectorizer_alone(tmp_path):
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer().fit(TEXTS)
    outputs = served(vectorizer, tmp_path).run(S, {"data": np.array([b"so good"], object)})
    np.testing.assert_array_equal(outputs["transform"], vectorizer.transform(["so good"]).toarray())


def test_documents_by_name_of_file_are_refused(tmp_path):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    (tmp_path / "text").write_text("a secret")
    pipeline = make_pipeline(CountVectorizer(input="filename"), LogisticRegression())
    pipeline.fit([str(tmp_path / "text")] * 2, [0, 1])
    with pytest.raises(LoadFailed, match="takes names of files for its documents"):
        served(pipeline, tmp_path / "model")


def test_without_pandas_a_frame_is_asked_for_by_name(tmp_path, monkeypatch):
    frame, target = people()
    path = modelzoo.save_estimator(mixed().fit(frame, target), tmp_path, ".joblib")
    import stfs.platforms.scikitlearn as platform

    def absent(file):
        raise LoadFailed(f"{file}: pandas")

    monkeypatch.setattr(platform, "_require_pandas", absent)
    with pytest.raises(LoadFailed, match=r"model\.joblib: pandas"):
        ScikitLearnPlatform().load(path, LoadOptions())


def test_an_estimator_is_served_on_many_threads(tmp_path):
    frame, target = people()
    pipeline = mixed().fit(with_gaps(frame), target)
    servable = served(pipeline, tmp_path)
    signature = servable.signatures[S]
    frames = [with_gaps(people(seed)[0]) for seed in range(6)]
    bound = [signature.bind(arrays(f, signature.inputs)) for f in frames]
    wants = [pipeline.predict_proba(f) for f in frames]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(10):
            if not np.array_equal(servable.run(S, bound[i])["predict_proba"], wants[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(frames))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
