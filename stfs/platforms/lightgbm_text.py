"""LightGBM's text files: whether one is whole, and what it says of its features. Imports no framework.

LightGBM reads trees on several threads without a net: a file cut short or damaged can end the process. So everything
that it would follow blindly is looked at here first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stfs.platforms.boosted import Feature
from stfs.signature import Array

MARK = b"tree"
NEWEST = 4
"""The newest version of the format (``version=v4``) that is known to be read rightly."""

_NUMERIC = b"0123456789+-.einfa "
_PER_NODE = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_PER_NODE_OPTIONAL = ("split_gain", "internal_value", "internal_weight", "internal_count")
_PER_LEAF_OPTIONAL = ("leaf_weight", "leaf_count", "leaf_const", "num_features")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model says of itself; ``coded`` names the categorical features whose categories it does not hold."""

    features: tuple[Feature, ...]
    coded: tuple[str, ...]
    objective: str


def is_lightgbm(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a LightGBM model in text."""
    return head.startswith((MARK + b"\n", MARK + b"\r\n"))


def check(content: bytes) -> None:
    """Raises :class:`ValueError` with what is wrong, if LightGBM had better not read this."""
    if not is_lightgbm(content):
        raise ValueError('its first line is not "tree"')
    start = content.find(b"Tree=0")
    end = content.find(b"end of trees")
    if end < 0 or start < 0:
        raise ValueError('it is cut short: there is no line "end of trees"')
    header = _fields(content[:start])
    version = header.get("version", b"v2")
    if not version[1:].isdigit() or int(version[1:]) > NEWEST:
        raise ValueError(f"its format is {version.decode('ascii', 'replace')}, and the newest known is v{NEWEST}")
    features = int(_value(header, "max_feature_idx")) + 1
    names = _value(header, "feature_names").split(b" ")
    if features < 1 or len(names) != features or len(_value(header, "feature_infos").split(b" ")) != features:
        raise ValueError("its header is damaged: it does not have as many names as features")
    sizes = [int(size) for size in _value(header, "tree_sizes").split()]
    if min(sizes, default=0) <= 0 or start + sum(sizes) != end:
        raise ValueError("it is cut short or damaged: its trees are not as long as its header says")
    for index, size in enumerate(sizes):
        try:
            _check_tree(_fields(content[start : start + size]), features)
        except (ValueError, KeyError, OverflowError) as error:
            raise ValueError(f"tree {index} is damaged: {error}") from error
        start += size
    tail = content[end:]
    if b"\nparameters:" in tail and b"\nend of parameters" not in tail:
        raise ValueError('it is cut short: there is no line "end of parameters"')
    facts(content.decode("utf-8", "replace"))


def facts(text: str) -> Facts:
    """What a whole model tells of its features. Raises :class:`ValueError` if its last line is damaged."""
    header = {key: value.decode() for key, value in _fields(text[: text.find("Tree=0")].encode()).items()}
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    tail = text[text.rfind("end of trees") :]
    told = _between(tail, "\npandas_categorical:", "\n")
    categories = (json.loads(told) if told else None) or []
    columns = [int(i) for i in _between(tail, "\n[categorical_feature: ", "]").split(",") if i.strip().isdigit()]
    # Listed by number or counted in the header: by value ("0:1:2") where numbers have a range ("[0:2]").
    coded = set(columns) | {i for i, info in enumerate(infos) if info != "none" and not info.startswith("[")}
    known: dict[int, tuple[str, ...]] = {}
    if len(columns) == len(categories):
        known = {i: tuple(map(_text, values)) for i, values in zip(sorted(columns), categories, strict=True)}
    return Facts(
        features=tuple(Feature(name, known.get(i)) for i, name in enumerate(names)),
        coded=tuple(names[i] for i in sorted(coded - set(known)) if i < len(names)),
        objective=header.get("objective", "custom").split(" ")[0],
    )


def _text(category: Any) -> str:
    return category if isinstance(category, str) else json.dumps(category)


def _between(text: str, before: str, after: str) -> str:
    _, found, rest = text.partition(before)
    return rest.partition(after)[0].strip() if found else ""


def _fields(block: bytes) -> dict[str, bytes]:
    pairs = (line.rstrip(b"\r").partition(b"=") for line in block.split(b"\n"))
    return {key.decode("ascii", "replace"): value for key, found, value in pairs if found}


def _value(fields: Mapping[str, bytes], key: str) -> bytes:
    if key not in fields:
        raise ValueError(f"its header is damaged: there is no {key}")
    return fields[key]


def _check_tree(tree: Mapping[str, bytes], features: int) -> None:
    """Every node and leaf but the root is the child of exactly one node, and every list has its length."""
    leaves = int(tree["num_leaves"])
    nodes = leaves - 1
    if leaves < 1:
        raise ValueError(f"it has {leaves} leaves")
    split, threshold, kinds, left, right = (_numbers(tree, key, nodes) for key in _PER_NODE)
    _numbers(tree, "leaf_value", leaves)
    for keys, count in ((_PER_NODE_OPTIONAL, nodes), (_PER_LEAF_OPTIONAL, leaves)):
        for key in keys:
            _count(tree.get(key, b""), count, key)
    children = np.sort(np.concatenate([left, right]))
    if nodes and not np.array_equal(children, np.concatenate([np.arange(-leaves, 0), np.arange(1, nodes)])):
        raise ValueError("its nodes make no tree")
    if nodes and not (split.min() >= 0 and split.max() < features):
        raise ValueError("it splits on a feature that the model does not have")
    categories = int(tree["num_cat"])
    bounds = _numbers(tree, "cat_boundaries", categories + 1) if categories else np.zeros(1)
    _numbers(tree, "cat_threshold", int(bounds[-1]))
    chosen = threshold[kinds.astype(np.int64) & 1 == 1]
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < categories and (np.diff(bounds) > 0).all()):
        raise ValueError("it splits on categories that it does not have")


def _numbers(tree: Mapping[str, bytes], key: str, count: int) -> Array:
    parts = tree.get(key, b"").split()
    if len(parts) != count:
        raise ValueError(f"{key} has {len(parts)} numbers, not {count}")
    return np.array(parts, dtype="S32").astype(np.float64) if parts else np.empty(0)


def _count(value: bytes, count: int, key: str) -> None:
    if value and (value.translate(None, _NUMERIC) or len(value.split()) != count):
        raise ValueError(f"{key} has not {count} numbers")
