"""What a signature file beside an ONNX model says: names for its inputs and outputs.

The model's own file tells dtypes and shapes, so the signature file cannot change those; where it contradicts them, it
was written for another model, and serving would mislead. Knows no session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stfs.errors import LoadFailed
from stfs.platforms.sidecar import Sidecar
from stfs.signature import Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class Names:
    """What inputs and outputs are called here, by what the graph calls them; those left out keep their names."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)

    def rename(self, signature: Signature) -> Signature:
        """The graph's signature under these names."""
        return replace(
            signature,
            inputs=tuple(replace(s, name=self.inputs.get(s.name, s.name)) for s in signature.inputs),
            outputs=tuple(replace(s, name=self.outputs.get(s.name, s.name)) for s in signature.outputs),
        )


def names_from(sidecar: Sidecar | None, graph: Signature) -> Names:
    """The names that the signature file gives to what the graph has.

    A side of the file that uses the graph's own names changes nothing, in whatever order it lists them, and need not
    list all. Otherwise it must list as many tensors as the graph has, and names them in the graph's order.
    Raises :class:`LoadFailed` for a count, a name or a shape that does not fit the graph.
    """
    if sidecar is None:
        return Names()
    return Names(
        _side(sidecar, "inputs", sidecar.inputs, graph.inputs),
        _side(sidecar, "outputs", sidecar.outputs, graph.outputs),
    )


def _side(sidecar: Sidecar, side: str, said: Sequence[TensorSpec], own: Sequence[TensorSpec]) -> Mapping[str, str]:
    by_name = {spec.name: spec for spec in own}
    strange = [spec.name for spec in said if spec.name not in by_name]
    told = ", ".join(f'"{name}"' for name in by_name)
    if not strange:
        for spec in said:
            _fits(sidecar, side, spec, by_name[spec.name])
        return {}
    if len(said) != len(own) or len(strange) < len(said):
        raise LoadFailed(
            f"{sidecar.path}: {side}: the model has no {', '.join(strange)}; it has {told}: use those names, "
            f"or give each of its {len(own)} a new one, in this order"
        )
    for new, old in zip(said, own, strict=True):
        _fits(sidecar, side, new, old)
    return {old.name: new.name for new, old in zip(said, own, strict=True)}


def _fits(sidecar: Sidecar, side: str, said: TensorSpec, own: TensorSpec) -> None:
    """Dimension 0 is left out: a signature file often gives the batch that it was tried with."""
    if said.shape is None or own.shape is None:
        return
    pairs = zip(said.shape[1:], own.shape[1:], strict=False)
    if len(said.shape) != len(own.shape) or any(a != b for a, b in pairs if a is not None and b is not None):
        raise LoadFailed(
            f'{sidecar.path}: {side}: "{said.name}" has shape {said.describe_shape()} there, '
            f"but the model's own file says {own.describe_shape()}"
        )
