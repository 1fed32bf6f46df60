"""Train a handwritten-digits classifier on scikit-learn's own data and write it in two forms, for ``make demo``.

``python examples/make_demo_models.py FOLDER`` writes::

    FOLDER/digits/1/model.onnx         a small neural network, as ONNX
    FOLDER/digits_forest/1/model.joblib  a random forest, as scikit-learn saves it
    FOLDER/models.json                 the config file that serves both

Nothing is downloaded: the data comes with scikit-learn.
"""

import json
import sys
from pathlib import Path

import joblib
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """The trained network as an ONNX graph: float32 ``pixels`` [n, 64] in, ``probabilities`` and ``digit`` out."""
    (hidden_w, output_w), (hidden_b, output_b) = network.coefs_, network.intercepts_
    weights = {"hidden_w": hidden_w, "hidden_b": hidden_b, "output_w": output_w, "output_b": output_b}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["pixels", "hidden_w", "hidden_b"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "output_w", "output_b"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["digit"], axis=1, keepdims=0),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 64])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 10]),
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["n"]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def main(folder: Path) -> None:
    """Train, check on held-out digits, write."""
    pixels, digits = load_digits(return_X_y=True)
    seen_x, unseen_x, seen_y, unseen_y = train_test_split(pixels, digits, test_size=0.2, random_state=0)
    network = MLPClassifier((64,), max_iter=200, early_stopping=True, random_state=0).fit(seen_x, seen_y)
    forest = RandomForestClassifier(50, random_state=0).fit(seen_x, seen_y)
    print(
        f"trained on {len(seen_x)} digits; right on {len(unseen_x)} others: "
        f"network {network.score(unseen_x, unseen_y):.1%}, forest {forest.score(unseen_x, unseen_y):.1%}"
    )

    for name in ("digits", "digits_forest"):
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(network), folder / "digits" / "1" / "model.onnx")
    joblib.dump(forest, folder / "digits_forest" / "1" / "model.joblib")
    models = [{"name": name, "base_path": str(folder / name)} for name in ("digits", "digits_forest")]
    (folder / "models.json").write_text(json.dumps({"model_config_list": models}, indent=2) + "\n")
    example = json.dumps({"instances": [unseen_x[0].astype(int).tolist()]})
    (folder / "example.json").write_text(example + "\n")
    print(
        f"once they are served, this asks what a picture of a {unseen_y[0]} shows:\n"
        f"  curl -d @{folder / 'example.json'} http://127.0.0.1:8500/v1/models/digits:predict"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
