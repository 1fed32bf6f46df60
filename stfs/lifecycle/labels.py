"""Which labels of versions may be assigned. A pure function of values; what labels stand for is the registry's."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from stfs.errors import LabelRefused

Labels = Mapping[str, Mapping[str, int]]
"""The labels of each model by its name."""


def check_all_labels(
    wanted: Labels, current: Labels, serving: Mapping[str, Collection[int]], *, allow_unavailable: bool
) -> None:
    """:func:`check_labels` of every model; ``serving`` holds the versions that are available, by model."""
    for model, labels in wanted.items():
        check_labels(model, labels, current.get(model, {}), serving.get(model, ()), allow_unavailable=allow_unavailable)


def check_labels(
    model: str,
    wanted: Mapping[str, int],
    current: Mapping[str, int],
    available: Collection[int],
    *,
    allow_unavailable: bool,
) -> None:
    """Raise :class:`LabelRefused` if a label of ``wanted`` stands for a version that is not among ``available``.

    As ``ServerCore::UpdateModelVersionLabelMap`` has it: ``allow_unavailable`` lets labels that are new stand for any
    version, but never moves one from a version that may serve to one that does not. A label that stays where it is
    passes: its version may come back.
    """
    for label, version in wanted.items():
        if version in available or current.get(label) == version:
            continue
        if allow_unavailable and label not in current:
            continue
        raise LabelRefused(
            f"Request to assign label to version {version} of model {model}, which is not currently available for "
            f'inference: label "{label}" can be given once the version is AVAILABLE'
        )
