"""Whether there is a GPU for the tests that need one, by framework; marks that skip with a reason."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")


@cache
def onnxruntime_lacks() -> str:
    """Why onnxruntime cannot run on a GPU here; empty if it can."""
    if not any(Path(file).exists() for file in DEVICE_FILES):
        return f"no NVIDIA GPU: none of {', '.join(DEVICE_FILES)}"
    import onnxruntime

    listed = onnxruntime.get_available_providers()
    return "" if "CUDAExecutionProvider" in listed else f"onnxruntime has only {', '.join(listed)}"


@cache
def torch_lacks() -> str:
    """Why torch cannot run on a GPU here; empty if it can."""
    if not any(Path(file).exists() for file in DEVICE_FILES):
        return f"no NVIDIA GPU: none of {', '.join(DEVICE_FILES)}"
    import torch

    return "" if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


needs_onnxruntime_cuda = pytest.mark.skipif(bool(onnxruntime_lacks()), reason=onnxruntime_lacks())
needs_torch_cuda = pytest.mark.skipif(bool(torch_lacks()), reason=torch_lacks())
