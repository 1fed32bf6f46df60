"""Programs of ``torch.export``. Owns reading their signature, and keeping to the sizes that they were exported for.

Inputs are named as the arguments of ``forward`` are; what is nested in one joins its names with ``_``, as torch has it.
Outputs are a dict's keys, else ``output_0``, ``output_1``, ...; a signature file may name them otherwise.
A size that varies is a symbol; torch says what values it may have, and sizes with the same symbol are equal.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stfs.errors import InvalidRequest, LoadFailed, ModelFailed
from stfs.platforms.base import DEFAULT_SIGNATURE, LoadOptions, Servable, one_line
from stfs.platforms.row_range import RowRange, run_in_range
from stfs.platforms.sidecar import find_sidecar
from stfs.platforms.size_limits import Limits, OpenSize, check_sizes
from stfs.platforms.torch_archive import read_jsons
from stfs.platforms.torch_device import Device, Graphs, captured
from stfs.platforms.torch_tensors import (
    flatten,
    kept_memory,
    said_outputs,
    served_dtype,
    to_outputs,
)
from stfs.signature import Array, Shape, Signature, Tensors, TensorSpec, can_batch

NO_LIMIT = 1 << 62
"""Sizes from here on are torch's ways to say infinity."""


class ExportedServable(Servable):
    """An exported program as a module. It holds the GIL, so it is at its best in a process of its own."""

    platform = "pytorch"

    def __init__(self, torch: Any, file: Path, device: str, options: LoadOptions) -> None:
        """Load ``file``. Raises :class:`LoadFailed`."""
        self._torch = torch
        self._device = Device(torch, device)
        self._device.limit(options.memory_limit_bytes)
        self.on_gpu = self._device.is_gpu
        self._graphs: Graphs | None = None
        program = _program(torch, file, device)
        self._in_spec = program.call_spec.in_spec
        self._leaves, inputs = _inputs(torch, program, file)
        values = [node.meta.get("val") for node in _last(program.graph).args[0]]
        own = _outputs(torch, program, values, file)
        self._open, self._limits = _sizes(program, inputs)
        sidecar = find_sidecar(file, options)
        outputs = own
        if sidecar is not None:
            if {spec.name for spec in sidecar.inputs} != {spec.name for spec in inputs}:
                told = ", ".join(spec.name for spec in inputs)
                raise LoadFailed(f"{sidecar.path}: its inputs are not those of {file.name}, which takes {told}")
            outputs = said_outputs(str(sidecar.path), sidecar.outputs, own)
        rows = self._rows_symbol(inputs, values[-len(own) :], outputs)
        self._range = RowRange()
        if rows is not None and (limits := self._limits.get(rows)) is not None:
            self._range = RowRange(limits.least, limits.most)
        self._rows = rows
        self._names = [spec.name for spec in outputs]
        self.signatures = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, inputs, outputs, rows is not None)}
        self._module = program.module()
        self._kept = kept_memory(iter((*program.parameters(), *program.buffers(), *_constants(torch, program))))
        dtypes = {name: value for name, value in self._leaves if name is not None}
        signature = self.signatures[DEFAULT_SIGNATURE]
        self._graphs = captured(torch, self._device, signature, dtypes, options, self._forward)
        self.runtime = f"torch {torch.__version__}, torch.export, {device}"

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`. Raises :class:`InvalidInput` for sizes that the program was not exported for."""
        check_sizes(inputs, self._open, {k: v for k, v in self._limits.items() if k != self._rows})
        if self._rows is None:
            return self._run(dict(inputs))
        signature = self.signatures[signature_name]
        return run_in_range(self._run, dict(inputs), signature.rows(inputs), self._range)

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._module = self._graphs = None

    def _forward(self, tensors: dict[str, Any]) -> Any:
        leaves = [value if name is None else tensors[name] for name, value in self._leaves]
        args, kwargs = self._torch.utils._pytree.tree_unflatten(leaves, self._in_spec)
        return self._module(*args, **kwargs)

    def _run(self, inputs: Tensors) -> Tensors:
        torch, device = self._torch, self._device
        try:
            if self._graphs is not None and self._graphs.has(inputs):
                returned = self._graphs.run(inputs)
            else:
                with device.running(), torch.inference_mode():
                    put = {n: device.put(inputs[n], dtype) for n, dtype in self._leaves if n is not None}
                    returned = device.fetch(self._forward(put))
        except AssertionError as error:  # the program's own guards on its inputs
            raise InvalidRequest(one_line(error)) from error
        except Exception as error:  # torch's errors share no base but Exception
            blames_input = isinstance(error, IndexError)
            raise (InvalidRequest if blames_input else ModelFailed)(one_line(error)) from error
        return to_outputs(torch, returned, self._names, self._kept)

    def _rows_symbol(
        self, inputs: tuple[TensorSpec, ...], values: Sequence[Any], outputs: tuple[TensorSpec, ...]
    ) -> str | None:
        """The symbol that is dimension 0 of every input and output, so that rows can be stacked; ``None`` if none."""
        firsts = {size.input_name: size for size in self._open if size.axis == 0}
        symbols = {size.symbol for size in firsts.values() if (size.factor, size.offset) == (1, 0)}
        symbols |= {str(value.shape[0]) if getattr(value, "shape", ()) else "" for value in values}
        if not can_batch(inputs, outputs) or len(firsts) != len(inputs) or len(symbols) != 1:
            return None
        return symbols.pop()


def _program(torch: Any, file: Path, device: str) -> Any:
    with _torch_says() as said:
        try:
            program = torch.export.load(str(file))
            if device != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
        except Exception as error:
            by = "".join(
                f" what torch {content['torch_version']} wrote"
                for content in read_jsons(file, "models/model.json")
                if isinstance(content, dict) and "torch_version" in content
            )
            reason = said[-1] if said else one_line(error)
            raise LoadFailed(f"{file}: torch {torch.__version__} does not load{by or ' it'}: {reason}") from error
    return program


@contextmanager
def _torch_says() -> Iterator[list[str]]:
    """What torch.export would log: the reason why a file does not load is told there and not in what is raised."""
    said: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        said.append(one_line(error or record.getMessage()))
        return False

    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.export.pt2_archive._package")]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        for logger in loggers:
            logger.removeFilter(keep)


def _inputs(torch: Any, program: Any, file: Path) -> tuple[list[tuple[str | None, Any]], tuple[TensorSpec, ...]]:
    """The leaves of the call, and the inputs: for each leaf an input's name and torch dtype, or a constant."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    leaves: list[tuple[str | None, Any]] = []
    specs = []
    for name in program.graph_signature.user_inputs:
        value = values.get(name) if isinstance(name, str) else None
        if not isinstance(name, str):
            leaves.append((None, name))  # what the program was exported with, and always gets
        elif isinstance(value, torch.Tensor):
            leaves.append((name, value.dtype))
            specs.append(TensorSpec(name, served_dtype(value.dtype, f'{file}: input "{name}"'), _shape(value)))
        else:
            raise LoadFailed(f'{file}: input "{name}" is not a tensor, and only tensors can be sent: export it as one')
    if not specs:
        raise LoadFailed(f"{file}: the program takes no tensors")
    return leaves, tuple(specs)


def _outputs(torch: Any, program: Any, values: list[Any], file: Path) -> tuple[TensorSpec, ...]:
    own = values[len(values) - len(program.graph_signature.user_outputs) :]
    names = [name for name, _ in flatten(torch.utils._pytree.tree_unflatten(own, program.call_spec.out_spec))]
    for name, value in zip(names, own, strict=True):
        if not isinstance(value, torch.Tensor):
            raise LoadFailed(f'{file}: output "{name}" is not a tensor, and only tensors can be served')
    return tuple(
        TensorSpec(name, served_dtype(value.dtype, f'{file}: output "{name}"'), _shape(value))
        for name, value in zip(names, own, strict=True)
    )


def _shape(value: Any) -> Shape:
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _sizes(program: Any, inputs: tuple[TensorSpec, ...]) -> tuple[list[OpenSize], dict[str, Limits]]:
    """Every open size of the inputs that is linear in one symbol; others are the program's own guards to check."""
    names = {spec.name for spec in inputs}
    sizes = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            for axis, size in enumerate(node.meta["val"].shape):
                if not isinstance(size, int) and (linear := _linear(size.node.expr)) is not None:
                    sizes.append(OpenSize(node.name, axis, *linear))
    limits = {}
    for symbol, span in program.range_constraints.items():
        least, most = _bound(span.lower, 0), _bound(span.upper, NO_LIMIT)
        limits[str(symbol)] = Limits(max(0, least), None if most >= NO_LIMIT else most)
    return sizes, limits


def _linear(expression: Any) -> tuple[str, int, int] | None:
    """``2*s + 1`` as ``("s", 2, 1)``; ``None`` for what is not of that form."""
    symbols = sorted(expression.free_symbols, key=str)
    if len(symbols) != 1:
        return None
    symbol = symbols[0]
    offset = expression.subs(symbol, 0)
    factor = expression.subs(symbol, 1) - offset
    if not (factor.is_Integer and offset.is_Integer and int(factor) > 0 and expression == factor * symbol + offset):
        return None
    return str(symbol), int(factor), int(offset)


def _bound(value: Any, otherwise: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, AttributeError):  # sympy's infinities, and torch's
        return otherwise


def _constants(torch: Any, program: Any) -> list[Any]:
    return [value for value in program.constants.values() if isinstance(value, torch.Tensor)]


def _last(graph: Any) -> Any:
    return next(node for node in reversed(list(graph.nodes)) if node.op == "output")
