"""A model that answers: one servable with a batcher for each of its signatures.

Everything but the framework's own calls happens on the event-loop thread. Must not live here: HTTP, version policy,
how a model is loaded (``loader``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stfs.batcher.batcher import Batcher
from stfs.batcher.cache import ResponseCache
from stfs.batcher.queue import Entry, Journey
from stfs.batcher.sharing import SharingBatcher
from stfs.calibration.result import Calibration
from stfs.errors import RequestError, SignatureNotFound
from stfs.platforms.base import Servable, WorkerStatus
from stfs.signature import Array, Signature, Tensors

if TYPE_CHECKING:
    from stfs.batcher._lane import Lane

log = logging.getLogger("stfs.model")

STUCK_RUN_S = 30.0
"""So long a closing model waits for its last runs, if it has a worker process that can be ended without them."""


class Model:
    """One version of one model, made by :class:`stfs.loader.ModelLoader`.

    Closed once, when no request holds it any more.
    """

    def __init__(
        self,
        name: str,
        version: int,
        servable: Servable,
        signatures: Mapping[str, Signature],
        batchers: Mapping[str, Batcher],
        path: Path,
    ) -> None:
        self.name = name
        self.version = version
        self.path = path
        self.platform = servable.platform
        self.runtime = servable.runtime
        self.on_gpu = servable.on_gpu
        self.signatures = signatures
        self.default_signature = servable.default_signature
        self._servable = servable
        self._batchers = batchers
        self.calibrations: Mapping[str, Calibration] = {}
        """What runs were measured to take when it was loaded, or why they were not, by signature."""
        self.cache: ResponseCache | None = None
        """The answers that are kept, if any are: they go with this version."""

    def signature(self, name: str | None) -> Signature:
        """The signature of that name, the default for ``None`` or ``""``. Raises :class:`SignatureNotFound`."""
        signature = self.signatures.get(name or self.default_signature)
        if signature is None:
            known = ", ".join(f'"{n}"' for n in sorted(self.signatures))
            raise SignatureNotFound(
                f'model "{self.name}" version {self.version} has no signature "{name}": it has {known}'
            )
        return signature

    async def infer(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        deadline_s: float | None,
        journey: Journey | None = None,
        priority: int = 0,
        client: str | None = None,
    ) -> Tensors:
        """The outputs for ``inputs``, in the order of the signature.

        ``signature`` is one of this model's. ``deadline_s`` is in seconds of ``time.monotonic``. The arrays returned
        may be views of a batch's outputs: read them, do not write. ``journey`` is filled in on the way. ``priority``
        is the level that it asks for, 1 the highest, 0 for the default; nothing where the model has none. ``client`` is
        who asks, where clients share its queue.

        Raises :class:`stfs.errors.RequestError`. Cancelling the awaiting task withdraws the request.
        """
        bound = signature.bind(inputs)
        rows = signature.rows(bound) if signature.batchable else 1
        return await self._batchers[signature.name].infer(bound, rows, deadline_s, journey, priority, client)

    def submit(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        reply: Callable[[Tensors | None, RequestError | None], None],
        deadline_s: float | None,
        priority: int = 0,
        client: str | None = None,
    ) -> Entry:
        """:meth:`infer` by callback: ``reply`` gets the outputs or the error, once, on the loop, never from in here.

        Raises what the inputs or a full queue call for, and then does not call ``reply``. Cancelling the entry
        withdraws the request.
        """
        bound = signature.bind(inputs)
        rows = signature.rows(bound) if signature.batchable else 1
        return self._batchers[signature.name].submit(bound, rows, reply, deadline_s, None, priority, client)

    def lane(self, signature: Signature) -> Lane | None:
        """Where plain requests can be written in place, if the signature's only input is of numbers in rows of a size.

        What is written there is not bound to the signature: whoever writes sees to its shape.
        """
        if not signature.batchable or len(signature.inputs) != 1:
            return None
        (spec,) = signature.inputs
        if spec.dtype.kind not in "biuf" or not spec.dtype.isnative or spec.values or not spec.varies_in_rows:
            return None
        assert spec.shape is not None, "its rows vary"
        sizes = tuple(size for size in spec.shape[1:] if size is not None)
        if len(sizes) < len(spec.shape) - 1:
            return None
        return self._batchers[signature.name].lane(spec.name, spec.dtype, sizes)

    @property
    def shares_answers(self) -> bool:
        """Whether equal requests may have one answer, so that each has to come by itself."""
        return any(isinstance(batcher, SharingBatcher) for batcher in self._batchers.values())

    def cache_bytes(self) -> int | None:
        """Memory that the answers that are kept take now; ``None`` if none are."""
        return None if self.cache is None else self.cache.size_bytes

    def queued_rows(self) -> int:
        """Rows that wait for a run, over all signatures."""
        return sum(batcher.queued_rows for batcher in self._batchers.values())

    def in_flight_rows(self) -> int:
        """Rows that a run is working on, over all signatures."""
        return sum(batcher.in_flight_rows for batcher in self._batchers.values())

    def batch_limit_rows(self) -> int:
        """Rows that one run may take now: ``max_batch_size``, or what fits into memory; the least of all signatures."""
        return min(batcher.limit_rows for batcher in self._batchers.values())

    @property
    def worker(self) -> WorkerStatus | None:
        """The worker process that it runs in, now; ``None`` if it runs in this one."""
        return self._servable.worker_status

    @property
    def has_instances(self) -> bool:
        """Whether several of its batches may run at once, each on an instance of its own."""
        return len(self._servable.members) > 1

    async def close(self) -> None:
        """Answer what was taken, stop the threads, free the framework's memory.

        A run that does not come to its end holds this up for ever, unless a worker process can be ended around it, or
        it was given up: then the memory is freed when it has come home, which is not waited for.
        """
        closing = asyncio.gather(*(batcher.close() for batcher in self._batchers.values()))
        if self.worker is None:
            await closing
        else:
            await asyncio.wait((closing,), timeout=STUCK_RUN_S)
        hanging = [batcher for batcher in self._batchers.values() if batcher.hangs]
        if hanging:
            log.warning("%s version %d: runs of it are stuck, so its memory is not freed yet", self.name, self.version)
            task = asyncio.create_task(self._free_later(hanging))
            _left_over.add(task)
            task.add_done_callback(_left_over.discard)
            return
        await asyncio.get_running_loop().run_in_executor(None, self._servable.close)
        await closing

    async def _free_later(self, hanging: Iterable[Batcher]) -> None:
        for batcher in hanging:
            await batcher.all_home.wait()
        await asyncio.get_running_loop().run_in_executor(None, self._servable.close)
        log.info("%s version %d: its stuck runs have come home, and it is freed", self.name, self.version)


_left_over: set[asyncio.Task[None]] = set()
"""What waits for runs of models that are closed otherwise; a task that nobody refers to may be collected."""
