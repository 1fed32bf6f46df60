"""The runs that a model makes before it serves: of each signature, and of each shape that requests are padded to.

They pay what a framework does once, or once for each shape, and show whether rows stack. Blocking. Must not live here:
runs that are timed (``calibration``), runs on what was recorded (``warmup``).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.shapes import Padding
from stfs.calibration.load import MODEL_RAISES
from stfs.errors import Unavailable
from stfs.platforms.base import Servable, one_line
from stfs.signature import STRING, Signature, Tensors, zeros

log = logging.getLogger("stfs.model")

WARM_UP_ROWS = 2
"""Rows of the run that shows whether a signature really batches: the smallest number that can tell."""

WARM_UP_TRIES = 3
WARM_UP_WAIT_S = 60.0
"""How often a warm-up is tried whose worker process dies, and how long it waits each time for the next one."""

SHAPES_LIMIT_S = 60.0
"""So long a model is run on the shapes that requests are padded to, before it serves without the rest."""


def warm_up_all(servable: Servable, batchable: bool | None) -> dict[str, Signature]:
    """:meth:`warm_up` of every instance; what the first showed is returned."""
    first, *others = dict.fromkeys(servable.members)
    settled = warm_up(first, batchable)
    for other in others:
        warm_up(other, batchable)
    return settled


def warm_up(servable: Servable, batchable: bool | None) -> dict[str, Signature]:
    """Blocking. Runs each signature once or twice on zeros, which pays first-call costs before the first request.

    Returns the signatures, ``batchable`` only where the user did not forbid it and two rows in gave two rows out. Zeros
    may mean nothing to a model (an empty string is no JPEG), so a failing warm-up is no failure of the model.
    """
    settled: dict[str, Signature] = {}
    for key, signature in servable.signatures.items():
        batches = signature.batchable and batchable is not False
        one_row_runs = False
        with contextlib.suppress(*MODEL_RAISES):
            _run_warm(servable, key, zeros(signature.inputs, 1))
            one_row_runs = True
        if batches and one_row_runs:
            batches = _keeps_rows(servable, signature)
        elif any(spec.shape is None for spec in signature.outputs):
            batches = False  # nothing has shown that this output has a row for each input row
        settled[key] = replace(signature, batchable=batches)
    return settled


def warm_up_shapes(
    servable: Servable,
    signatures: Mapping[str, Signature],
    paddings: Mapping[str, Padding],
    policy: BatchPolicy,
    name: str,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Blocking. Runs every instance on zeros of each shape that the operator has named: ``sequence_buckets`` for the
    lengths of rows, ``allowed_batch_sizes`` for their number (one row where they are not set).

    An engine that compiles or plans for each shape does so now, not at the first request of that shape. A shape that
    the model refuses is told in the log, and is no failure of the model; ``name`` is what it is called there.
    """
    end_s = clock() + SHAPES_LIMIT_S
    todo = [(key, shape) for key, one in signatures.items() for shape in _shapes(one, paddings.get(key), policy)]
    for done, (key, (length, rows)) in enumerate(todo):
        if clock() > end_s:
            told = "%s: %d of %d shapes were not run before it serves, since the others took %.0f s"
            log.warning(told, name, len(todo) - done, len(todo), SHAPES_LIMIT_S)
            return
        signature = signatures[key]
        inputs = _of_length(zeros(signature.inputs, rows), paddings.get(key), length)
        try:
            for member in dict.fromkeys(servable.members):
                _run_warm(member, key, inputs)
        except MODEL_RAISES as error:
            # An empty string may mean nothing to a model; numbers of a shape that it takes are seldom refused.
            level = logging.DEBUG if any(spec.dtype == STRING for spec in signature.inputs) else logging.WARNING
            of_length = f" of length {length} (sequence_buckets)" if length else ""
            many = "s"[: rows > 1]
            told = "%s, %s: it does not run on %d row%s%s: %s"
            log.log(level, told, name, key, rows, many, of_length, one_line(error))


def _shapes(signature: Signature, padding: Padding | None, policy: BatchPolicy) -> Iterator[tuple[int, int]]:
    """Lengths (0: as it is) and numbers of rows, the smallest first; none if the operator has named none."""
    buckets = padding.buckets if padding is not None else ()
    sizes = policy.allowed_batch_sizes if signature.batchable else ()
    if buckets or sizes:
        yield from sorted(product(buckets or (0,), sizes or (1,)), key=lambda shape: (shape[0] or 1) * shape[1])


def _of_length(inputs: Tensors, padding: Padding | None, length: int) -> Tensors:
    """``inputs`` with dimension 1 as long as this where it is padded to a bucket."""
    if padding is None or not length:
        return inputs
    return {
        name: array.repeat(length, axis=1) if name in padding.inputs and 1 in padding.inputs[name].axes else array
        for name, array in inputs.items()
    }


def _keeps_rows(servable: Servable, signature: Signature) -> bool:
    """Whether a run on two rows works and gives two rows in every output."""
    try:
        outputs = _run_warm(servable, signature.name, zeros(signature.inputs, WARM_UP_ROWS))
    except MODEL_RAISES as error:
        log.info("%s takes one row but not %d, so it runs request by request: %s", signature.name, WARM_UP_ROWS, error)
        return False
    wrong = [name for name, array in outputs.items() if not array.ndim or array.shape[0] != WARM_UP_ROWS]
    if wrong:
        log.info("%s: output %s has no row per input row, so it runs request by request", signature.name, wrong[0])
    return not wrong


def _run_warm(servable: Servable, signature_name: str, inputs: Tensors) -> Tensors:
    """A run that is tried again if its worker process was away: another model there may have brought it down."""
    for _ in range(WARM_UP_TRIES - 1):
        try:
            return servable.run(signature_name, inputs)
        except Unavailable:
            if not _comes_back(servable):
                raise
    return servable.run(signature_name, inputs)


def _comes_back(servable: Servable) -> bool:
    end_s = time.monotonic() + WARM_UP_WAIT_S
    while (worker := servable.worker_status) is not None and time.monotonic() < end_s:
        if worker.state not in ("starting", "restarting"):
            return worker.state == "up"
        time.sleep(0.02)
    return False
