"""Which platforms there are, and which of them a model is for. Imports no framework; loads no model.

The built-in ones are a table here, so that they are found in a checkout that is not installed, in a zip file or a
frozen program, where there is no package metadata. Entry points of the group ``stfs.platforms`` add to it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from stfs.errors import ConfigError, LoadFailed
from stfs.platforms.base import Platform

GROUP = "stfs.platforms"
BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "caffe2": "stfs.platforms.caffe2:Caffe2Platform",
        "catboost": "stfs.platforms.catboost:CatBoostPlatform",
        "cntk": "stfs.platforms.cntk:CntkPlatform",
        "h2o": "stfs.platforms.h2o:H2oPlatform",
        "lightgbm": "stfs.platforms.lightgbm:LightGbmPlatform",
        "mxnet": "stfs.platforms.mxnet:MxnetPlatform",
        "onnx": "stfs.platforms.onnx:OnnxPlatform",
        "pmml": "stfs.platforms.pmml:PmmlPlatform",
        "python": "stfs.platforms.python:PythonPlatform",
        "pytorch": "stfs.platforms.pytorch:PyTorchPlatform",
        "scikitlearn": "stfs.platforms.scikitlearn:ScikitLearnPlatform",
        "spark": "stfs.platforms.spark:SparkPlatform",
        "tensorflow": "stfs.platforms.tensorflow:TensorFlowPlatform",
        "xgboost": "stfs.platforms.xgboost:XGBoostPlatform",
    }
)

logger = logging.getLogger(__name__)


@cache
def available() -> Mapping[str, Platform]:
    """Every platform by its name, sorted; read once a process.

    An entry point cannot replace a built-in platform. One that does not import is logged and left out: a broken
    extension must not stop the models that do not need it.
    """
    found: dict[str, Platform] = {}
    for name, where in BUILT_IN.items():
        module, _, kind = where.partition(":")
        found[name] = getattr(importlib.import_module(module), kind)()
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.name in found:
            continue
        try:
            platform = point.load()()
        except Exception as error:
            logger.error("platform %s (%s) is left out, it does not import: %r", point.name, point.value, error)
            continue
        if isinstance(platform, Platform):
            found[point.name] = platform
        else:
            logger.error("platform %s (%s) is left out, it is not a Platform", point.name, point.value)
    return MappingProxyType(dict(sorted(found.items())))


def find(name: str) -> Platform:
    """The platform of that name or alias; case, spaces, hyphens and underscores do not count.

    Raises :class:`ConfigError` listing the platforms there are.
    """
    wanted = _plain(name)
    for known, platform in available().items():
        if wanted in {_plain(alias) for alias in (known, platform.name, *platform.aliases)}:
            return platform
    raise ConfigError(f'unknown platform "{name}"; there are {", ".join(available())}')


def detect(path: Path) -> Platform | None:
    """The platform whose model lies at ``path``, a file or a version folder; ``None`` if there is no model.

    Raises :class:`LoadFailed` if several platforms claim it: the user must say which.
    """
    claims = {name: platform for name, platform in available().items() if platform.detect(path)}
    if len(claims) > 1:
        raise LoadFailed(f"{path}: looks like a model of {' and of '.join(claims)}; say which with the platform option")
    return next(iter(claims.values()), None)


def is_model(path: Path) -> bool:
    """Whether any platform claims ``path``; never raises."""
    return any(platform.detect(path) for platform in available().values())


def _plain(name: str) -> str:
    return name.strip().lower().translate(str.maketrans("", "", "-_ "))
