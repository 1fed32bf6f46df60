"""scikit-learn models against the estimators' own methods."""

from __future__ import annotations

import pickle
import threading
import warnings

import modelzoo
import numpy as np
import pytest

from stfs.errors import InvalidInput, LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.scikitlearn import ScikitLearnPlatform

pytest.importorskip("sklearn")
pytest.importorskip("joblib")

S = "serving_default"
METHODS = ("predict", "predict_proba", "predict_log_proba")


def load(path, **options):
    return ScikitLearnPlatform().load(path, LoadOptions(**options))


def served(estimator, folder, suffix=".joblib", **options):
    return load(modelzoo.save_estimator(estimator, folder, suffix), **options)


def assert_same(have, want):
    """Identical, bit for bit: the same dtype, shape and values."""
    want = np.asarray(want)
    if want.dtype.kind in "US":
        assert have.dtype == object
        assert have.tolist() == np.char.encode(want, "utf-8").tolist()
    else:
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)


def assert_serves(estimator, x, folder, suffix=".joblib"):
    """Every method that the estimator has is served, as declared, with its own answers."""
    servable = served(estimator, folder, suffix)
    signature = servable.signatures[S]
    outputs = servable.run(S, signature.bind({"data": x}))
    assert signature.batchable
    assert list(outputs) == [m for m in METHODS if hasattr(estimator, m)]
    if hasattr(estimator, "n_jobs"):
        estimator.n_jobs = 1  # threads add up the trees in any order, and differ in the last bit
    for spec in signature.outputs:
        with np.errstate(divide="ignore"):
            assert_same(outputs[spec.name], getattr(estimator, spec.name)(x))
        assert outputs[spec.name].dtype == spec.dtype
        assert spec.bind(outputs[spec.name]) is outputs[spec.name]
    return servable


@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        *((m, s) for m in ("sklearn_forest", "sklearn_regressor", "sklearn_pipeline") for s in (".joblib", ".pkl")),
        *(("sklearn_logistic", s) for s in (".joblib", ".pkl", ".skops")),
    ],
)
def test_zoo_in_every_format(tmp_path, make, suffix):
    import joblib
    import skops.io

    path = getattr(modelzoo, make)(tmp_path, suffix)
    estimator = skops.io.load(path) if suffix == ".skops" else joblib.load(path)
    x = modelzoo.digits()[0][::40] if make == "sklearn_forest" else modelzoo.iris()[0][::3, : estimator.n_features_in_]
    assert_serves(estimator, np.ascontiguousarray(x), tmp_path / "again", suffix)
    servable = load(tmp_path)
    assert servable.runtime.startswith("scikit-learn ")
    assert servable.signatures[S].inputs[0].shape == (None, x.shape[1])
    assert servable.signatures[S].inputs[0].dtype == np.float64


def estimators():
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
        RandomForestRegressor,
        VotingClassifier,
    )
    from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    return [
        RandomForestClassifier(7, random_state=1),
        RandomForestClassifier(7, max_depth=2, random_state=1, n_jobs=2),
        ExtraTreesClassifier(7, random_state=1),
        RandomForestRegressor(7, random_state=1),
        ExtraTreesRegressor(7, random_state=1),
        DecisionTreeClassifier(random_state=1),
        DecisionTreeRegressor(random_state=1),
        GradientBoostingClassifier(n_estimators=4, random_state=1),
        HistGradientBoostingClassifier(max_iter=4, random_state=1),
        VotingClassifier([("t", DecisionTreeClassifier(random_state=1)), ("l", GaussianNB())], voting="soft", n_jobs=2),
        KNeighborsClassifier(n_jobs=2),
        GaussianNB(),
        SVC(),
        SGDClassifier(random_state=1),
        LinearRegression(),
        LogisticRegression(max_iter=500),
        MLPClassifier((4,), solver="lbfgs", random_state=1),
        make_pipeline(StandardScaler(), "passthrough", LogisticRegression()),
        make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=1))),
        GridSearchCV(RandomForestClassifier(3, random_state=1), {"max_depth": [1, 2]}, cv=2),
    ]


@pytest.mark.parametrize("estimator", estimators(), ids=lambda e: type(e).__name__)
def test_answers_are_those_of_the_estimator(tmp_path, estimator):
    x, y, _ = modelzoo.iris()
    assert_serves(estimator.fit(x, y), x, tmp_path)


@pytest.mark.parametrize("labels", ["text", "object", "bool", "negative"])
def test_kinds_of_classes(tmp_path, labels):
    from sklearn.ensemble import RandomForestClassifier

    x, y, names = modelzoo.iris()
    targets = {"text": names[y], "object": names[y].astype(object), "bool": y == 1, "negative": -y}[labels]
    estimator = RandomForestClassifier(5, random_state=0).fit(x, targets)
    outputs = served(estimator, tmp_path).run(S, {"data": x})
    want = estimator.predict(x)
    if labels in ("text", "object"):
        assert outputs["predict"].tolist() == [label.encode() for label in want]
    else:
        assert_same(outputs["predict"], want)


def test_missing_values_go_where_the_trees_send_them(tmp_path):
    from sklearn.ensemble import RandomForestClassifier

    x, y, _ = modelzoo.iris()
    x = x.copy()
    x[::7, 2] = np.nan
    servable = assert_serves(RandomForestClassifier(5, random_state=0).fit(x, y), x, tmp_path)
    assert servable.signatures[S].inputs[0].nullable
    assert not load(modelzoo.sklearn_logistic(tmp_path / "logistic")).signatures[S].inputs[0].nullable


@pytest.mark.parametrize("kind", ["RandomForestClassifier", "ExtraTreesClassifier", "DecisionTreeClassifier"])
def test_several_targets(tmp_path, kind):
    import sklearn.ensemble
    import sklearn.tree

    x, y, _ = modelzoo.iris()
    make = getattr(sklearn.ensemble, kind, None) or getattr(sklearn.tree, kind)
    estimator = make(random_state=0, max_depth=3).fit(x, np.stack([y, y > 0], axis=1))
    servable = served(estimator, tmp_path)
    outputs = servable.run(S, {"data": x})
    with np.errstate(divide="ignore"):
        probas, logs = estimator.predict_proba(x), estimator.predict_log_proba(x)
    assert_same(outputs["predict"], estimator.predict(x))
    for i in (0, 1):
        assert_same(outputs[f"predict_proba_{i}"], probas[i])
        assert_same(outputs[f"predict_log_proba_{i}"], logs[i])
    assert {s.name: s.shape for s in servable.signatures[S].outputs} == {
        "predict": (None, 2),
        "predict_proba_0": (None, 3),
        "predict_proba_1": (None, 2),
        "predict_log_proba_0": (None, 3),
        "predict_log_proba_1": (None, 2),
    }


def test_a_regressor_of_several_targets(tmp_path):
    from sklearn.ensemble import RandomForestRegressor

    x, _, _ = modelzoo.iris()
    assert_serves(RandomForestRegressor(5, random_state=0).fit(x[:, :2], x[:, 2:]), x[:, :2].copy(), tmp_path)


def test_a_transformer(tmp_path):
    from sklearn.decomposition import PCA

    x, _, _ = modelzoo.iris()
    pca = PCA(2).fit(x)
    servable = served(pca, tmp_path)
    outputs = servable.run(S, {"data": x})
    assert list(outputs) == ["transform"]
    assert_same(outputs["transform"], pca.transform(x))


def test_a_transformer_with_sparse_answers(tmp_path):
    from sklearn.preprocessing import OneHotEncoder

    x = np.array([[0.0], [1], [2], [1]])
    outputs = served(OneHotEncoder(handle_unknown="ignore").fit(x), tmp_path).run(S, {"data": x})
    np.testing.assert_array_equal(outputs["transform"], np.eye(3)[[0, 1, 2, 1]])


def test_an_identity_does_not_share_the_callers_memory(tmp_path):
    from sklearn.preprocessing import FunctionTransformer

    x = np.ones((2, 3))
    outputs = served(FunctionTransformer(validate=True).fit(x), tmp_path).run(S, {"data": x})
    np.testing.assert_array_equal(outputs["transform"], x)
    assert not np.shares_memory(outputs["transform"], x)


def test_names_of_features_are_told_and_no_request_warns(tmp_path):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, _ = modelzoo.iris()
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(x, y)
    want = pipeline.predict_proba(x)
    # The state that fitting on a data frame leaves behind.
    for step in pipeline.named_steps.values():
        step.feature_names_in_ = np.array(["sl", "sw", "pl", "pw"], object)
    with pytest.warns(UserWarning, match="valid feature names"):
        pipeline.predict(x)
    servable = served(pipeline, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = servable.run(S, {"data": x})
    assert_same(outputs["predict_proba"], want)
    assert servable.signatures[S].inputs[0].doc == "sl, sw, pl, pw"
    assert servable.signatures[S].inputs[0].columns == ("sl", "sw", "pl", "pw")


def test_n_jobs_is_set_everywhere(tmp_path):
    from sklearn.ensemble import RandomForestClassifier, VotingClassifier

    from stfs.platforms.estimator import parts, prepare

    x, y, _ = modelzoo.iris()
    voting = VotingClassifier([("f", RandomForestClassifier(3, n_jobs=-1))], voting="soft", n_jobs=-1).fit(x, y)
    prepare(voting, 1)
    assert [part.n_jobs for part in parts(voting) if hasattr(part, "n_jobs")] == [1, 1, 1]
    assert_serves(voting, x, tmp_path)


@pytest.mark.parametrize(
    ("make", "value"),
    [("sklearn_logistic", np.nan), ("sklearn_logistic", np.inf), ("sklearn_forest", np.inf), ("sklearn_forest", 1e300)],
)
def test_values_that_the_estimator_refuses(tmp_path, make, value):
    getattr(modelzoo, make)(tmp_path)
    servable = load(tmp_path)
    x = np.zeros((2, servable.signatures[S].inputs[0].shape[1]))
    x[1, 2] = value
    with pytest.raises(InvalidInput, match='input "data": Input X contains') as caught:
        servable.run(S, {"data": x})
    assert "\n" not in str(caught.value)


def test_what_is_not_a_fitted_estimator(tmp_path):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(LoadFailed, match=r"model\.joblib: holds dict, which is not an estimator"):
        served({"weights": [1, 2]}, tmp_path)
    with pytest.raises(LoadFailed, match="holds LogisticRegression, which is not an estimator"):
        served(LogisticRegression, tmp_path)
    with pytest.raises(LoadFailed, match="is it fitted"):
        served(RandomForestClassifier(), tmp_path)


@pytest.mark.parametrize("suffix", [".joblib", ".pkl", ".skops"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04garbage"])
def test_a_corrupt_file(tmp_path, suffix, content):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_missing(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"cno_such_module\nThing\n.")
    with pytest.raises(LoadFailed, match=r"does not unpickle: ModuleNotFoundError: No module named 'no_such_module'"):
        load(tmp_path)


class Untrusted:
    """Not a type that skops knows."""


def test_skops_loads_no_type_that_is_not_trusted(tmp_path):
    from sklearn.linear_model import LinearRegression

    x, y, _ = modelzoo.iris()
    model = LinearRegression().fit(x, y)
    model.extra_ = Untrusted()
    name = f"{Untrusted.__module__}.Untrusted"
    with pytest.raises(
        LoadFailed, match=rf"types that are not trusted: {name}; trust them with --trusted_types={name}"
    ):
        served(model, tmp_path, ".skops")


def test_skops_trees_are_refused_by_name_and_taken_once_trusted(tmp_path):
    """skops holds stored tree nodes for a danger to memory, since they index it unchecked."""
    import joblib

    modelzoo.sklearn_forest(tmp_path, ".skops")
    with pytest.raises(LoadFailed, match=r"types that are not trusted: sklearn\.tree\._tree\.Tree"):
        load(tmp_path)
    servable = load(tmp_path, trusted_types=("sklearn.tree._tree.Tree", "no.such.Type"))
    estimator = joblib.load(modelzoo.sklearn_forest(tmp_path / "joblib"))
    x = modelzoo.digits()[0][:9]
    assert_same(servable.run(S, {"data": x})["predict_proba"], estimator.predict_proba(x))


def test_another_version_that_loads_is_told_in_the_log(tmp_path, caplog):
    import sklearn

    path = modelzoo.sklearn_logistic(tmp_path, ".pkl")
    here = sklearn.__version__.encode()
    other = b"1.0." + b"9" * (len(here) - 4)
    path.write_bytes(path.read_bytes().replace(here, other))
    servable = load(tmp_path)
    x = modelzoo.iris()[0]
    assert_same(servable.run(S, {"data": x})["predict"], modelzoo_logistic_answers(x))
    assert f"was saved by scikit-learn {other.decode()}, and this is {sklearn.__version__}" in caplog.text


def test_another_version_that_loads_and_does_not_run_names_both_versions(tmp_path):
    import sklearn
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, _ = modelzoo.iris()
    pipeline = make_pipeline(StandardScaler(), LinearRegression()).fit(x, y)
    del pipeline.steps[1][1].coef_
    path = modelzoo.save_estimator(pipeline, tmp_path, ".pkl")
    here = sklearn.__version__.encode()
    other = b"1.0." + b"9" * (len(here) - 4)
    path.write_bytes(path.read_bytes().replace(here, other))
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    told = str(caught.value)
    assert told.startswith(f"{path}: Pipeline does not take what it was fitted on (data float64): ")
    assert "coef_" in told
    assert f"saved by scikit-learn {other.decode()}, and this is {sklearn.__version__}: install" in told


def modelzoo_logistic_answers(x):
    from sklearn.linear_model import LogisticRegression

    data, targets, _ = modelzoo.iris()
    return LogisticRegression(max_iter=500).fit(data, targets).predict(x)


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3)])
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_version_is_found_in_the_bytes(tmp_path, compress, protocol):
    import joblib
    import sklearn

    from stfs.platforms.pickled import saved_version

    x, y, _ = modelzoo.iris()
    from sklearn.linear_model import LinearRegression

    joblib.dump(LinearRegression().fit(x, y), tmp_path / "model.joblib", compress=compress, protocol=protocol)
    assert saved_version(tmp_path / "model.joblib") == sklearn.__version__


def test_a_version_that_no_file_tells(tmp_path):
    from stfs.platforms.pickled import saved_version

    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert saved_version(tmp_path / "model.pkl") is None
    assert saved_version(tmp_path / "nothing") is None


@pytest.mark.parametrize("file", ["model.joblib", "model.pkl"])
def test_an_old_pickle_names_both_versions(file):
    import sklearn

    path = modelzoo.SHARED_MODELS / "scikitlearn_iris" / file
    if not path.is_file():
        pytest.skip("shared/models/scikitlearn_iris is not beside this checkout")
    with pytest.raises(LoadFailed) as caught:
        load(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: was saved by scikit-learn 0.19.1, and this is {sklearn.__version__}")
    assert "univariate_selection" in told
    assert "\n" not in told


def test_many_threads(tmp_path):
    import joblib

    path = modelzoo.sklearn_forest(tmp_path)
    estimator = joblib.load(path)
    servable = load(path)
    xs = np.split(modelzoo.digits()[0][:80], 8)
    wants = [estimator.predict_proba(x) for x in xs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(servable.run(S, {"data": xs[i]})["predict_proba"], wants[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
