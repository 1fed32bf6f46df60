"""TorchScript files. Owns matching a signature to the arguments of ``forward``, and calling it; it releases the GIL.

TorchScript's schema has names but no dtypes and shapes, so these come from a signature file, or from one inside the
model's file: ``torch.jit.save(model, "model.pt", _extra_files={"signature.json": json.dumps(...)})``; or else from
Triton's ``config.pbtxt``. Its names for arguments by their place (``INPUT__0``) are understood wherever they stand.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import InvalidRequest, LoadFailed, ModelFailed, RequestError
from stfs.platforms.base import DEFAULT_SIGNATURE, LoadOptions, Servable, one_line
from stfs.platforms.probe import seen_outputs, sized
from stfs.platforms.sidecar import Sidecar, example_sidecar, find_sidecar, parse_sidecar
from stfs.platforms.torch_archive import read_texts
from stfs.platforms.torch_device import Device, Graphs, captured
from stfs.platforms.torch_tensors import as_arrays, kept_memory, said_outputs, to_outputs
from stfs.signature import Array, Signature, Tensors, TensorSpec, can_batch

INSIDE = "extra/signature.json"
TENSORS = ("Tensor", "Optional[Tensor]")
DICT = "Dict[str, Tensor]"
PLACE = re.compile(r"__(\d+)$")
"""How Triton calls the argument of that place: ``INPUT__0``."""
_FLOAT32 = np.dtype("float32")


class TorchScriptServable(Servable):
    """A scripted or traced module in evaluation mode; its ``run`` may be called on many threads at once."""

    platform = "pytorch"
    concurrent = True
    # PyTorch's page on CPU threading: inference threads call one script module's forward side by side.

    def __init__(self, torch: Any, file: Path, device: str, options: LoadOptions) -> None:
        """Load ``file``. Raises :class:`LoadFailed`."""
        self._torch = torch
        self._device = Device(torch, device)
        self._device.limit(options.memory_limit_bytes)
        self.on_gpu = self._device.is_gpu
        self._graphs: Graphs | None = None
        self._module = _module(torch, file, device)
        self._kept = kept_memory(iter((*self._module.parameters(), *self._module.buffers())))
        arguments = {a.name: str(a.type) for a in self._module.forward.schema.arguments[1:]}
        needed = {a.name for a in self._module.forward.schema.arguments[1:] if not a.has_default_value()}
        sidecar = _said(file, options)
        if sidecar is None:
            raise LoadFailed(_what_is_missing(file, arguments, needed))
        self._arguments, self._one_dict = _matched(file, sidecar, arguments, needed)
        inputs = sidecar.inputs
        try:
            seen = seen_outputs(
                lambda tensors: as_arrays(torch, self._call(tensors)), sized(inputs, 1), sized(inputs, 2)
            )
        except RequestError as error:
            if not sidecar.outputs:
                raise LoadFailed(
                    f'{file}: a first run on zeros failed, so say "outputs" in {sidecar.path}: {error}'
                ) from error
            outputs = sidecar.outputs
        else:
            outputs = said_outputs(str(file), sidecar.outputs, seen)
        self._names = [spec.name for spec in outputs]
        signature = Signature(DEFAULT_SIGNATURE, inputs, outputs, sidecar.batchable and can_batch(inputs, outputs))
        self.signatures = {DEFAULT_SIGNATURE: signature}
        self._graphs = captured(torch, self._device, signature, {}, options, self._forward)
        if self._graphs is not None:
            self.concurrent = False
        self.runtime = f"torch {torch.__version__}, TorchScript, {device}"

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`."""
        return to_outputs(self._torch, self._call(inputs), self._names, self._kept)

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._module = self._graphs = None

    def _forward(self, tensors: dict[str, Any]) -> Any:
        arguments = {self._arguments[name]: tensor for name, tensor in tensors.items()}
        return self._module(arguments) if self._one_dict else self._module(**arguments)

    def _call(self, inputs: Mapping[str, Array]) -> Any:
        device = self._device
        try:
            if self._graphs is not None and self._graphs.has(inputs):
                return self._graphs.run(inputs)
            with device.running(), self._torch.inference_mode():
                return device.fetch(self._forward({name: device.put(array, None) for name, array in inputs.items()}))
        except Exception as error:  # torch's errors share no base but Exception
            text = _told(error)
            # The only thing that torch blames on values; sizes that do not fit may as well be the model's fault.
            raise (InvalidRequest if "index out of range" in text else ModelFailed)(text) from error


def _module(torch: Any, file: Path, device: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather have torch.export; these files exist
            module = torch.jit.load(str(file), map_location=device)
    except Exception as error:
        raise LoadFailed(f"{file}: torch {torch.__version__} does not load it: {_told(error)}") from error
    if not hasattr(module, "forward"):
        raise LoadFailed(f"{file}: the module has no forward method")
    return module.eval()


def _said(file: Path, options: LoadOptions) -> Sidecar | None:
    if options.signature_file is None:
        for text in read_texts(file, INSIDE).values():
            try:
                return parse_sidecar(json.loads(text), file)
            except ValueError as error:
                raise LoadFailed(f"{file}: signature.json inside is not JSON: {error}") from error
    found = find_sidecar(file, options)
    if found is None and (told := options.told_signature):
        return parse_sidecar(told, Path(told["file"]))
    return found


def _what_is_missing(file: Path, arguments: Mapping[str, str], needed: set[str]) -> str:
    names = [name for name, kind in arguments.items() if name in needed and kind in TENSORS]
    example = example_sidecar([TensorSpec(name, _FLOAT32, (None, 4)) for name in names], ())
    return (
        f"{file}: TorchScript does not tell dtypes and shapes: write them to {file.stem}-signature.json beside it, "
        f"such as {example}"
    )


def _matched(file: Path, said: Sidecar, arguments: Mapping[str, str], needed: set[str]) -> tuple[dict[str, str], bool]:
    """The argument for each input, and whether forward takes all of them as one dict."""
    inputs = [spec.name for spec in said.inputs]
    tensors = [name for name, kind in arguments.items() if kind in TENSORS]
    if list(arguments.values())[:1] == [DICT] and needed <= {next(iter(arguments))}:
        return {name: name for name in inputs}, True
    if len(inputs) == 1 and len(tensors) == 1 and needed <= set(tensors):
        return {inputs[0]: tensors[0]}, False
    places = [int(found[1]) for name in inputs if (found := PLACE.search(name)) and name not in tensors]
    given = tensors[: len(inputs)]
    if inputs and len(given) == len(inputs) and sorted(places) == list(range(len(given))) and needed <= set(given):
        return {name: tensors[place] for name, place in zip(inputs, places, strict=True)}, False
    told = ", ".join(f'"{name}" ({kind})' for name, kind in arguments.items()) or "nothing"
    if unknown := [name for name in inputs if name not in tensors]:
        raise LoadFailed(f'{said.path}: names an input "{unknown[0]}", but forward of {file.name} takes {told}')
    if missing := [name for name in arguments if name in needed and name not in inputs]:
        if arguments[missing[0]] not in TENSORS:
            raise LoadFailed(f"{file}: forward takes {told}, and only tensors can be sent: give the others a default")
        raise LoadFailed(f'{said.path}: leaves out input "{missing[0]}" of {file.name}, whose forward takes {told}')
    return {name: name for name in inputs}, False


def _told(error: Exception) -> str:
    """The last line of a traceback through TorchScript, or the one of several that says something."""
    text = str(error)
    if "TorchScript" in text:
        text = [line for line in text.splitlines() if line.strip()][-1].removeprefix("RuntimeError: ")
    return one_line(re.sub(r"^\[enforce fail at [^\]]*\] \. ", "", text.strip()))
