"""One run in a worker process: inputs into shared memory, a message, an answer, outputs out of it. Any thread.

Must not live here: what is told to a request whose process has gone.
"""

from __future__ import annotations

from collections.abc import Mapping

from stfs.platforms.shared_memory import Segment
from stfs.platforms.worker_messages import Message
from stfs.platforms.worker_process import Abandoned, Process, WorkerGone
from stfs.signature import STRING, Array, Tensors

HAND_OVER_BYTES = 8 << 20
"""From this size on, outputs are given to the caller as they lie in shared memory; smaller ones are copied out, and
the memory serves the next run, which is quicker than to have fresh memory from the system each time."""


class TookTooLong(Exception):
    """There was no answer in time. The process is still working on it."""


def run_once(
    process: Process, model: int, signature_name: str, inputs: Mapping[str, Array], limit_s: float = 0.0
) -> Tensors:
    """The outputs of that model of ``process``; blocking. The arrays returned are the caller's own.

    Raises what the model raised; :class:`WorkerGone` if the process ended first, :class:`Abandoned` if the model was
    closed first, :class:`TookTooLong` after ``limit_s`` seconds (0: never), and :class:`OSError` if there is no memory
    to share.
    """
    segment, new = process.take_segment()
    keep = False
    try:
        places, end = segment.write(inputs)
        message: Message = {
            "op": "run",
            "signature": signature_name,
            "segment": segment.number,
            "new": new,
            "size": segment.size_bytes,
            "tensors": places,
            "end": end,
        }
        asked = process.request(model, message, segment.fd if new else None)
        try:
            error = asked.exception(limit_s or None)
        except TimeoutError:
            raise TookTooLong from None
        if error is not None:
            keep = not isinstance(error, WorkerGone | Abandoned)  # those say that it may still be working there
            raise error
        outputs, keep = _take_outputs(segment, asked.result(), end)
        return outputs
    finally:
        process.return_segment(segment, keep=keep)


def _take_outputs(segment: Segment, answer: Message, inputs_end: int) -> tuple[Tensors, bool]:
    """The outputs, the caller's own; and whether the memory may serve again."""
    segment.see(answer["size"])
    outputs = segment.read(answer["tensors"])
    if sum(place[-1] for place in answer["tensors"]) >= HAND_OVER_BYTES:
        segment.give_back(inputs_end)
        return outputs, False
    return {name: array if array.dtype == STRING else array.copy() for name, array in outputs.items()}, True
