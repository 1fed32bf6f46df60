"""What a platform is, and what adapters share. Knows no batcher, no lifecycle, no web.

A platform is one file beside this one, about a page long, and one line in ``pyproject.toml`` under the entry-point
group ``stfs.platforms``. Its framework is imported inside :meth:`Platform.load`, never at the top of the file.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from stfs.errors import LoadFailed
from stfs.signature import Array, Signature, Tensors

DEFAULT_SIGNATURE = "serving_default"

Isolation = Literal["thread", "process"]
"""Where a model's runs happen: on a thread of the server, or in a worker process of its own."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a user may say about loading a model. An adapter ignores what has no meaning for it.

    ``threads`` is the number of threads one run may use; 0 lets the framework choose.
    ``device`` is ``auto``, ``cpu`` or ``cuda``, the latter perhaps with a GPU's number (``cuda:1``), where the platform
    says that it ``places_on_gpus``. ``signature_file`` tells of inputs and outputs where the model's files
    do not, and the user keeps it elsewhere than beside them. ``jvm_heap_bytes`` bounds the heap of the process that
    hosts Java models. ``saved_model_tags`` say which graph of a SavedModel to load; empty: the one that serves.
    ``memory_limit_bytes`` bounds the memory of the GPU that the model runs on, or of the worker process that it runs
    in; 0: none. ``cuda_graphs`` asks for a CUDA graph for each of ``batch_sizes``, to which batches are padded.
    ``told_signature`` has the form of a signature file, and ``file`` for where it was read: it is for models that tell
    nothing and have no such file; empty: none.
    """

    model_name: str = "default"
    threads: int = 0
    device: str = "auto"
    custom_op_paths: tuple[Path, ...] = ()
    session_config: Mapping[str, Any] = field(default_factory=dict)
    signature_file: Path | None = None
    trusted_types: tuple[str, ...] = ()
    jvm_heap_bytes: int = 512 << 20
    saved_model_tags: tuple[str, ...] = ()
    memory_limit_bytes: int = 0
    cuda_graphs: bool = False
    batch_sizes: tuple[int, ...] = ()
    told_signature: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The worker process that hosts a model, at one moment.

    ``pid`` is ``None`` between the end of one process and the start of the next. ``state`` is the model's in it:
    ``starting``, ``up``, ``restarting``, ``failed`` or ``closed``. ``restarts`` counts those of the process, whichever
    of its models was the cause. ``error`` is what went wrong last, one line. ``resident_bytes`` is the memory of the
    process in RAM, ``None`` where that is not known. Of a model of several processes ``instances`` tells one by one.
    """

    pid: int | None
    state: str
    restarts: int
    error: str
    resident_bytes: int | None
    instances: tuple[WorkerStatus, ...] = ()


class Servable(abc.ABC):
    """A loaded model. Made by :meth:`Platform.load` on a worker thread; closed once, after the last run has returned.

    ``runtime`` tells people what runs it: ``onnxruntime 1.31.1, CPUExecutionProvider``.
    """

    platform: str
    runtime: str
    signatures: Mapping[str, Signature]
    on_gpu: bool = False
    """Whether its memory is that of a GPU."""
    concurrent: bool = False
    """Whether runs that are called side by side do go side by side. Where they merely may be called so, and wait for
    each other or for the GIL, several instances are several loads."""
    ends_runs: bool = False
    """Whether :meth:`run_within` ends a run that takes too long, so that nothing of it is left."""

    @property
    def members(self) -> Sequence[Servable]:
        """Its instances, one for each batch that may run at once; those that share a loaded model are one object."""
        return (self,)

    @property
    def default_signature(self) -> str:
        """``serving_default`` if there is one, else ``predict``, else the first by name."""
        for name in (DEFAULT_SIGNATURE, "predict"):
            if name in self.signatures:
                return name
        return min(self.signatures)

    @property
    def worker_status(self) -> WorkerStatus | None:
        """The worker process that it runs in, now; ``None`` if it runs in this one. Any thread."""
        return None

    @abc.abstractmethod
    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """One call of the model; blocking, on any thread, several at once allowed.

        ``inputs`` are bound to the signature (its order, dtypes and shapes). Returns every output of the signature,
        strings as object arrays of ``bytes``. The arrays returned are the caller's: no later run writes into them, and
        they share no memory with ``inputs``. They may be read-only, where the framework hands out its own constants.

        Raises :class:`stfs.errors.InvalidRequest` if the framework blames the input, and
        :class:`stfs.errors.ModelFailed` (or anything else, which counts as the same) if the model itself failed.
        """

    def run_within(self, limit_s: float, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """:meth:`run`; after ``limit_s`` seconds (0: never) the run is ended and :class:`stfs.errors.RunTimedOut`
        raised, where the model is in a process of its own (``ends_runs``). Elsewhere nothing can end it.
        """
        return self.run(signature_name, inputs)

    def is_up(self) -> bool:
        """Whether a run could begin now. Quick, any thread."""
        return True

    def close(self) -> None:  # noqa: B027 - most servables own nothing that the collector does not free
        """Free what garbage collection would not."""


class Platform(abc.ABC):
    """A kind of model: how to recognise its files and how to load them. Stateless."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str]
    """The pip extra that installs the framework: ``pip install "stfs[<extra>]"``."""
    isolation: ClassVar[Isolation] = "thread"
    """``process`` for a framework that may abort the process, holds the GIL while it runs, or owns a JVM."""
    worker_group: ClassVar[str] = ""
    """Models of the platforms of one group share one worker process (there can be only one JVM); empty: one each."""
    places_on_gpus: ClassVar[bool] = False
    """Whether models take ``cuda:1`` for a device, so that those of one process may be on several GPUs."""

    @abc.abstractmethod
    def detect(self, path: Path) -> bool:
        """Whether the file or folder at ``path`` looks like a model of this platform.

        By names and first bytes only: cheap, imports no framework, never raises for an unreadable path.
        """

    def isolation_for(self, path: Path) -> Isolation:
        """Where the model at ``path`` runs if the user does not say: ``isolation``, unless its kind of file differs.

        Under the rules of :meth:`detect`: cheap, imports no framework, never raises for an unreadable path.
        """
        return self.isolation

    @abc.abstractmethod
    def load(self, path: Path, options: LoadOptions) -> Servable:
        """Load the model at ``path``; blocking.

        Raises :class:`stfs.errors.PlatformMissing` if the framework is not installed and
        :class:`stfs.errors.LoadFailed`, naming the path and the reason in one line, if the model does not load.
        """


def model_files(
    path: Path, suffixes: Sequence[str], names: Sequence[str] = (), accept: Callable[[Path], bool] = lambda file: True
) -> list[Path]:
    """The files at ``path`` that end in one of ``suffixes``: ``path`` itself, or those directly in the folder.

    A file called ``model.*``, or by one of ``names``, is the answer alone; of several such, the one whose suffix stands
    first in ``suffixes``. Hidden files do not count, nor do those that ``accept`` refuses: it looks into files whose
    endings several platforms share. An unreadable path gives an empty list.
    """

    def rank(file: Path) -> int:
        return next((i for i, suffix in enumerate(suffixes) if file.name.endswith(suffix)), len(suffixes))

    def known(file: Path) -> bool:
        return file.name in names or rank(file) < len(suffixes)

    try:
        if path.is_file():
            return [path] if known(path) and accept(path) else []
        found = sorted(file for file in path.iterdir() if not file.name.startswith(".") and known(file))
        found = [file for file in found if file.is_file() and accept(file)]
    except OSError:
        return []
    preferred = [file for file in found if file.name in names or file.stem == "model"]
    return [min(preferred, key=rank)] if preferred else found


def model_file(path: Path, suffixes: Sequence[str], names: Sequence[str] = ()) -> Path:
    """The one file of :func:`model_files`; raises :class:`LoadFailed` if there is none, or naming them if several."""
    found = model_files(path, suffixes, names)
    if not found:
        raise LoadFailed(f"{path}: no file that ends in {', '.join(suffixes)}")
    if len(found) > 1:
        told = " and ".join(file.name for file in found)
        raise LoadFailed(f"{path}: which is the model, {told}? Name one of them model{suffixes[0]}, or keep one only")
    return found[0]


def one_line(error: BaseException | str, limit: int = 400) -> str:
    """The first line of an error that says something, cut at ``limit`` characters; the type's name if none does."""
    for line in str(error).splitlines():
        if text := line.strip():
            return text if len(text) <= limit else text[: limit - 3] + "..."
    return "" if isinstance(error, str) else type(error).__name__


def as_bytes(values: Array) -> Array:
    """An array of ``str``, ``bytes`` or anything that prints, as an object array of ``bytes`` in UTF-8, same shape."""
    flat = [v if isinstance(v, bytes) else str(v).encode() for v in values.ravel().tolist()]
    return object_array(flat, values.shape)


def object_array(flat: Sequence[Any], shape: tuple[int, ...]) -> Array:
    """Python objects in C order as an object array; unlike ``numpy.array`` it never looks inside them."""
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


def owned(output: Array, inputs: Iterable[Array]) -> Array:
    """``output``, copied if it lies in the memory of an input, as identity outputs do in some frameworks."""
    return output.copy() if any(np.may_share_memory(output, array) for array in inputs) else output


def gpu_of(device: str) -> int | None:
    """The GPU's number in ``cuda:1``; ``None`` where a device has none."""
    _, colon, number = device.partition(":")
    return int(number) if colon else None


CORES_LEFT = "STFS_CORES_LEFT"
"""The environment variable by which a server tells itself, and the worker processes that it starts, how many cores are
others' to use: those of its front processes, say."""


def usable_cores() -> int:
    """Cores that runs of models may use: all of :func:`all_cores` but those that are left to others; one at least."""
    try:
        left = int(os.environ.get(CORES_LEFT, "0"))
    except ValueError:
        left = 0
    return max(1, all_cores() - left)


def all_cores() -> int:
    """Cores that this process may run on: its affinity mask, within the container's quota (cgroup v2) if it has one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or the quota reads "max"
        return cores
