"""XGBoost, LightGBM and CatBoost over HTTP: one server, matrices and columns, against the frameworks themselves."""

from __future__ import annotations

import json

import boosters
import numpy as np
import pytest
from running import running

xgb = pytest.importorskip("xgboost")
lgb = pytest.importorskip("lightgbm")
cb = pytest.importorskip("catboost")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    makers = {
        "xgb": boosters.xgboost_model,
        "lgb": boosters.lightgbm_model,
        "cat": boosters.catboost_model,
        "xgb_columns": boosters.xgboost_categories,
        "lgb_columns": boosters.lightgbm_categories,
        "cat_columns": boosters.catboost_categories,
    }
    models = []
    for name, make in makers.items():
        (root / name / "1").mkdir(parents=True)
        make(root / name / "1")
        models.append({"name": name, "base_path": str(root / name)})
    config = root / "models.json"
    config.write_text(json.dumps({"model_config_list": models}))
    with running(f"--model_config_file={config}") as started:
        yield started


def with_nulls(values):
    """A float array as JSON, ``null`` where NaN is."""
    return json.loads(json.dumps(np.asarray(values, float).tolist()).replace("NaN", "null"))


X = boosters.rows(30, seed=9)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("xgb", lambda: boosters.xgboost_booster().predict(xgb.DMatrix(X))),
        ("lgb", lambda: boosters.lightgbm_booster().predict(X.astype(float))),
        ("cat", lambda: boosters.catboost_fit().predict(X, prediction_type="RawFormulaVal")),
    ],
)
def test_a_matrix_with_missing_values(server, name, want):
    for data in ({"data": with_nulls(X)}, with_nulls(X)):
        answer = server.post("/", {"model_name": name, "data": data})
        assert answer.status == 200, answer.body
        np.testing.assert_allclose(answer.json["result"], want(), rtol=1e-6)
    answer = server.post("/", {"model_name": name, "data": {"data": [[1.0, 2.0]]}})
    assert answer.status == 400
    assert "[1, 2] does not match [?, 4]" in answer.error


TABLE = boosters.frame(30, seed=9)
COLUMNS = {
    "size": with_nulls(TABLE["size"]),
    "colour": [None if v is None or v != v else v for v in TABLE["colour"].tolist()],
    "shelf": [str(v) for v in TABLE["shelf"].tolist()],
}


@pytest.mark.parametrize("name", ["xgb_columns", "lgb_columns"])
def test_columns_with_missing_values(server, tmp_path, name):
    if name == "xgb_columns":
        booster = xgb.Booster(model_file=boosters.xgboost_categories(tmp_path))
        want = booster.predict(xgb.DMatrix(TABLE, enable_categorical=True))
    else:
        want = lgb.Booster(model_file=boosters.lightgbm_categories(tmp_path)).predict(TABLE)
    rows = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]
    for data in (COLUMNS, rows):
        answer = server.post("/", {"model_name": name, "data": data})
        assert answer.status == 200, answer.body
        np.testing.assert_allclose(answer.json["result"], want, rtol=1e-6)
    answer = server.post("/", {"model_name": name, "data": [rows[0] | {"colour": "mauve"}]})
    assert answer.status == 400
    assert "colour" in answer.error
    assert "mauve" in answer.error


def test_columns_of_catboost(server, tmp_path):
    cells = boosters.catboost_table(30, seed=9)
    model = cb.CatBoostClassifier().load_model(str(boosters.catboost_categories(tmp_path)))
    data = dict(zip(boosters.CATBOOST_COLUMNS, cells.T.tolist(), strict=True))
    data["size"] = with_nulls(data["size"])
    answer = server.post("/", {"model_name": "cat_columns", "data": data})
    assert answer.status == 200, answer.body
    assert answer.json["predict"] == model.predict(cells)[:, 0].tolist()
    np.testing.assert_allclose(answer.json["predict_proba"], model.predict_proba(cells), rtol=1e-12)
