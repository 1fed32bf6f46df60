"""Between numpy's arrays and torch's tensors, and how a process runs torch. Must not live here: kinds of models.

Tensors of bfloat16, which numpy has not, are served as float32: casting that way is exact, and what a client sends is
rounded to the nearest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stfs.errors import LoadFailed, ModelFailed
from stfs.platforms.base import LoadOptions, gpu_of, usable_cores
from stfs.signature import Array, Tensors, TensorSpec

DTYPES: Mapping[str, np.dtype[Any]] = {
    **{f"torch.{name}": np.dtype(name) for name in ("float16", "float32", "float64", "bool")},
    **{f"torch.{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "torch.bfloat16": np.dtype("float32"),
}
MOST_DEFAULT_THREADS = 8

logger = logging.getLogger(__name__)


def settle(torch: Any, options: LoadOptions) -> str:
    """Set the threads that torch has for the whole process, and choose the device: ``cpu``, ``cuda`` or ``cuda:1``.

    Raises :class:`LoadFailed` for ``cuda`` where there is none.
    """
    there_is_cuda = torch.cuda.is_available()
    if options.device.startswith("cuda") and not there_is_cuda:
        raise LoadFailed(
            f"device {options.device} was asked for, but torch {torch.__version__} finds none: install a torch that is "
            "made for CUDA, check that the driver works, or say device cpu"
        )
    number = gpu_of(options.device)
    if number is not None and number >= torch.cuda.device_count():
        raise LoadFailed(f"there is no GPU {number}: torch {torch.__version__} sees {torch.cuda.device_count()}")
    _threads.settle(torch, options.threads)
    if options.device == "cpu" or not there_is_cuda:
        return "cpu"
    return "cuda" if number is None else f"cuda:{number}"


class _Threads:
    """Torch's intra-op threads: one number for all models of the process, so that one who says it wins."""

    def __init__(self) -> None:
        self._said = 0
        self._settled = False

    def settle(self, torch: Any, said: int) -> None:
        """Set what was ``said``, or the default if nobody said anything yet."""
        if said and self._said not in (0, said):
            logger.warning(
                "threads of torch are the process's: %d from now on for every model, not %d", said, self._said
            )
        if said or not self._settled:
            torch.set_num_threads(said or default_threads(usable_cores()))
        self._said = said or self._said
        self._settled = True


_threads = _Threads()


def default_threads(cores: int) -> int:
    """Threads of one run where nobody said: a core is left to the server, for torch's threads wait by spinning."""
    return max(1, min(cores - 1, MOST_DEFAULT_THREADS))


def served_dtype(torch_dtype: Any, what: str) -> np.dtype[Any]:
    """The numpy dtype of a torch dtype. Raises :class:`LoadFailed`, beginning with ``what``, if there is none."""
    dtype = DTYPES.get(str(torch_dtype))
    if dtype is None:
        raise LoadFailed(f"{what} is of dtype {torch_dtype}, which cannot be served")
    return dtype


def to_tensor(torch: Any, array: Array, dtype: Any, device: str) -> Any:
    """A tensor in memory of its own: models write into their inputs, and hand them back as outputs.

    ``dtype`` is torch's, ``None`` for the array's own.
    """
    tensor = torch.from_numpy(array.copy())
    return tensor if dtype is None and device == "cpu" else tensor.to(device=device, dtype=dtype)


def to_array(torch: Any, value: Any, name: str, kept: frozenset[int]) -> Array:
    """A tensor or a number as an array, C-contiguous, on the CPU.

    ``kept`` holds the addresses of memory that the model keeps: what lies in one is copied.
    Raises :class:`ModelFailed` for anything else.
    """
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    if not isinstance(value, torch.Tensor):
        raise ModelFailed(f'output "{name}" is of type {type(value).__name__}, not a tensor')
    if str(value.dtype) not in DTYPES or value.layout is not torch.strided:
        raise ModelFailed(f'output "{name}" is a {value.layout} tensor of {value.dtype}, which cannot be served')
    if value.dtype is torch.bfloat16:
        value = value.float()
    array = np.asarray(value.numpy(force=True), order="C")
    return array.copy() if kept and value.untyped_storage().data_ptr() in kept else array


def kept_memory(tensors: Iterator[Any]) -> frozenset[int]:
    """The addresses of the memory that parameters and buffers lie in."""
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors of what a model returned, by name: a dict's keys, else ``output_0``, ``output_1``, ...

    What is nested joins its names with ``_``: ``output_1_0``, ``boxes_0``.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f"{name}_{key}" if name else str(key))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from flatten(dict(zip(value._fields, value, strict=True)), name)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from flatten(item, f"{name}_{i}" if name else f"output_{i}")
    else:
        yield name or "output_0", value


def to_outputs(torch: Any, returned: Any, names: Sequence[str], kept: frozenset[int]) -> Tensors:
    """What a model returned as arrays by ``names``: by the model's own names if it has all these, else in order.

    Raises :class:`ModelFailed` if there are not as many.
    """
    flat = dict(flatten(returned))
    if all(name in flat for name in names):
        return {name: to_array(torch, flat[name], name, kept) for name in names}
    if len(flat) != len(names):
        raise ModelFailed(f"the model returned {', '.join(flat) or 'nothing'} where {', '.join(names)} was expected")
    return {name: to_array(torch, value, name, kept) for name, value in zip(names, flat.values(), strict=True)}


def as_arrays(torch: Any, returned: Any) -> Tensors:
    """What a model returned, by its own names, for looking at once: whatever it keeps may be shared."""
    return {name: to_array(torch, value, name, frozenset()) for name, value in flatten(returned)}


def said_outputs(file: str, said: Sequence[TensorSpec], seen: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The outputs as a signature file names and shapes them, with the dtypes that were seen.

    Raises :class:`LoadFailed`, beginning with ``file``, if the two cannot both be so.
    """
    if not said:
        return tuple(seen)
    by_name = {spec.name: spec for spec in seen}
    if all(spec.name in by_name for spec in said):
        pairs = [(spec, by_name[spec.name]) for spec in said]
    elif len(said) == len(seen):
        pairs = list(zip(said, seen, strict=True))
    else:
        have = ", ".join(by_name)
        raise LoadFailed(f"{file}: the signature names {len(said)} outputs, the model returned {len(seen)}: {have}")
    return tuple(_agreed(file, spec, found) for spec, found in pairs)


def _agreed(file: str, said: TensorSpec, seen: TensorSpec) -> TensorSpec:
    if said.shape is None or seen.shape is None:
        shape = seen.shape if said.shape is None else said.shape
    elif len(said.shape) != len(seen.shape) or any(
        want is not None and have is not None and want != have
        for want, have in zip(said.shape, seen.shape, strict=True)
    ):
        raise LoadFailed(
            f'{file}: the signature says that output "{said.name}" is {said.describe_shape()}, '
            f"the model returned {seen.describe_shape()}"
        )
    else:
        shape = said.shape
    return TensorSpec(said.name, seen.dtype, shape, said.doc)
