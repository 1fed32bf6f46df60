"""A model of named columns over HTTP, on both ways through the server: every form, and neighbours' answers kept."""

import json
from concurrent.futures import ThreadPoolExecutor

import modelzoo
import numpy as np
import pytest
from running import running

pytestmark = pytest.mark.slow  # starts real servers
pd = pytest.importorskip("pandas", reason="pandas makes the frame that the estimator is fitted on")
pytest.importorskip("sklearn")


def fitted():
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    random = np.random.default_rng(3)
    frame = pd.DataFrame({"age": random.normal(40, 9, 80), "sex": random.choice(["f", "m"], 80), "id": range(80)})
    frame.loc[::9, "age"] = np.nan
    columns = ColumnTransformer([("n", SimpleImputer(), ["age"]), ("t", OneHotEncoder(), ["sex"])])
    target = (frame["age"].fillna(40) + 9 * (frame["sex"] == "f") > 44).astype(int)
    return make_pipeline(columns, LogisticRegression()).fit(frame, target)


@pytest.fixture(scope="module", params=["auto", "off"])
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    estimator = fitted()
    modelzoo.save_estimator(estimator, folder, ".joblib")
    with running(f"--model_base_path={folder}", f"--hot_path={request.param}") as server:
        yield server, estimator


FRAME = pd.DataFrame({"age": [31.5, np.nan], "sex": ["f", "m"]})


def test_every_form_gets_the_estimators_answer(served):
    server, estimator = served
    want = estimator.predict_proba(FRAME.assign(id=0))
    records = [{"age": 31.5, "sex": "f", "id": 7}, {"age": None, "sex": "m", "id": 8}]
    short = [{"sex": "f", "age": 31.5}, {"sex": "m"}]
    forms = [
        {"age": [31.5, None], "sex": ["f", "m"]},
        records,
        short,
        [[31.5, "f"], [None, "m"]],
        json.loads(FRAME.to_json()),
        json.loads(FRAME.to_json(orient="index")),
        json.loads(FRAME.to_json(orient="records")),
    ]
    for form in forms:
        for data in (form, {"data": form}):
            answer = server.post("/", {"data": data})
            assert answer.status == 200, answer.body
            np.testing.assert_array_equal(answer.json["predict_proba"], want)
    one = server.post("/", {"data": {"age": 31.5, "sex": "f"}})
    np.testing.assert_array_equal(one.json["predict_proba"], want[:1])
    rows = server.post("/v1/models/default:predict", {"instances": short})
    np.testing.assert_allclose([row["predict_proba"] for row in rows.json["predictions"]], want, rtol=1e-5)
    columns = server.post("/v1/models/default:predict", {"inputs": forms[0]})
    np.testing.assert_allclose(columns.json["outputs"]["predict_proba"], want, rtol=1e-5)


def test_a_value_outside_its_category_spoils_no_neighbour(served):
    server, estimator = served
    bodies = [{"data": {"age": float(age), "sex": "x" if age % 5 == 0 else "f"}} for age in range(20, 60)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: server.post("/", body), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        if body["data"]["sex"] == "x":
            assert answer.status == 400
            assert 'input "sex", row 0: "x" is not one of its values, "f", "m"' in answer.error
        else:
            want = estimator.predict_proba(pd.DataFrame([body["data"]]).assign(id=0))
            np.testing.assert_allclose(answer.json["predict_proba"], want, rtol=1e-12)


def test_what_may_miss_and_what_is_allowed_is_told(served):
    server, _ = served
    inputs = server.get("/v1/models/default").json["model_signature"]["inputs"]
    assert inputs == [
        {"name": "age", "dtype": 2, "dtype_name": "float64", "shape": [-1], "nullable": True},
        {"name": "sex", "dtype": 7, "dtype_name": "string", "shape": [-1], "values": ["f", "m"]},
    ]
    refused = server.post("/", {"data": [{"age": 1, "sex": None}]})
    assert refused.status == 400
    assert "expected a string, found null" in refused.error
    misspelt = server.post("/", {"data": [{"Age": 1, "sex": "f"}]})
    assert misspelt.status == 400
    assert 'input "Age", row 0: unknown, and "age" is missing' in misspelt.error
