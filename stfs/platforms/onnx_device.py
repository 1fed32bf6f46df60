"""What onnxruntime is told about a GPU, and which of its ways to run a model there is taken.

Must not live here: how these ways work (:mod:`stfs.platforms.onnx_binding`), loading.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stfs.platforms.base import LoadOptions, one_line
from stfs.platforms.onnx_binding import BoundRuns, CapturedRuns, can_bind, can_capture
from stfs.platforms.pinned import host_memory
from stfs.signature import Signature

CUDA = "CUDAExecutionProvider"

logger = logging.getLogger(__name__)


def tuned(wanted: Sequence[Any], options: LoadOptions, *, graphs: bool = False) -> list[Any]:
    """The providers of ``wanted`` (names, or names with options) with what ``options`` say of a GPU's memory.

    ``graphs`` switches CUDA graphs on, which only a session is to have that captures them.
    """
    more: dict[str, Any] = {}
    if options.memory_limit_bytes:
        # By what is asked for, and not in powers of two: else the arena would be over its limit at half of it.
        more |= {"gpu_mem_limit": str(options.memory_limit_bytes), "arena_extend_strategy": "kSameAsRequested"}
    if graphs:
        more["enable_cuda_graph"] = "1"
    found = []
    for provider in wanted:
        name, said = (provider, {}) if isinstance(provider, str) else provider
        found.append((name, {**said, **more}) if name == CUDA and more else provider)
    return found


def device_id(session: Any) -> int:
    """The number of the GPU that a session runs on."""
    said: Mapping[str, Mapping[str, str]] = session.get_provider_options()
    return int(said.get(CUDA, {}).get("device_id", "0"))


def bound_runs(session: Any, graph: Signature) -> BoundRuns | None:
    """Runs of a session on a GPU through page-locked memory; ``None`` where outputs have no size that is known."""
    return BoundRuns(session, graph, host_memory(pinned=True)) if can_bind(graph) else None


def captured_runs(
    onnxruntime: Any, open_session: Callable[[], Any], graph: Signature, options: LoadOptions
) -> tuple[Any, CapturedRuns] | None:
    """A session with a CUDA graph for each of ``options.batch_sizes``, and its runs; blocking.

    ``None``, with a warning that says why, if the model does not allow it.
    """
    told = 'model "%s" runs without CUDA graphs: %s'
    if not can_capture(graph):
        logger.warning(told, options.model_name, "sizes other than the number of rows vary, or there are strings")
        return None
    try:
        session = open_session()
        runs = CapturedRuns(
            onnxruntime, session, graph, options.batch_sizes, "cuda", device_id(session), host_memory(pinned=True)
        )
    except Exception as error:  # onnxruntime's errors share no base but Exception
        logger.warning(told, options.model_name, one_line(error))
        return None
    sizes = ", ".join(map(str, runs.sizes))
    logger.info('model "%s": CUDA graphs for batches of %s rows', options.model_name, sizes)
    return session, runs
