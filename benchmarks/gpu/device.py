"""Which frameworks can run on a GPU here, and what was looked for."""

from __future__ import annotations

from pathlib import Path

from stfs.platforms.memory_limit import GPU_FILES


def looked_for() -> tuple[list[str], list[str]]:
    """The frameworks that find a GPU, and for each thing that was looked at what was found."""
    files = [file for file in GPU_FILES if Path(file).exists()]
    found = [f"{' and '.join(files)} there" if files else f"none of {', '.join(GPU_FILES)}"]
    frameworks = []
    for name, look in (("onnx", _onnxruntime), ("torch", _torch)):
        there, told = look()
        found.append(told)
        if there and files:
            frameworks.append(name)
    return frameworks, found


def _onnxruntime() -> tuple[bool, str]:
    try:
        import onnxruntime
    except ImportError:
        return False, "onnxruntime is not installed"
    listed = onnxruntime.get_available_providers()
    return "CUDAExecutionProvider" in listed, f"onnxruntime {onnxruntime.__version__} has {', '.join(listed)}"


def _torch() -> tuple[bool, str]:
    try:
        import torch
    except ImportError:
        return False, "torch is not installed"
    if not torch.cuda.is_available():
        return False, f"torch {torch.__version__} finds no CUDA device"
    return True, f"torch {torch.__version__} finds {torch.cuda.get_device_name(0)}"
