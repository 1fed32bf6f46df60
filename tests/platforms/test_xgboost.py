"""XGBoost models against XGBoost called directly."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import boosters
import numpy as np
import pytest
from boosted_suite import GROWTH, S, answers, assert_batches, assert_many_threads, loaded
from running import SHARED_MODELS

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed
from stfs.platforms import beside, detect, xgboost_legacy
from stfs.platforms.base import LoadOptions
from stfs.platforms.xgboost import XGBoostPlatform

xgb = pytest.importorskip("xgboost")

PLATFORM = XGBoostPlatform()
OLD = SHARED_MODELS / "xgboost_iris"


def load(path, **options):
    return PLATFORM.load(path, LoadOptions(**options))


@pytest.mark.parametrize("suffix", [".json", ".ubj", ".bst", ".model", ".pkl", ".joblib"])
def test_every_form_gives_what_the_booster_gives(tmp_path, suffix):
    servable = loaded(PLATFORM, boosters.xgboost_model(tmp_path, suffix).parent)
    x = boosters.rows(60, seed=3)
    want = boosters.xgboost_booster().predict(xgb.DMatrix(x))
    np.testing.assert_array_equal(answers(servable, {"data": x})["result"], want)
    (data,) = servable.signatures[S].inputs
    assert (data.name, data.dtype, data.shape, data.nullable) == ("data", np.float32, (None, 4), True)
    (result,) = servable.signatures[S].outputs
    assert (result.name, result.dtype, result.shape) == ("result", np.float32, (None, 3))
    assert servable.runtime == f"xgboost {xgb.__version__}, gbtree multi:softprob"


@pytest.mark.parametrize(
    ("objective", "parameters"),
    [
        ("reg:squarederror", {}),
        ("reg:squarederror", {"base_score": 3.5}),
        ("reg:squarederror", {"booster": "dart", "rate_drop": 0.5}),
        ("reg:squarederror", {"booster": "gblinear"}),
        ("reg:squarederror", {"num_parallel_tree": 3, "subsample": 0.5}),
        ("reg:quantileerror", {"quantile_alpha": [0.1, 0.5, 0.9]}),
        ("reg:tweedie", {}),
        ("count:poisson", {}),
        ("binary:logistic", {}),
        ("binary:logitraw", {}),
        ("binary:hinge", {}),
        ("multi:softmax", {}),
        ("multi:softprob", {"booster": "gblinear"}),
        ("rank:ndcg", {}),
    ],
)
def test_every_objective(tmp_path, objective, parameters):
    booster = boosters.xgboost_booster(objective, **parameters)
    booster.save_model(tmp_path / "model.ubj")
    servable = loaded(PLATFORM, tmp_path)
    x = boosters.rows(40, seed=5, missing=parameters.get("booster") != "gblinear")
    want = booster.predict(xgb.DMatrix(x))
    outputs = answers(servable, {"data": x})
    if parameters.get("booster") == "dart":  # predict and inplace_predict add up its trees in different orders
        np.testing.assert_allclose(outputs["result"], want, rtol=1e-6)
    else:
        np.testing.assert_array_equal(outputs["result"], want)
    assert servable.signatures[S].outputs[0].shape == (None, *want.shape[1:])
    assert_batches(servable, {"data": x})
    assert_many_threads(servable, {"data": x})


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_several_targets(tmp_path, strategy):
    x = boosters.rows()
    y = np.nan_to_num(x[:, :2]) * 2
    settings = {"multi_strategy": strategy, "max_depth": 3, "nthread": 1, "tree_method": "hist"}
    booster = xgb.train(settings, xgb.DMatrix(x, y), 4)
    booster.save_model(tmp_path / "model.json")
    servable = loaded(PLATFORM, tmp_path)
    np.testing.assert_array_equal(answers(servable, {"data": x})["result"], booster.predict(xgb.DMatrix(x)))
    assert servable.signatures[S].outputs[0].shape == (None, 2)


def early_stopped(cls, y, **parameters):
    x = boosters.rows()
    model = cls(n_estimators=30, max_depth=3, n_jobs=1, early_stopping_rounds=2, learning_rate=1.0, **parameters)
    model.fit(x, y, eval_set=[(boosters.rows(50, seed=8), y[:50])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    return model


@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".json", ".ubj"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_wrapped_classifier_gives_its_labels_and_stops_where_it_was_best(tmp_path, suffix, classes):
    y = boosters.targets(boosters.rows())
    model = early_stopped(xgb.XGBClassifier, y if classes == 3 else y > 0)
    if suffix in (".pkl", ".joblib"):
        boosters.pickled(model, tmp_path / f"model{suffix}")
    else:
        model.save_model(tmp_path / f"model{suffix}")
    servable = loaded(PLATFORM, tmp_path)
    x = boosters.rows(60, seed=3)
    outputs = answers(servable, {"data": x})
    np.testing.assert_array_equal(outputs["predict_proba"], model.predict_proba(x))
    np.testing.assert_array_equal(outputs["predict"], model.predict(x))
    proba = outputs["predict_proba"]
    np.testing.assert_array_equal(outputs["result"], proba if classes == 3 else proba[:, 1])
    assert_batches(servable, {"data": x})


def test_a_plain_booster_uses_all_its_trees_as_its_predict_does(tmp_path):
    booster = early_stopped(xgb.XGBRegressor, boosters.targets(boosters.rows())).get_booster()
    booster.save_model(tmp_path / "model.json")
    x = boosters.rows(60, seed=3)
    outputs = answers(loaded(PLATFORM, tmp_path), {"data": x})
    np.testing.assert_array_equal(outputs["result"], booster.predict(xgb.DMatrix(x)))


@pytest.mark.parametrize("kind", ["XGBRegressor", "XGBRFClassifier", "XGBRanker", "XGBClassifier softmax"])
def test_other_wrappers(tmp_path, kind):
    x = boosters.rows()
    name, _, softmax = kind.partition(" ")
    extra = {"objective": "multi:softmax"} if softmax else {}
    model = getattr(xgb, name)(n_estimators=3, max_depth=3, n_jobs=1, **extra)
    model.fit(x, boosters.targets(x), **({"qid": np.arange(len(x)) // 20} if name == "XGBRanker" else {}))
    boosters.pickled(model, tmp_path / "model.pkl")
    outputs = answers(loaded(PLATFORM, tmp_path), {"data": x})
    if "Classifier" in kind:
        np.testing.assert_array_equal(outputs["predict"], model.predict(x))
        np.testing.assert_array_equal(outputs["predict_proba"], model.predict_proba(x))
    else:
        assert list(outputs) == ["result"]
        np.testing.assert_array_equal(outputs["result"], model.predict(x))


def test_a_classifier_of_several_labels_a_row(tmp_path):
    x = boosters.rows()
    y = (np.nan_to_num(x[:, :3]) > 0).astype(int)
    model = xgb.XGBClassifier(n_estimators=3, max_depth=3, n_jobs=1).fit(x, y)
    boosters.pickled(model, tmp_path / "model.pkl")
    outputs = answers(loaded(PLATFORM, tmp_path), {"data": x})
    np.testing.assert_array_equal(outputs["predict"], model.predict(x))
    np.testing.assert_array_equal(outputs["predict_proba"], model.predict_proba(x))


def test_what_a_wrapper_takes_for_missing(tmp_path):
    x = np.nan_to_num(boosters.rows(), nan=-1.0)
    model = xgb.XGBRegressor(n_estimators=3, max_depth=3, n_jobs=1, missing=-1.0).fit(x, boosters.targets(x))
    boosters.pickled(model, tmp_path / "model.pkl")
    np.testing.assert_array_equal(answers(loaded(PLATFORM, tmp_path), {"data": x})["result"], model.predict(x))


@pytest.mark.parametrize("suffix", [".json", ".ubj"])
def test_categories_are_columns_of_text(tmp_path, suffix):
    path = boosters.xgboost_categories(tmp_path, suffix)
    servable = loaded(PLATFORM, path)
    size, colour, shelf = servable.signatures[S].inputs
    assert (size.name, size.dtype_name, size.shape, size.nullable, size.values) == (
        "size",
        "float32",
        (None,),
        True,
        (),
    )
    assert (colour.name, colour.dtype_name, colour.nullable, colour.values) == (
        "colour",
        "string",
        True,
        boosters.COLOURS,
    )
    assert (shelf.name, shelf.dtype_name, shelf.values) == ("shelf", "string", ("10", "20", "30"))
    table = boosters.frame(60, seed=4)
    want = xgb.Booster(model_file=path).predict(xgb.DMatrix(table, enable_categorical=True))
    inputs = boosters.columns(table)
    np.testing.assert_array_equal(answers(servable, inputs)["result"], want)
    assert_batches(servable, inputs)
    assert_many_threads(servable, inputs)
    inputs["colour"][5] = b"mauve"
    with pytest.raises(InvalidInput, match=r'input "colour".*5.*mauve'):
        answers(servable, inputs)


def test_categories_that_are_only_codes_are_numbers(tmp_path):
    x = np.stack([np.arange(60) % 3, np.arange(60) % 7], axis=1).astype(np.float32)
    data = xgb.DMatrix(x, x[:, 0] == 2, feature_types=["c", "q"], enable_categorical=True)
    booster = xgb.train({"max_depth": 2, "nthread": 1}, data, 3)
    booster.save_model(tmp_path / "model.json")
    servable = loaded(PLATFORM, tmp_path)
    np.testing.assert_array_equal(answers(servable, {"data": x})["result"], booster.predict(data))


def test_names_of_features_are_told(tmp_path):
    x = boosters.rows()
    data = xgb.DMatrix(x, boosters.targets(x), feature_names=["sl", "sw", "pl", "pw"])
    xgb.train({"nthread": 1}, data, 2).save_model(tmp_path / "model.json")
    servable = loaded(PLATFORM, tmp_path)
    assert servable.signatures[S].inputs[0].columns == ("sl", "sw", "pl", "pw")
    assert answers(servable, {"data": x})["result"].shape == (len(x),)


def test_threads_are_one_unless_told(tmp_path, monkeypatch):
    boosters.xgboost_model(tmp_path)
    given = []
    monkeypatch.setattr(xgb.Booster, "set_param", lambda booster, params, value=None: given.append(params))
    load(tmp_path)
    load(tmp_path, threads=2)
    assert [params["nthread"] for params in given if "nthread" in params] == [1, 2]


def test_wrong_inputs(tmp_path):
    boosters.xgboost_model(tmp_path)
    servable = load(tmp_path)
    for inputs, problem in [
        ({"data": np.zeros((2, 5), np.float32)}, r"shape \[2, 5\] does not match \[\?, 4\]"),
        ({"data": np.zeros(4, np.float32)}, "shape"),
        ({"data": np.array([["a"] * 4], object)}, "dtype string"),
        ({"date": np.zeros((2, 4), np.float32)}, "missing"),
        ({"data": np.zeros((2, 4), np.float32), "more": np.zeros(2)}, "unknown"),
    ]:
        with pytest.raises(InvalidRequest, match=problem):
            servable.signatures[S].bind(inputs)


def test_infinity_in_a_linear_model_is_the_requests_fault(tmp_path):
    boosters.xgboost_booster("reg:squarederror", booster="gblinear").save_model(tmp_path / "model.json")
    x = np.full((2, 4), np.inf, np.float32)
    with pytest.raises(InvalidRequest, match=r"^Check failed: valid: Input data contains `inf`"):
        answers(load(tmp_path), {"data": x})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.json", b'{"nodes": [{"op": "null"}]}'),
        ("symbol.json", b'{"nodes": [], "learner": 1}'),
        ("model.json", b'{"version": [1, 2, 3], "name": "package"}'),
        ("model.model", b"\x08\x02\x12\x11\x0a\x07version\x12\x06\x08\x02\x10\x03(\x03"),
        ("model.model", b"tree\nversion=v4\n"),
        ("model.bst", b"tree\nversion=v4\n"),
        ("model.model", b""),
    ],
)
def test_files_of_others_are_not_claimed(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert not PLATFORM.detect(tmp_path)
    with pytest.raises(LoadFailed, match=rf"{re.escape(str(tmp_path / name))}: is no XGBoost model"):
        load(tmp_path)


def test_json_is_recognised_however_it_is_written(tmp_path):
    path = boosters.xgboost_model(tmp_path)
    content = json.loads(path.read_text())
    x = boosters.rows(20)
    want = answers(load(tmp_path), {"data": x})["result"]
    for text in (json.dumps(content, indent=2), json.dumps(dict(reversed(content.items())))):
        path.write_text(text)
        np.testing.assert_array_equal(answers(loaded(PLATFORM, tmp_path), {"data": x})["result"], want)


def test_a_model_is_found_beside_other_files(tmp_path):
    boosters.xgboost_model(tmp_path, ".ubj").rename(tmp_path / "iris.ubj")
    (tmp_path / "config.json").write_text("{}")
    assert loaded(PLATFORM, tmp_path).signatures


@pytest.mark.parametrize("suffix", [".json", ".ubj", ".pkl", ".joblib"])
def test_files_cut_short(tmp_path, suffix):
    path = boosters.xgboost_model(tmp_path, suffix)
    content = path.read_bytes()
    for size in (*range(0, len(content), len(content) // 25), len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(LoadFailed) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_a_damaged_tree_is_not_followed(tmp_path):
    path = boosters.xgboost_model(tmp_path)
    content = json.loads(path.read_text())
    tree = content["learner"]["gradient_booster"]["model"]["trees"][0]
    good = {key: list(tree[key]) for key in ("left_children", "split_indices")}
    for key, index, value in [("left_children", 0, 10**6), ("left_children", 1, 0), ("split_indices", 0, 77)]:
        tree |= {name: list(values) for name, values in good.items()}
        tree[key][index] = value
        path.write_text(json.dumps(content))
        with pytest.raises(LoadFailed, match=rf"{re.escape(str(path))}: is damaged: tree 0"):
            load(path)


def test_a_file_of_a_later_release_is_refused_with_both_versions(tmp_path):
    path = boosters.xgboost_model(tmp_path)
    major, minor = (int(part) for part in xgb.__version__.split(".")[:2])
    here = re.escape(xgb.__version__)
    text = path.read_text()
    for later in ((major, minor + 1, 0), (major + 1, 0, 0)):
        path.write_text(re.sub(r'"version":\[[\d,]*\]', f'"version":{list(later)}', text))
        with pytest.raises(LoadFailed, match=rf"saved by XGBoost {'.'.join(map(str, later))}, and this is {here}"):
            load(path)
    path.write_text(re.sub(r'"version":\[[\d,]*\]', f'"version":{[major, minor, 99]}', text))
    assert load(path).signatures


def test_pickles_of_others(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = boosters.rows(missing=False)
    y = boosters.targets(x)
    model = xgb.XGBClassifier(n_estimators=2, n_jobs=1)
    pipeline = make_pipeline(StandardScaler(), model).fit(x, y)
    for thing, owner in [(pipeline, "scikitlearn"), (LogisticRegression().fit(x, y), "scikitlearn")]:
        path = boosters.pickled(thing, tmp_path / "model.pkl")
        assert detect(path).name == owner
        with pytest.raises(LoadFailed, match=r"model\.pkl: is a pickle of scikit-learn, not of xgboost"):
            load(path)
    path = boosters.pickled({"booster": 1}, tmp_path / "model.pkl")
    with pytest.raises(LoadFailed, match=r"model\.pkl: holds dict, which is not an XGBoost model"):
        load(path)
    path = boosters.pickled(xgb.XGBRegressor(), tmp_path / "model.pkl")
    with pytest.raises(LoadFailed, match="holds XGBRegressor, which is not fitted"):
        load(path)


# --- what only older releases read ------------------------------------------------------------------------------------

OLD_INPUT = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.1, 4.4, 1.4], [6.3, 3.3, 6.0, np.nan]], np.float32)

old = pytest.mark.skipif(not OLD.is_dir(), reason="needs the models in shared/models")
legacy = pytest.mark.skipif(
    not (beside.folder(xgboost_legacy.NAME) / "xgboost").is_dir(), reason=f"needs {xgboost_legacy.COMMAND}"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of converted models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stfs" / "xgboost"


@old
@pytest.mark.parametrize("suffix", [".bst", ".pkl", ".joblib"])
def test_an_old_model_names_the_command_that_converts_it(tmp_path, monkeypatch, cache, suffix):
    monkeypatch.setenv("STFS_HOME", str(tmp_path))
    path = OLD / f"model{suffix}"
    assert detect(path).name == "xgboost"
    with pytest.raises(LoadFailed, match=rf"{re.escape(str(path))}: is .*run stfs platforms install xgboost-legacy"):
        load(path)


@old
@legacy
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".bst", ".pkl", ".joblib"])
def test_an_old_model_gives_the_answers_of_the_release_that_reads_it(monkeypatch, cache, suffix):
    path = OLD / f"model{suffix}"
    servable = load(path)
    code = """
import json, sys
import numpy as np
import xgboost
booster = xgboost.Booster(model_file=sys.argv[1])
x = np.array(json.loads(sys.argv[2]), np.float32)
rows = xgboost.DMatrix(x, feature_names=booster.feature_names)
print(json.dumps([xgboost.__version__, booster.predict(rows).tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(OLD / "model.bst"), json.dumps(OLD_INPUT.tolist())],
        env=os.environ | {"PYTHONPATH": str(beside.folder(xgboost_legacy.NAME)), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=True,
    )
    version, want = json.loads(done.stdout)
    assert version == "3.0.5"
    np.testing.assert_allclose(answers(servable, {"data": OLD_INPUT})["result"], want, rtol=1e-6)
    if suffix != ".bst":  # only the pickles hold the names
        assert servable.signatures[S].inputs[0].columns == ("f0", "f1", "f2", "f3")
    (kept,) = cache.iterdir()
    assert kept.suffix == ".json"
    monkeypatch.setattr(xgboost_legacy, "_run", None)  # from now on only the cache can answer
    np.testing.assert_allclose(answers(load(path), {"data": OLD_INPUT})["result"], want, rtol=1e-6)


@old
@legacy
@pytest.mark.slow
def test_an_old_model_that_is_broken(tmp_path, cache):
    content = (OLD / "model.bst").read_bytes()
    path = tmp_path / "model.bst"
    for size in (300, 2000, len(content) - 1):
        path.write_bytes(content[:size])
        assert PLATFORM.detect(path)
        with pytest.raises(LoadFailed, match=rf"{re.escape(str(path))}: cannot be converted") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    assert not cache.exists()


@old
@legacy
@pytest.mark.slow
def test_an_old_model_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert answers(load(OLD / "model.bst"), {"data": OLD_INPUT})["result"].shape == (3,)


@legacy
@pytest.mark.slow
def test_an_old_classifier_keeps_its_labels(tmp_path, cache):
    """A wrapper of before 1.0, made by hand: its booster is a bare model, and its labels are in ``_le``."""
    code = """
import pickle, sys, warnings
import numpy as np
import boosters
import xgboost
from sklearn.preprocessing import LabelEncoder
warnings.simplefilter("ignore")
x = boosters.rows()
model = xgboost.XGBClassifier(n_estimators=3, max_depth=3, n_jobs=1, missing=-7.0).fit(x, boosters.targets(x))
raw = model.get_booster().save_raw("deprecated")
xgboost.Booster.__getstate__ = lambda booster: {"handle": raw, "feature_names": list("abcd"), "feature_types": None}
model._le = LabelEncoder().fit(boosters.NAMES)
open(sys.argv[1] + "/model.pkl", "wb").write(pickle.dumps(model).replace(
    b"\\x8c\\x1csklearn.preprocessing._label", b"\\x8c\\x1bsklearn.preprocessing.label"))
np.save(sys.argv[1] + "/want.npy", model.predict_proba(x))
"""
    tests = str(Path(boosters.__file__).parent)
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(beside.folder(xgboost_legacy.NAME)), tests))},
        check=True,
    )
    servable = load(tmp_path)
    x = boosters.rows()
    outputs = answers(servable, {"data": x})
    want = np.load(tmp_path / "want.npy")
    np.testing.assert_allclose(outputs["predict_proba"], want, rtol=1e-6)
    assert outputs["predict"].tolist() == [boosters.NAMES[i].encode() for i in want.argmax(axis=1)]
    assert servable.signatures[S].inputs[0].columns == ("a", "b", "c", "d")


def test_the_wrapper_of_releases_1_in_json(tmp_path):
    """They wrote the class, its labels and what stands for missing values beside the model."""
    booster = boosters.xgboost_booster()
    booster.set_attr(scikit_learn=json.dumps({"type": "XGBClassifier", "_le": {"classes_": list(boosters.NAMES)}}))
    booster.save_model(tmp_path / "model.json")
    x = boosters.rows()
    outputs = answers(loaded(PLATFORM, tmp_path), {"data": x})
    want = booster.predict(xgb.DMatrix(x)).argmax(axis=1)
    assert outputs["predict"].tolist() == [boosters.NAMES[i].encode() for i in want]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_unloading_frees_the_memory(python, tmp_path, suffix):
    path = boosters.xgboost_model(tmp_path, suffix)
    grown = int(python(GROWTH, "xgboost", path))
    assert grown < 8 << 20


def test_a_pickle_runs_only_where_it_must(tmp_path):
    """What is another framework's pickle by its first class is refused before its code runs."""
    from sklearn.linear_model import LinearRegression

    marker = tmp_path / "ran"
    payload = pickle.dumps(LinearRegression())[:-1] + b"0cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    (tmp_path / "model.pkl").write_bytes(payload)
    with pytest.raises(LoadFailed, match="is a pickle of scikit-learn"):
        load(tmp_path)
    assert not marker.exists()
