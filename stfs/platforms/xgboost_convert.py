"""A program: makes JSON of a model that only an older XGBoost reads. Imports nothing of stfs.

``python -P xgboost_convert.py FOLDER FILE RESULT``: FOLDER holds that XGBoost, which must not be the one of the
environment. Ends with status 1 and one line on standard error if it cannot.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

PICKLES = (".joblib", ".pkl", ".pickle")


def main(folder: str, file: str, result: str) -> None:
    """Convert ``file``; everything that a pickle may need is put in place of what has gone since."""
    sys.path.insert(0, folder)
    import xgboost

    if not xgboost.__file__.startswith(folder):
        raise RuntimeError(f"xgboost was found in {xgboost.__file__}, not in {folder}")
    content = Path(file).read_bytes()
    if file.endswith(PICKLES):
        model = unpickled(content)
    else:
        model = xgboost.Booster()
        model.load_model(bytearray(content))  # from memory, for XGBoost would believe the ending of the file
    booster, wrapper = model, {}
    if isinstance(model, xgboost.XGBModel):
        booster, wrapper = model.get_booster(), wrapped(model)
    elif not isinstance(model, xgboost.Booster):
        raise TypeError(f"it holds {type(model).__name__}, which is not an XGBoost model")
    if wrapper:
        booster.set_attr(scikit_learn=json.dumps(wrapper))
    booster.save_model(result)


def unpickled(content: bytes) -> Any:
    """The object in a pickle. Before 1.0 its booster was a bare model, which ``load_model`` reads."""
    import xgboost
    import xgboost.compat

    try:
        from joblib import load
    except ImportError:
        from pickle import load

    serialised = xgboost.Booster.__setstate__

    def set_state(booster: Any, state: dict[str, Any]) -> None:
        content = state.get("handle")
        if content is None or bytes(content[:14]).startswith((b"CONFIG-offset:", b"{")):
            serialised(booster, state)
        else:
            booster.__init__()
            booster.load_model(bytearray(content))
        for name in ("feature_names", "feature_types"):
            if state.get(name):
                setattr(booster, name, state[name])

    xgboost.Booster.__setstate__ = set_state
    xgboost.compat.XGBoostLabelEncoder = type("XGBoostLabelEncoder", (), {})
    try:
        import sklearn.preprocessing

        sys.modules.setdefault("sklearn.preprocessing.label", sklearn.preprocessing._label)
    except ImportError:
        pass
    return load(io.BytesIO(content))


def wrapped(model: Any) -> dict[str, Any]:
    """What a scikit-learn wrapper knows beside its booster, as far as it can be written in JSON."""
    import xgboost

    state = vars(model)
    missing = state.get("missing")
    told: dict[str, Any] = {"_estimator_type": "regressor"}
    if isinstance(missing, int | float) and missing == missing:
        told["missing"] = missing
    if isinstance(model, xgboost.XGBClassifier):
        labels = getattr(state.get("_le"), "classes_", state.get("classes_"))
        told |= {"_estimator_type": "classifier", "classes_": None if labels is None else list(labels)}
        if labels is not None:
            told["classes_"] = [label.item() if hasattr(label, "item") else label for label in labels]
    return told


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        text = str(error).strip().splitlines()
        sys.exit(f"{type(error).__name__}: {text[0] if text else ''}")
