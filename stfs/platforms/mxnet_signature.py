"""What an MXNet model takes and gives: from its signature file, its graph, and binding it to some sizes.

Must not live here: loading, running requests.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stfs.errors import LoadFailed
from stfs.platforms.base import DEFAULT_SIGNATURE
from stfs.platforms.mxnet_capi import MxnetError, NdArray, Symbol
from stfs.platforms.mxnet_files import ModelFiles
from stfs.platforms.mxnet_graph import Graph
from stfs.platforms.mxnet_params import DTYPES
from stfs.platforms.mxnet_runner import Runner
from stfs.platforms.onnx_rows import rows_agree
from stfs.platforms.sidecar import Sidecar, example_sidecar
from stfs.signature import Array, Shape, Signature, Tensors, TensorSpec

WEIGHTS = ("weight", "bias", "gamma", "beta", "mean", "var", "parameters")
"""What the names of arguments end in that training fills."""
ROWS = 3
GUESSES = (8, 32, 64, 224)
"""Lengths to try for dimensions other than the first that may vary."""

logger = logging.getLogger(__name__)


def by_symbol_name(symbol: Symbol, loaded: Mapping[str, Array], files: ModelFiles) -> dict[str, Array]:
    """The parameters that ``symbol`` has, by its own names. Raises :class:`LoadFailed` if they are another model's."""
    if loaded and not any(name.startswith(("arg:", "aux:")) for name in loaded):
        raise LoadFailed(
            f"{files.params}: holds parameters for Python code only, as save_parameters writes them: "
            "write the model with net.export(prefix) and serve that"
        )
    named = {kind + name for kind, names in (("arg:", symbol.arguments), ("aux:", symbol.states)) for name in names}
    if loaded and not named & loaded.keys():
        theirs = ", ".join(sorted(name.partition(":")[2] for name in loaded)[:3])
        raise LoadFailed(f"{files.params}: is not of {files.symbol.name}, which has no {theirs}")
    missing = [name for name in symbol.states if f"aux:{name}" not in loaded]
    missing += [name for name in symbol.arguments if f"arg:{name}" not in loaded and name.endswith(WEIGHTS)]
    if missing:
        raise LoadFailed(f"{files.params}: has no {', '.join(missing[:3])}, which {files.symbol.name} needs")
    return {name.partition(":")[2]: array for name, array in loaded.items() if name in named}


def find_inputs(
    symbol: Symbol, parameters: Mapping[str, Array], files: ModelFiles, graph: Graph, sidecar: Sidecar | None
) -> tuple[TensorSpec, ...]:
    """The inputs as the signature file lists them, or as the graph tells; what losses call a label is none.

    Raises :class:`LoadFailed`, with a signature file filled in as far as it goes, where they cannot be known.
    """
    free = [name for name in symbol.arguments if name not in parameters]
    wanted = [name for name in free if not name.endswith("label")]
    if sidecar:
        _check(sidecar, free, wanted)
        return sidecar.inputs
    weights = {name: array.shape for name, array in parameters.items()}
    shapes = {name: graph.input_shape(name, weights) for name in wanted}
    if not wanted or None in shapes.values():
        known = [
            TensorSpec(name, DTYPES[0], shape or _made_up(graph.channels(name, weights)))
            for name, shape in shapes.items()
        ]
        example = example_sidecar(known, [TensorSpec(symbol.outputs[0], DTYPES[0], (None, 2))])
        raise LoadFailed(
            f"{files.symbol}: does not tell the shape of {', '.join(wanted) or 'any input'}; "
            f"write it into {files.prefix}-signature.json beside it, in this form: {example}"
        )
    # Fully connected layers take numbers of the dtype of their weights only.
    floats = {array.dtype for array in parameters.values() if array.dtype.kind == "f"}
    dtype = floats.pop() if len(floats) == 1 else DTYPES[0]
    return tuple(TensorSpec(name, dtype, shape) for name, shape in shapes.items())


def settle(
    inputs: Sequence[TensorSpec], symbol: Symbol, runner: Runner, files: ModelFiles, sidecar: Sidecar | None
) -> tuple[Signature, list[int]]:
    """The signature, and the places of its outputs among the symbol's.

    Blocking: binds the graph for some sizes. It is batchable if rows run together are seen to give the answers of rows
    run alone; a symbol does not say, and the first dimension in a signature file is often that of an example.
    Raises :class:`MxnetError` if the graph takes no such inputs, and :class:`LoadFailed` for a wrong signature file.
    """
    names, places = _outputs(symbol, sidecar)
    guess, rows = _first_sizes(inputs, runner)
    alone = runner.output_kinds(_sizes(inputs, rows, guess))
    wider = _kinds(inputs, runner, rows, 2 * guess) if guess else []
    together = _kinds(inputs, runner, ROWS, guess) if rows is not None else []
    outputs = _specs(names, places, [alone, *together, *wider])
    if together and all(spec.varies_in_rows for spec in outputs):
        shapes = _sizes(inputs, rows, guess)
        one = tuple(replace(spec, shape=shape) for spec, shape in zip(inputs, shapes, strict=True))

        def run(tensors: Mapping[str, Array]) -> Tensors:
            found = runner.run(tensors)
            return {name: found[i] for name, i in zip(names, places, strict=True)}

        if rows_agree(Signature("", one, outputs, batchable=False), run, run):
            opened = tuple(replace(spec, shape=(None, *(spec.shape or ())[1:])) for spec in inputs)
            return Signature(DEFAULT_SIGNATURE, opened, outputs, batchable=True), places
    logger.warning("%s: its requests run one by one, for its rows are not seen to be independent", files.symbol)
    if not any((spec.shape or (None,))[0] is None for spec in inputs):
        fixed = [*_kinds(inputs, runner, None, guess), *_kinds(inputs, runner, None, 2 * guess)]
        outputs = _specs(names, places, fixed or [alone])
    return Signature(DEFAULT_SIGNATURE, tuple(inputs), outputs, batchable=False), places


def _check(sidecar: Sidecar, free: Sequence[str], wanted: Sequence[str]) -> None:
    for spec in sidecar.inputs:
        if spec.name not in free:
            raise LoadFailed(f'{sidecar.path}: the model has no input "{spec.name}"; it takes {", ".join(wanted)}')
        if spec.dtype not in DTYPES:
            raise LoadFailed(f'{sidecar.path}: "{spec.name}": MXNet has no tensors of {spec.dtype_name}')
        if not spec.shape:
            raise LoadFailed(f'{sidecar.path}: "{spec.name}": "shape" is missing: null, the rows, and the other sizes')
    missing = [name for name in wanted if name not in {spec.name for spec in sidecar.inputs}]
    if missing:
        raise LoadFailed(
            f"{sidecar.path}: does not list {', '.join(missing)}, which the parameters do not hold: "
            "an input to be listed, or the parameters are not of this symbol"
        )


def _outputs(symbol: Symbol, sidecar: Sidecar | None) -> tuple[list[str], list[int]]:
    """Names and places. A signature file names outputs as the symbol does, with or without ``_output``, or in order."""
    own = list(symbol.outputs)
    if sidecar is None or not sidecar.outputs:
        return own, list(range(len(own)))
    said = [spec.name for spec in sidecar.outputs]
    short = [name.removesuffix("_output") for name in own]
    found = [own.index(name) if name in own else short.index(name) if name in short else -1 for name in said]
    if -1 not in found:
        return said, found
    if len(said) == len(own):
        return said, list(range(len(own)))
    raise LoadFailed(f"{sidecar.path}: lists the outputs {', '.join(said)}; the model gives {', '.join(own)}")


def _first_sizes(inputs: Sequence[TensorSpec], runner: Runner) -> tuple[int, int | None]:
    """A length for dimensions that may vary, 0 if there are none, and rows, of which the graph takes inputs.

    Rows of ``None`` are those of the inputs' own shapes. The first ones, if the graph takes none.
    """
    varies = any(None in (spec.shape or ())[1:] for spec in inputs)
    guesses = GUESSES if varies else (0,)
    for guess in guesses:
        for rows in (1, None):
            if _kinds(inputs, runner, rows, guess):
                return guess, rows
    return guesses[0], 1


def _specs(names: Sequence[str], places: Sequence[int], seen: Sequence[list[NdArray]]) -> tuple[TensorSpec, ...]:
    """The outputs, with the dimensions that the bindings ``seen`` have in common."""
    return tuple(
        TensorSpec(name, seen[0][i].dtype, _agreed([each[i].shape for each in seen]))
        for name, i in zip(names, places, strict=True)
    )


def _kinds(inputs: Sequence[TensorSpec], runner: Runner, rows: int | None, guess: int) -> list[list[NdArray]]:
    try:
        return [runner.output_kinds(_sizes(inputs, rows, guess))]
    except MxnetError as error:
        logger.debug("%s rows, %s: %s", rows, guess, error)
        return []


def _sizes(inputs: Sequence[TensorSpec], rows: int | None, guess: int) -> list[tuple[int, ...]]:
    shapes = [spec.shape or () for spec in inputs]
    return [(rows or shape[0] or 1, *(dim or guess for dim in shape[1:])) for shape in shapes]


def _agreed(shapes: Sequence[tuple[int, ...]]) -> Shape | None:
    """What the shapes have in common, ``None`` where they differ; ``None`` if even their ranks do."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    return tuple(dims[0] if len(set(dims)) == 1 else None for dims in zip(*shapes, strict=True))


def _made_up(channels: int | None) -> Shape:
    """An example for a shape that is not known: an image's where the input is one."""
    return (None, 4) if channels is None else (None, channels, 224, 224)
