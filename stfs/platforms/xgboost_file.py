"""What XGBoost's files tell about themselves: their kind, their version, their features. Imports no framework.

XGBoost writes JSON and UBJSON; up to 2.x it also wrote a binary form, which 3.1 and later cannot read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from stfs.platforms.boosted import Feature

Kind = Literal["json", "ubj", "binary"]

_JSON = re.compile(rb'\s*\{\s*(?:"version"\s*:\s*\[[\d\s,]*\]\s*,\s*)?"learner"\s*:')
_UBJ = re.compile(rb"\{(?:L\0{7}|l\0{3}|I\0|[iU])(?:\x07learner|\x07version)")
# A header of 136 bytes, after "binf" from 1.0 on; then the names of the objective and of the booster, with lengths.
_BINARY = re.compile(
    rb"(?:binf)?.{136}[\x01-\x40]\0{7}[a-z]+(?::[a-z_\d]+)?(?:\x06\0{7}gbtree|\x08\0{7}gblinear|\x04\0{7}dart)",
    re.DOTALL,
)
_JSON_VERSION = re.compile(rb'"version"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]')

Version = tuple[int, ...]
HEAD = 4096


def kind_of(head: bytes) -> Kind | None:
    """What the first bytes of a file say that it is; ``None`` if it is no model of XGBoost."""
    patterns: dict[Kind, re.Pattern[bytes]] = {"json": _JSON, "ubj": _UBJ, "binary": _BINARY}
    for kind, pattern in patterns.items():
        if pattern.match(head):
            return kind
    return None


def json_version(content: bytes) -> Version | None:
    """The version of XGBoost that wrote a JSON model: its last key, or its first; ``None`` if it does not say."""
    for part in (content[-HEAD:], content[:HEAD]):
        if found := _JSON_VERSION.search(part):
            return tuple(map(int, found.groups()))
    return None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model says of itself.

    ``coded`` names the categorical features of which the model does not hold the categories. ``classes`` is below 2 for
    anything but a classifier of many classes. ``best_rounds`` is the number of rounds that early stopping found best, 0
    if it was not used. ``wrapper`` holds what a scikit-learn wrapper wrote beside the model, empty for a plain booster.
    """

    features: tuple[Feature, ...]
    coded: tuple[str, ...]
    objective: str
    booster: str
    classes: int
    best_rounds: int
    wrapper: Mapping[str, Any]


def facts(document: Mapping[str, Any]) -> Facts:
    """Read a whole model, as :func:`stfs.platforms.ubjson.loads` gives it, and look whether its trees are trees.

    Raises :class:`ValueError` (or ``KeyError``, ``TypeError``) if they are not: XGBoost follows their indices unseen.
    """
    learner = document["learner"]
    booster = learner["gradient_booster"]
    attributes = learner.get("attributes", {})
    parameters = learner["learner_model_param"]
    count = int(parameters["num_feature"])
    model = booster.get("gbtree", booster).get("model", {})
    for index, tree in enumerate(model.get("trees", ())):
        _check_tree(tree, index, count)
    types = list(learner.get("feature_types") or ()) or [""] * count
    encodings = model.get("cats", {}).get("enc") or [{}] * count
    names = [str(name) for name in learner.get("feature_names") or ()] or [
        f"f{i}" if len(encoding.get("values", ())) else "" for i, encoding in enumerate(encodings)
    ]
    features = tuple(Feature(name, _categories(enc)) for name, enc in zip(names, encodings, strict=True))
    return Facts(
        features=features,
        coded=tuple(f.name for f, kind in zip(features, types, strict=True) if kind == "c" and f.categories is None),
        objective=str(learner["objective"]["name"]),
        booster=str(booster["name"]),
        classes=int(parameters["num_class"]),
        best_rounds=int(attributes.get("best_iteration", -1)) + 1,
        wrapper=json.loads(attributes.get("scikit_learn", "{}")),
    )


def _categories(encoding: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Texts are one run of bytes cut at ``offsets``; numbers come with the type of their Arrow array."""
    values = encoding.get("values", ())
    if "offsets" in encoding:
        if not len(encoding["offsets"]):
            return None
        text = np.asarray(values).astype(np.uint8).tobytes()
        return tuple(text[start:end].decode() for start, end in pairwise(map(int, encoding["offsets"])))
    return tuple(str(value) for value in np.asarray(values).tolist()) if len(values) else None


def _check_tree(tree: Mapping[str, Any], index: int, features: int) -> None:
    """Every node but the root is the child of exactly one other, and splits on a feature that there is."""
    left, right, parents = (
        np.asarray(tree[k]).astype(np.int64) for k in ("left_children", "right_children", "parents")
    )
    nodes = len(left)
    if not nodes == len(right) == len(parents) == len(tree["split_indices"]) == len(tree["split_conditions"]):
        raise ValueError(f"tree {index} has arrays of unequal lengths")
    inner = np.flatnonzero(left != -1)
    for children in (left[inner], right[inner]):
        if len(inner) and not (children.min() > 0 and children.max() < nodes and (parents[children] == inner).all()):
            raise ValueError(f"tree {index} is broken: a node's child is not its own")
    split = np.asarray(tree["split_indices"]).astype(np.int64)[inner]
    if len(inner) and not (split.min() >= 0 and split.max() < features):
        raise ValueError(f"tree {index} splits on a feature that the model does not have")
