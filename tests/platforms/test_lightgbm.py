"""LightGBM models against LightGBM called directly."""

from __future__ import annotations

import re
import warnings

import boosters
import numpy as np
import pytest
from boosted_suite import GROWTH, S, answers, assert_batches, assert_many_threads, loaded

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed
from stfs.platforms import detect, lightgbm_text
from stfs.platforms.base import LoadOptions
from stfs.platforms.lightgbm import LightGbmPlatform

lgb = pytest.importorskip("lightgbm")

PLATFORM = LightGbmPlatform()


def load(path, **options):
    return PLATFORM.load(path, LoadOptions(**options))


def rows(n=60, seed=3):
    return boosters.rows(n, seed).astype(np.float64)


@pytest.mark.parametrize("suffix", [".txt", ".model", ".bst", ".lgb", ".pkl", ".joblib"])
def test_every_form_gives_what_the_booster_gives(tmp_path, suffix):
    servable = loaded(PLATFORM, boosters.lightgbm_model(tmp_path, suffix).parent)
    x = rows()
    np.testing.assert_array_equal(answers(servable, {"data": x})["result"], boosters.lightgbm_booster().predict(x))
    (data,) = servable.signatures[S].inputs
    assert (data.name, data.dtype, data.shape, data.nullable) == ("data", np.float64, (None, 4), True)
    assert data.columns == ("Column_0", "Column_1", "Column_2", "Column_3")
    (result,) = servable.signatures[S].outputs
    assert (result.name, result.dtype, result.shape) == ("result", np.float64, (None, 3))
    assert servable.runtime == f"lightgbm {lgb.__version__}, multiclass"


@pytest.mark.parametrize(
    ("objective", "parameters"),
    [
        ("regression", {}),
        ("regression", {"boosting": "dart"}),
        ("regression", {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}),
        ("regression", {"linear_tree": True}),
        ("poisson", {}),
        ("quantile", {"alpha": 0.9}),
        ("binary", {}),
        ("multiclassova", {}),
        ("lambdarank", {}),
    ],
)
def test_every_objective(tmp_path, objective, parameters):
    booster = boosters.lightgbm_booster(objective, **parameters)
    booster.save_model(tmp_path / "model.txt")
    servable = loaded(PLATFORM, tmp_path)
    x = rows()
    want = lgb.Booster(model_file=tmp_path / "model.txt").predict(x)
    np.testing.assert_array_equal(answers(servable, {"data": x})["result"], want)
    np.testing.assert_allclose(booster.predict(x), want, rtol=1e-12)
    assert servable.signatures[S].outputs[0].shape == (None, *want.shape[1:])
    assert_batches(servable, {"data": x})
    assert_many_threads(servable, {"data": x})


@pytest.mark.parametrize("classes", [2, 3])
def test_a_wrapped_classifier_gives_its_labels_and_stops_where_it_was_best(tmp_path, classes):
    x = boosters.rows().astype(np.float64)
    y = np.array(boosters.NAMES)[boosters.targets(x) % classes]
    model = lgb.LGBMClassifier(n_estimators=40, num_leaves=6, n_jobs=1, verbosity=-1, learning_rate=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eval_set has a successor, which does not take labels of text
        model.fit(x, y, eval_set=[(rows(50, 8), y[:50])], callbacks=[lgb.early_stopping(2, verbose=False)])
    assert model.best_iteration_ < 40
    boosters.pickled(model, tmp_path / "model.pkl")
    servable = loaded(PLATFORM, tmp_path)
    outputs = answers(servable, {"data": x})
    np.testing.assert_array_equal(outputs["predict_proba"], model.predict_proba(x))
    assert outputs["predict"].tolist() == [label.encode() for label in model.predict(x).tolist()]
    np.testing.assert_array_equal(outputs["result"], model.booster_.predict(x))
    assert_batches(servable, {"data": x[:60]})


@pytest.mark.parametrize("kind", ["LGBMRegressor", "LGBMRanker"])
def test_other_wrappers(tmp_path, kind):
    x = boosters.rows().astype(np.float64)
    model = getattr(lgb, kind)(n_estimators=3, num_leaves=6, n_jobs=1, verbosity=-1)
    model.fit(x, boosters.targets(x), **({"group": [20] * 10} if kind == "LGBMRanker" else {}))
    boosters.pickled(model, tmp_path / "model.joblib")
    outputs = answers(loaded(PLATFORM, tmp_path), {"data": x})
    assert list(outputs) == ["result"]
    np.testing.assert_array_equal(outputs["result"], model.predict(x))


def test_categories_are_columns_of_text(tmp_path):
    path = boosters.lightgbm_categories(tmp_path)
    servable = loaded(PLATFORM, path)
    size, colour, shelf = servable.signatures[S].inputs
    assert (size.name, size.dtype_name, size.shape, size.nullable, size.values) == (
        "size",
        "float64",
        (None,),
        True,
        (),
    )
    assert (colour.name, colour.dtype_name, colour.nullable) == ("colour", "string", True)
    assert colour.values == boosters.COLOURS
    assert (shelf.name, shelf.dtype_name, shelf.values) == ("shelf", "string", ("10", "20", "30"))
    table = boosters.frame(60, seed=4)
    inputs = boosters.columns(table)
    want = lgb.Booster(model_file=path).predict(table)
    assert len(np.unique(want)) > 3
    np.testing.assert_array_equal(answers(servable, inputs)["result"], want)
    assert_batches(servable, inputs)
    assert_many_threads(servable, inputs)
    inputs["colour"][5] = b"mauve"
    with pytest.raises(InvalidInput, match=r'input "colour".*5.*mauve'):
        answers(servable, inputs)


@pytest.mark.parametrize("named", [False, True])
def test_categories_that_are_only_codes_are_numbers(tmp_path, named):
    """Of a frame whose categories were not all taken as such it cannot be told which were."""
    if named:
        table = boosters.frame()
        data = lgb.Dataset(table, boosters.frame_targets(table), categorical_feature=["shelf"])
        x = np.stack([table["size"], table["colour"].cat.codes, table["shelf"].cat.codes], axis=1).astype(np.float64)
    else:
        x = np.stack([np.arange(200) % 3, np.arange(200) % 7], axis=1).astype(np.float64)
        data = lgb.Dataset(x, x[:, 0] == 2, categorical_feature=[0])
    settings = {"num_threads": 1, "verbosity": -1, "min_data_per_group": 5}
    booster = lgb.train(settings, data, 3)
    booster.save_model(tmp_path / "model.txt")
    servable = loaded(PLATFORM, tmp_path)
    np.testing.assert_array_equal(answers(servable, {"data": x})["result"], booster.predict(x))


def test_wrong_inputs(tmp_path):
    boosters.lightgbm_model(tmp_path)
    signature = load(tmp_path).signatures[S]
    for inputs, problem in [
        ({"data": np.zeros((2, 5))}, r"shape \[2, 5\] does not match \[\?, 4\]"),
        ({"data": np.array([["a"] * 4], object)}, "dtype string"),
        ({"date": np.zeros((2, 4))}, "missing"),
    ]:
        with pytest.raises(InvalidRequest, match=problem):
            signature.bind(inputs)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.txt", b"trees are green"),
        ("labels.txt", b"cat\ndog\n"),
        ("model.model", b"\x08\x02"),
        ("model.txt", b""),
    ],
)
def test_files_of_others_are_not_claimed(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert not PLATFORM.detect(tmp_path)
    with pytest.raises(LoadFailed, match=rf"{re.escape(str(tmp_path / name))}: is no LightGBM model"):
        load(tmp_path)


def test_a_model_is_found_beside_other_texts(tmp_path):
    boosters.lightgbm_model(tmp_path).rename(tmp_path / "iris.txt")
    (tmp_path / "requirements.txt").write_text("lightgbm\n")
    assert loaded(PLATFORM, tmp_path).signatures


@pytest.mark.parametrize("suffix", [".txt", ".pkl", ".joblib"])
def test_files_cut_short(tmp_path, suffix):
    path = boosters.lightgbm_model(tmp_path, suffix)
    content = path.read_bytes()
    end = content.index(b"end of parameters") if suffix == ".txt" else len(content)
    for size in (*range(0, end, end // 40), end - 1):
        path.write_bytes(content[:size])
        with pytest.raises(LoadFailed) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (r"\nleft_child=\S+", "\nleft_child=900", "tree 0 is damaged"),
        (r"\nsplit_feature=\d", "\nsplit_feature=7", "tree 0 is damaged"),
        (r"\nthreshold=\S+ ", "\nthreshold=", "tree 0 is damaged"),
        (r"\nnum_cat=0", "\nnum_bat=0", "tree 0 is damaged"),
        (r"\nleaf_value=\S", "\nleaf_value=x", "tree 0 is damaged"),
        (r"\nfeature_names=\S+ ", "\nfeature_names=", "its header is damaged"),
        (r"\nversion=v4", "\nversion=v9", "its format is v9, and the newest known is v4"),
        (r"\ntree_sizes=\d+", "\ntree_sizes=1", "not as long as its header says"),
    ],
)
def test_a_damaged_model_is_not_followed(tmp_path, before, after, problem):
    path = boosters.lightgbm_model(tmp_path)
    text = path.read_text()
    match = re.search(before, text)
    # Of the same length, so that only what is tried is wrong.
    padding = " " * (len(match[0]) - len(after)) if "left_child" in before else ""
    damaged = text[: match.start()] + after + padding + text[match.end() :]
    sizes = [int(size) for size in re.search(r"tree_sizes=(.*)", text)[1].split()]
    if "tree 0" in problem:
        grown = len(damaged) - len(text)
        damaged = damaged.replace(f"tree_sizes={sizes[0]}", f"tree_sizes={sizes[0] + grown}", 1)
    path.write_text(damaged)
    with pytest.raises(LoadFailed, match=rf"{re.escape(str(path))}: .*{re.escape(problem)}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_every_kind_of_tree_is_taken_for_whole():
    """Stumps of one leaf, categories, linear leaves: what LightGBM writes passes."""
    x = rows(200)
    for parameters, y in [({}, np.ones(200)), ({"linear_tree": True}, x[:, 1]), ({"num_leaves": 60}, x[:, 1])]:
        settings = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 1} | parameters
        booster = lgb.train(settings, lgb.Dataset(x, np.nan_to_num(y)), 3)
        lightgbm_text.check(booster.model_to_string().encode())


def test_pickles_of_others(tmp_path):
    from sklearn.linear_model import LogisticRegression

    x = np.nan_to_num(rows())
    path = boosters.pickled(LogisticRegression().fit(x, boosters.targets(x)), tmp_path / "model.pkl")
    assert detect(path).name == "scikitlearn"
    with pytest.raises(LoadFailed, match=r"model\.pkl: is a pickle of scikit-learn, not of lightgbm"):
        load(path)
    path = boosters.pickled(lgb.LGBMRegressor(), tmp_path / "model.pkl")
    with pytest.raises(LoadFailed, match="holds LGBMRegressor, which is not fitted"):
        load(path)


def test_nothing_is_printed(tmp_path, capfd):
    boosters.lightgbm_model(tmp_path)
    answers(load(tmp_path), {"data": rows()})
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".txt", ".pkl"])
def test_unloading_frees_the_memory(python, tmp_path, suffix):
    path = boosters.lightgbm_model(tmp_path, suffix)
    assert int(python(GROWTH, "lightgbm", path)) < 8 << 20
