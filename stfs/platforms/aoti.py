"""AOTInductor packages: machine code for given dtypes and sizes. Owns reading what these are, and keeping to them.

The code trusts its inputs: of another width they give garbage. It comes with checks that an environment variable
switches on, which is done here; and with their source, from which dtypes, sizes and limits are read, so that a wrong
input is refused in clear words. The package has no names: inputs are ``input_0``, ``input_1``, ... or the keyword
arguments, outputs as in :mod:`stfs.platforms.torch_export`; a signature file renames them, or the package's own
metadata ``{"stfs.signature": "..."}``, compiled in by ``inductor_configs={"aot_inductor.metadata": ...}``.
"""

from __future__ import annotations

import json
import os
import platform
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed, ModelFailed, RequestError
from stfs.platforms.aoti_source import Compiled, check_libraries, compiled_inputs
from stfs.platforms.base import DEFAULT_SIGNATURE, LoadOptions, Servable, gpu_of, one_line
from stfs.platforms.probe import PROBE_ROWS, seen_outputs
from stfs.platforms.row_range import RowRange, run_in_range
from stfs.platforms.sidecar import Sidecar, example_sidecar, find_sidecar, parse_sidecar
from stfs.platforms.size_limits import Limits, OpenSize, check_sizes
from stfs.platforms.torch_archive import listing, read_jsons
from stfs.platforms.torch_device import Device, Graphs, captured
from stfs.platforms.torch_tensors import DTYPES, as_arrays, flatten, said_outputs, to_outputs
from stfs.signature import Array, Signature, Tensors, TensorSpec, can_batch

METADATA_KEY = "stfs.signature"
MODEL = re.compile(r"data/aotinductor/([^/]+)/[^/]+\.so$")
CPU_FLAGS = {"AVX2": "avx2", "AVX512": "avx512f", "AVX512_VNNI": "avx512_vnni", "AMX_TILE": "amx_tile"}
"""What Linux calls the instruction sets that the compiler used, as far as they are known here."""


class AotiServable(Servable):
    """Compiled code. It holds the GIL, and a wrong package can end the process: it is at its best in one of its own."""

    platform = "pytorch"

    def __init__(self, torch: Any, file: Path, device: str, options: LoadOptions) -> None:
        """Load ``file``. Raises :class:`LoadFailed`."""
        self._torch = torch
        name = _model_name(file)
        metadata = _metadata(file, name)
        made_for = _device(file, metadata, device, options)
        self._device = Device(torch, made_for)
        self._device.limit(options.memory_limit_bytes)
        self.on_gpu = self._device.is_gpu
        self._graphs: Graphs | None = None
        check_libraries(file, name)
        self._loader = _loader(torch, file, name)
        tree = torch.utils._pytree
        in_spec, self._out_spec = (tree.treespec_loads(text) for text in self._loader.get_call_spec())
        own_names = _leaf_names(*tree.tree_unflatten(range(in_spec.num_leaves), in_spec))
        compiled = compiled_inputs(file, name)
        said = _said(file, metadata, options)
        inputs = _inputs(file, own_names, compiled, said)
        self._dtypes = {spec.name: getattr(torch, one.dtype) for spec, one in zip(inputs, compiled, strict=False)}
        self._open, self._limits, rows = _sizes(inputs, compiled)
        batches = bool(inputs) and all(spec.varies_in_rows for spec in inputs) and rows is not None
        outside = () if rows is None else (rows,)
        self._other_limits = {symbol: limits for symbol, limits in self._limits.items() if symbol not in outside}
        limits = self._limits.get(rows or "", Limits(0, None))
        self._range = RowRange(limits.least, limits.most)
        outputs = self._outputs(file, inputs, said)
        self._names = [spec.name for spec in outputs]
        self._batches = batches and can_batch(inputs, outputs)
        self.signatures = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, inputs, outputs, self._batches)}
        signature = self.signatures[DEFAULT_SIGNATURE]
        self._graphs = captured(torch, self._device, signature, self._dtypes, options, self._forward)
        self.runtime = f"torch {torch.__version__}, AOTInductor, {made_for}"

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`. Raises :class:`InvalidInput` for sizes that the code was not compiled for."""
        if not self._batches:
            check_sizes(inputs, self._open, self._limits)
            return self._run(dict(inputs))
        check_sizes(inputs, self._open, self._other_limits)
        return run_in_range(self._run, dict(inputs), self.signatures[signature_name].rows(inputs), self._range)

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._loader = self._graphs = None

    def _run(self, inputs: Tensors) -> Tensors:
        return to_outputs(self._torch, self._call(inputs), self._names, frozenset())

    def _forward(self, tensors: dict[str, Any]) -> Any:
        returned = self._loader.run(list(tensors.values()))
        return self._torch.utils._pytree.tree_unflatten(returned, self._out_spec)

    def _call(self, inputs: Tensors) -> Any:
        device = self._device
        try:
            if self._graphs is not None and self._graphs.has(inputs):
                return self._graphs.run(inputs)
            with device.running(), self._torch.inference_mode():
                put = {name: device.put(array, self._dtypes.get(name)) for name, array in inputs.items()}
                return device.fetch(self._forward(put))
        except Exception as error:  # torch's errors share no base but Exception
            raise ModelFailed(one_line(error)) from error

    def _outputs(self, file: Path, inputs: tuple[TensorSpec, ...], said: Sidecar | None) -> tuple[TensorSpec, ...]:
        """From a first run on zeros, of sizes that the code takes."""
        rows = max(PROBE_ROWS, self._range.fewest_rows)
        rows = rows if self._range.most_rows is None else min(rows, self._range.most_rows)
        try:
            seen = seen_outputs(
                lambda tensors: as_arrays(self._torch, self._call(tensors)),
                self._filled(inputs, 0),
                self._filled(inputs, 1),
                rows,
            )
        except RequestError as error:
            raise LoadFailed(f"{file}: a first run on zeros failed: {error}") from error
        return said_outputs(str(said.path if said else file), said.outputs if said else (), seen)

    def _filled(self, inputs: Sequence[TensorSpec], more: int) -> list[TensorSpec]:
        """``inputs`` with the least size, and ``more``, for each dimension but 0 that varies."""
        symbols = {(size.input_name, size.axis): size.symbol for size in self._open}

        def size(spec: TensorSpec, axis: int, have: int | None) -> int | None:
            if axis == 0 or have is not None:
                return have
            limits = self._limits.get(symbols.get((spec.name, axis), ""), Limits(1, None))
            wanted = max(1, limits.least) + more
            return wanted if limits.most is None else min(wanted, limits.most)

        return [
            spec
            if spec.shape is None
            else replace(spec, shape=tuple(size(spec, axis, have) for axis, have in enumerate(spec.shape)))
            for spec in inputs
        ]


def _model_name(file: Path) -> str:
    """The model in the package: the only one, or the one called ``model``."""
    names = sorted({found.group(1) for name in listing(file) if (found := MODEL.search(name))})
    if len(names) == 1:
        return names[0]
    if "model" in names:
        return "model"
    raise LoadFailed(f"{file}: which is the model, {' or '.join(names)}? Package one, or call it model")


def _metadata(file: Path, model: str) -> dict[str, str]:
    merged: dict[str, str] = {}
    for content in read_jsons(file, "wrapper_metadata.json", f"aotinductor/{model}/"):
        if isinstance(content, dict):
            merged |= {str(key): str(value) for key, value in content.items()}
    return merged


def _device(file: Path, metadata: Mapping[str, str], device: str, options: LoadOptions) -> str:
    """What the package was compiled for. Raises :class:`LoadFailed` if that is not this machine."""
    made_for = metadata.get("AOTI_DEVICE_KEY", "cpu")
    if gpu_of(options.device):
        raise LoadFailed(f"{file}: a package runs on the first GPU that its process sees: leave out isolation thread")
    if made_for != "cpu" and made_for != device.partition(":")[0]:
        raise LoadFailed(f"{file}: was compiled for {made_for}, and there is none here, or device cpu was asked for")
    if made_for == "cpu" and options.device.startswith("cuda"):
        raise LoadFailed(f"{file}: was compiled for cpu, and device cuda was asked for: compile it again for cuda")
    machine = metadata.get("AOTI_MACHINE", "")
    if machine and machine != platform.machine():
        raise LoadFailed(f"{file}: was compiled for {machine}, and this machine is {platform.machine()}")
    if lacking := cpu_lacks(metadata.get("AOTI_CPU_ISA", ""), _cpu_flags()):
        raise LoadFailed(f"{file}: was compiled for a processor with {lacking}, which this one lacks: compile it here")
    return made_for


def cpu_lacks(wanted: str, flags: set[str]) -> str:
    """The first instruction set of ``wanted``, as torch names them, that is not in ``flags``; empty if all are.

    What is not known here counts as there, and so does everything where there are no ``flags`` to read.
    """
    return next((isa for isa in wanted.split() if flags and CPU_FLAGS.get(isa, "") not in {"", *flags}), "")


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _loader(torch: Any, file: Path, model: str) -> Any:
    # Read once by the code of each package, when it first runs.
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch._inductor.package import load_package

            return load_package(str(file), model).loader
    except Exception as error:
        raise LoadFailed(f"{file}: torch {torch.__version__} does not load it: {one_line(error)}") from error


def _leaf_names(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """A name for each leaf of the call, in order."""
    named = [pair for i, arg in enumerate(args) for pair in flatten(arg, f"input_{i}")]
    named += [pair for key, value in kwargs.items() for pair in flatten(value, key)]
    return [name for name, _ in sorted(named, key=lambda pair: pair[1])]


def _said(file: Path, metadata: Mapping[str, str], options: LoadOptions) -> Sidecar | None:
    inside = metadata.get(METADATA_KEY)
    if inside is None or options.signature_file is not None:
        return find_sidecar(file, options)
    try:
        return parse_sidecar(json.loads(inside), file)
    except ValueError as error:
        raise LoadFailed(f"{file}: {METADATA_KEY} in its metadata is not JSON: {error}") from error


def _inputs(
    file: Path, names: Sequence[str], compiled: Sequence[Compiled], said: Sidecar | None
) -> tuple[TensorSpec, ...]:
    """The inputs in the order of the code: names as said, else the package's own; the rest as compiled, or as said."""
    count = len(compiled) or len(names)
    if said is not None and len(said.inputs) != count:
        raise LoadFailed(f"{said.path}: names {len(said.inputs)} inputs, but {file.name} takes {count}")
    if said is None and not compiled:
        raise LoadFailed(
            f"{file}: the package does not tell dtypes and shapes: write them to {file.stem}-signature.json beside it, "
            f"such as {example_sidecar((), ())}"
        )
    ordered: list[TensorSpec | None] = [None] * count if said is None else list(said.inputs)
    if said is not None and {spec.name for spec in said.inputs} == set(names):
        by_name = {spec.name: spec for spec in said.inputs}
        ordered = [by_name[name] for name in names]
    own = list(names) if len(names) == count else [f"input_{i}" for i in range(count)]
    if not compiled:
        return tuple(spec for spec in ordered if spec is not None)
    return tuple(_input(own[i], one, ordered[i], said) for i, one in enumerate(compiled))


def _input(name: str, compiled: Compiled, said: TensorSpec | None, sidecar: Sidecar | None) -> TensorSpec:
    dtype = DTYPES[f"torch.{compiled.dtype}"]
    spec = TensorSpec(name, dtype, compiled.shape)
    if said is None or sidecar is None:
        return spec
    shape = said.shape if said.shape is not None else compiled.shape
    clash = len(shape) != len(compiled.shape) or any(
        want is not None and have is not None and want != have for want, have in zip(shape, compiled.shape, strict=True)
    )
    if clash or said.dtype != dtype:
        raise LoadFailed(
            f'{sidecar.path}: says that input "{said.name}" is {said.dtype_name} {said.describe_shape()}, '
            f"but it was compiled for {spec.dtype_name} {spec.describe_shape()}"
        )
    return replace(said, shape=tuple(a if b is None else b for a, b in zip(shape, compiled.shape, strict=True)))


def _sizes(
    inputs: Sequence[TensorSpec], compiled: Sequence[Compiled]
) -> tuple[list[OpenSize], dict[str, Limits], str | None]:
    """The open sizes, the limits of each symbol, and the symbol of the rows if all inputs have the same."""
    sizes = []
    limits: dict[str, Limits] = {}
    for spec, one in zip(inputs, compiled, strict=False):
        for axis, own in one.limits.items():
            symbol = one.symbols.get(axis, "rows" if axis == 0 else f"{spec.name}[{axis}]")
            sizes.append(OpenSize(spec.name, axis, symbol, 1, 0))
            other = limits.get(symbol, Limits(0, None))
            most = [bound for bound in (own.most, other.most) if bound is not None]
            limits[symbol] = Limits(max(own.least, other.least), min(most, default=None))
    firsts = {size.symbol for size in sizes if size.axis == 0}
    rows = firsts.pop() if len(firsts) == 1 else None
    return sizes, limits, rows if compiled else "rows"
