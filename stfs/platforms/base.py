"""What a platform is, and what adapters share. Knows no batcher, no lifecycle, no web.

A platform is one file beside this one, about a page long, and one line in ``pyproject.toml`` under the entry-point
group ``stfs.platforms``. Its framework is imported inside :meth:`Platform.load`, never at the top of the file.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from stfs.signature import Array, Signature, Tensors

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a user may say about loading a model. An adapter ignores what has no meaning for it.

    ``threads`` is the number of threads one run may use; 0 lets the framework choose.
    ``device`` is ``auto``, ``cpu`` or ``cuda``.
    """

    model_name: str = "default"
    threads: int = 0
    device: str = "auto"
    custom_op_paths: tuple[Path, ...] = ()
    session_config: Mapping[str, Any] = field(default_factory=dict)


class Servable(abc.ABC):
    """A loaded model. Made by :meth:`Platform.load` on a worker thread; closed once, after the last run has returned.

    ``runtime`` tells people what runs it: ``onnxruntime 1.31.1, CPUExecutionProvider``.
    """

    platform: ClassVar[str]
    runtime: str
    signatures: Mapping[str, Signature]

    @property
    def default_signature(self) -> str:
        """``serving_default`` if there is one, else ``predict``, else the first by name."""
        for name in (DEFAULT_SIGNATURE, "predict"):
            if name in self.signatures:
                return name
        return min(self.signatures)

    @abc.abstractmethod
    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """One call of the model; blocking, on any thread, several at once allowed.

        ``inputs`` are bound to the signature (its order, dtypes and shapes). Returns every output of the signature,
        strings as object arrays of ``bytes``. The arrays returned are the caller's: no later run writes into them.

        Raises :class:`stfs.errors.InvalidRequest` if the framework blames the input, and
        :class:`stfs.errors.ModelFailed` (or anything else, which counts as the same) if the model itself failed.
        """

    def close(self) -> None:  # noqa: B027 - most servables own nothing that the collector does not free
        """Free what garbage collection would not."""


class Platform(abc.ABC):
    """A kind of model: how to recognise its files and how to load them. Stateless."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str]
    """The pip extra that installs the framework: ``pip install "stfs[<extra>]"``."""

    @abc.abstractmethod
    def detect(self, path: Path) -> bool:
        """Whether the file or folder at ``path`` looks like a model of this platform.

        By names and first bytes only: cheap, imports no framework, never raises for an unreadable path.
        """

    @abc.abstractmethod
    def load(self, path: Path, options: LoadOptions) -> Servable:
        """Load the model at ``path``; blocking.

        Raises :class:`stfs.errors.PlatformMissing` if the framework is not installed and
        :class:`stfs.errors.LoadFailed`, naming the path and the reason in one line, if the model does not load.
        """
