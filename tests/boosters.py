"""Small models of XGBoost, LightGBM and CatBoost for tests, trained on made-up data. No function here uses stfs.

The data is the same for all: :func:`rows` of four numbers, of which some are missing, and :func:`frame` with
categories.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 200
COLOURS = ("blue", "green", "red")
NAMES = ("setosa", "versicolor", "virginica")


def rows(n: int = ROWS, seed: int = 0, missing: bool = True) -> Any:
    """float32 ``[n, 4]``, every eleventh value NaN."""
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    if missing:
        x.ravel()[::11] = np.nan
    return x


def targets(x: Any) -> Any:
    """int ``[n]``: three classes that four numbers tell apart."""
    filled = np.nan_to_num(x)
    return (filled[:, 0] > 0).astype(int) + (filled[:, 1] > 0.3)


def frame(n: int = ROWS, seed: int = 0) -> Any:
    """A pandas frame: ``size`` float32 with gaps, ``colour`` and ``shelf`` (numbers) as categories with gaps."""
    import pandas

    random = np.random.default_rng(seed)
    colours = random.choice([*COLOURS, None], n, p=[0.3, 0.3, 0.3, 0.1])
    return pandas.DataFrame(
        {
            "size": rows(n, seed)[:, 0],
            "colour": pandas.Categorical(colours, categories=COLOURS),
            "shelf": pandas.Categorical(random.choice([10, 20, 30], n), categories=[10, 20, 30]),
        }
    )


def frame_targets(table: Any) -> Any:
    """float ``[n]``."""
    return (table["colour"] == "red") * 2.0 + (table["shelf"] == 20) + np.nan_to_num(table["size"]) / 10


def columns(table: Any) -> dict[str, Any]:
    """A frame as the inputs of a signature of columns: floats, and categories as ``bytes``, empty where missing."""
    inputs: dict[str, Any] = {}
    for name in table.columns:
        values = table[name].tolist()
        if table[name].dtype == "category":
            texts = [b"" if value is None or value != value else str(value).encode() for value in values]
            inputs[name] = np.array(texts, object)
        else:
            inputs[name] = np.asarray(values)
    return inputs


def xgboost_booster(objective: str = "multi:softprob", rounds: int = 4, **parameters: Any) -> Any:
    """A trained ``Booster`` over :func:`rows`."""
    import xgboost

    x = rows(missing=parameters.get("booster") != "gblinear")
    y: Any = targets(x)
    if objective.startswith("multi:"):
        parameters["num_class"] = 3
    elif objective.startswith(("binary:", "rank:")):
        y = y > 0
    data = xgboost.DMatrix(x, y)
    if objective.startswith("rank:"):
        data.set_group([20] * (ROWS // 20))
    settings = {"objective": objective, "max_depth": 3, "nthread": 1, "seed": 1}
    with xgboost.config_context(verbosity=0):  # it warns of gblinear's age
        return xgboost.train(settings | parameters, data, rounds)


def xgboost_model(folder: Path, suffix: str = ".json") -> Path:
    """A classifier of three classes as a plain booster, in any of XGBoost's forms."""
    import xgboost

    path = folder / f"model{suffix}"
    booster = xgboost_booster()
    if suffix in (".pkl", ".joblib"):
        return pickled(booster, path)
    with xgboost.config_context(verbosity=0):  # it warns of endings that do not tell the form
        booster.save_model(path)
    return path


def xgboost_categories(folder: Path, suffix: str = ".json") -> Path:
    """A regressor over :func:`frame`, which holds its categories."""
    import xgboost

    table = frame()
    data = xgboost.DMatrix(table, frame_targets(table), enable_categorical=True)
    path = folder / f"model{suffix}"
    xgboost.train({"max_depth": 3, "nthread": 1}, data, 6).save_model(path)
    return path


def lightgbm_booster(objective: str = "multiclass", rounds: int = 4, **parameters: Any) -> Any:
    """A trained ``Booster`` over :func:`rows`, in float64."""
    import lightgbm

    x = rows().astype(np.float64)
    y: Any = targets(x)
    if objective.startswith("multiclass"):
        parameters["num_class"] = 3
    elif objective in ("binary", "cross_entropy"):
        y = y > 0
    group = [20] * (ROWS // 20) if objective in ("lambdarank", "rank_xendcg") else None
    settings = {"objective": objective, "num_leaves": 6, "num_threads": 1, "verbosity": -1, "seed": 1}
    return lightgbm.train(settings | parameters, lightgbm.Dataset(x, y, group=group), rounds)


def lightgbm_model(folder: Path, suffix: str = ".txt") -> Path:
    """A classifier of three classes as a plain booster."""
    path = folder / f"model{suffix}"
    booster = lightgbm_booster()
    if suffix in (".pkl", ".joblib"):
        return pickled(booster, path)
    booster.save_model(path)
    return path


def lightgbm_categories(folder: Path) -> Path:
    """A regressor over :func:`frame`, which holds its categories."""
    import lightgbm

    table = frame()
    settings = {"num_threads": 1, "verbosity": -1, "min_data_per_group": 5, "cat_smooth": 1.0, "num_leaves": 6}
    path = folder / "model.txt"
    lightgbm.train(settings, lightgbm.Dataset(table, frame_targets(table)), 6).save_model(path)
    return path


def catboost_fit(kind: str = "CatBoostClassifier", y: Any = None, **parameters: Any) -> Any:
    """A trained model of that class over :func:`rows`."""
    import catboost

    x = rows()
    settings = {"iterations": 6, "depth": 3, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
    return getattr(catboost, kind)(**settings | parameters).fit(x, targets(x) if y is None else y)


def catboost_table(n: int = ROWS, seed: int = 0) -> Any:
    """Object ``[n, 4]``: a category, a number with gaps, a category of digits, a number."""
    table = frame(n, seed)
    cells = np.empty((n, 4), object)
    cells[:, 0] = ["" if value is None or value != value else value for value in table["colour"].tolist()]
    cells[:, 1] = table["size"].tolist()
    cells[:, 2] = [str(value) for value in table["shelf"].tolist()]
    cells[:, 3] = rows(n, seed + 1, missing=False)[:, 0].tolist()
    return cells


CATBOOST_COLUMNS = ("colour", "size", "shelf", "weight")


def catboost_categories(folder: Path, suffix: str = ".cbm") -> Path:
    """A classifier over :func:`catboost_table`, its columns named as in ``CATBOOST_COLUMNS``."""
    import catboost

    cells = catboost_table()
    y = np.array(NAMES)[(cells[:, 0] == "red").astype(int) + (cells[:, 2] == "20")]
    data = catboost.Pool(cells, y, cat_features=[0, 2], feature_names=list(CATBOOST_COLUMNS))
    settings = {"iterations": 6, "depth": 3, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
    model = catboost.CatBoostClassifier(**settings).fit(data)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model{suffix}"
    if suffix in (".pkl", ".joblib"):
        return pickled(model, path)
    model.save_model(str(path), format=suffix.removeprefix("."))
    return path


def catboost_model(folder: Path, suffix: str = ".cbm") -> Path:
    """A classifier of three classes over numbers only."""
    path = folder / f"model{suffix}"
    model = catboost_fit()
    if suffix in (".pkl", ".joblib"):
        return pickled(model, path)
    model.save_model(str(path), format=suffix.removeprefix("."))
    return path


def pickled(thing: Any, path: Path) -> Path:
    """``thing`` as a pickle, or by joblib if ``path`` ends so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".joblib":
        import joblib

        joblib.dump(thing, path)
    else:
        path.write_bytes(pickle.dumps(thing))
    return path
