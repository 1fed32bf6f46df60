"""PyTorch models: TorchScript, ``torch.export`` programs and AOTInductor packages. Owns telling them apart.

Each has its own file: :mod:`~stfs.platforms.torchscript`, :mod:`~stfs.platforms.torch_export`,
:mod:`~stfs.platforms.aoti`. What ``torch.save`` wrote is refused: pickles run code as they load, and weights are no
model.
"""

from __future__ import annotations

import logging
from pathlib import Path

from stfs.errors import LoadFailed, PlatformMissing
from stfs.platforms.base import Isolation, LoadOptions, Platform, Servable, model_file, model_files, one_line
from stfs.platforms.torch_archive import Kind, kind_of, refusal
from stfs.platforms.torch_tensors import settle

# Where a folder holds several, the exported program is taken before what may be the checkpoint that it was made of.
SUFFIXES = (".pt2", ".ts", ".pt", ".pth")

logger = logging.getLogger(__name__)


class PyTorchPlatform(Platform):
    """``model.pt2``, ``model.ts``, ``model.pt`` or ``model.pth``, or a single file that ends so."""

    name = "pytorch"
    aliases = ("torch", "torchscript")
    extra = "pytorch"
    places_on_gpus = True

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`."""
        return bool(model_files(path, SUFFIXES))

    def isolation_for(self, path: Path) -> Isolation:
        """A thread for TorchScript, which lets go of the GIL; a worker process for the others, which do not."""
        files = model_files(path, SUFFIXES)
        return "thread" if len(files) != 1 or kind_of(files[0]) not in (Kind.EXPORT, Kind.AOTI) else "process"

    def load(self, path: Path, options: LoadOptions) -> Servable:
        """See :meth:`Platform.load`.

        ``options.threads`` is torch's intra-op threads, which all models in the process share: the last that says a
        number sets it for all. 0 means one less than there are usable cores, from 1 to 8.
        ``options.device`` ``auto`` means CUDA where there is a device.
        """
        file = model_file(path, SUFFIXES)
        kind = kind_of(file)
        if kind in (Kind.PICKLED, Kind.UNKNOWN):
            raise LoadFailed(refusal(file, kind))
        try:
            import torch
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        try:
            device = settle(torch, options)
        except LoadFailed as error:
            raise LoadFailed(f"{file}: {error}") from error
        servable: Servable
        if kind is Kind.TORCHSCRIPT:
            from stfs.platforms.torchscript import TorchScriptServable

            servable = TorchScriptServable(torch, file, device, options)
        elif kind is Kind.EXPORT:
            from stfs.platforms.torch_export import ExportedServable

            servable = ExportedServable(torch, file, device, options)
        else:
            from stfs.platforms.aoti import AotiServable

            servable = AotiServable(torch, file, device, options)
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable
