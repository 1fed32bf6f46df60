"""The engine as a front process sees it: models that look like any other, whose runs are elsewhere.

A model of the main process is a :class:`stfs.model.Model` here too; what differs is its batchers, which send each
request on. It is bound to its signature before it leaves, so what is wrong with a request is told here.
Event-loop thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from stfs.batcher.asking import answer_of
from stfs.batcher.batcher import Batcher
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Journey, Queue, Together
from stfs.batcher.runner import Outcome
from stfs.errors import DeadlineExceeded, ModelFailed, OutOfMemory, Overloaded, RequestError, Unavailable
from stfs.front import records
from stfs.front.messages import Message, decode_signatures
from stfs.front.records import Record
from stfs.front.wire import Wire
from stfs.model import Model
from stfs.platforms.base import Servable
from stfs.signature import STRING, Array, Signature, Tensors
from stfs.tracing import Trace, decode_context, encode_context

if TYPE_CHECKING:
    from stfs.batcher._lane import Lane

_Lane: type[Lane] | None
try:
    from stfs.batcher._lane import Lane as _Lane
except ImportError:
    _Lane = None

log = logging.getLogger(__name__)

Reply = Callable[[Tensors | None, RequestError | None], None]


class Asked:
    """A request that the engine has; :meth:`cancel` takes it back. As :class:`stfs.batcher.queue.Entry`."""

    __slots__ = ("engine", "journey", "number", "reply", "segment", "signature")

    def __init__(
        self, engine: Engine, number: int, signature: Signature, reply: Reply, journey: Journey | None
    ) -> None:
        self.engine = engine
        self.number = number
        self.signature = signature
        self.reply: Reply | None = reply
        self.journey = journey
        self.segment: int | None = None

    def cancel(self) -> None:
        """Its reply will not be called. Does nothing once it has been."""
        if self.reply is not None:
            self.reply = None
            self.engine.cancel(self)


class Engine:
    """Sends requests and hands out the answers: the front's end of one :class:`Wire`, which is set after it is made."""

    wire: Wire

    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}
        self._last = 0

    @property
    def in_flight(self) -> int:
        """Requests whose answers have not come yet."""
        return len(self._asked)

    def ask(
        self,
        model: int,
        place: int,
        signature: Signature,
        inputs: Mapping[str, Array],
        reply: Reply,
        deadline_s: float | None,
        journey: Journey | None,
        priority: int = 0,
        client: Hashable = None,
    ) -> Asked:
        """Send a request for signature number ``place`` of ``model``; see :meth:`stfs.model.Model.submit`.

        ``inputs`` are bound, and must not change until the reply. Raises :class:`Overloaded` if there is no room.
        """
        wire = self.wire
        if not wire.has_room():
            raise Overloaded("the engine has more requests than it takes in: try again")
        self._last = number = self._last + 1
        told: dict[str, Any] = {} if journey is None else _asks(journey)
        if client is not None:
            told["client"] = client
        asked = Asked(self, number, signature, reply, journey)
        asked.segment = wire.send(
            records.REQUEST,
            number,
            list(inputs.values()),
            model=model,
            signature=place,
            deadline_s=math.inf if deadline_s is None else deadline_s,
            told=told or None,
            priority=priority,
        )
        self._asked[number] = asked
        return asked

    def cancel(self, asked: Asked) -> None:
        """Tell the engine that nobody waits for it any more."""
        if self._asked.pop(asked.number, None) is not None:
            self.wire.send(records.CANCEL, asked.number)
            if asked.segment is not None:
                self.wire.drop(asked.segment)

    def take(self, record: Record) -> None:
        """A record that has come from the engine."""
        match record.kind:
            case records.OUTPUTS | records.ERROR:
                self._answer(record)
            case records.FREED:
                self.wire.freed(record.number)
            case records.FORGET:
                self.wire.forget(record.number)
            case _:
                raise ValueError(f"a record of kind {record.kind}")

    def _answer(self, record: Record) -> None:
        asked = self._asked.pop(record.number, None)
        if asked is None:  # it was cancelled when its answer was on its way
            if record.kind == records.OUTPUTS:
                self.wire.arrays_of(record)
                self.wire.done_with(record)
            return
        reply, asked.reply = asked.reply, None
        assert reply is not None, "what is cancelled is not waited for"
        told, error, outputs = record.told, None, None
        if record.kind == records.ERROR:
            error = records.decode_error(told)
        else:
            arrays, are_ours = self.wire.arrays_of(record)
            if not are_ours:
                arrays = [array if array.dtype == STRING else array.copy() for array in arrays]
            self.wire.done_with(record)
            names = [spec.name for spec in asked.signature.outputs]
            if told is not None:
                names = told.get("names", names)
                if asked.journey is not None and "journey" in told:
                    journey = asked.journey
                    journey.queue_s, journey.run_s, journey.rows, journey.position, journey.cache = told["journey"]
                    if "batch" in told:
                        launched_s, finished_s, reason, context = told["batch"]
                        journey.together = Together(journey.rows, reason, launched_s, finished_s)
                        journey.together.told = decode_context(context)
            outputs = dict(zip(names, arrays, strict=True))
        if asked.segment is not None:
            # Of one that was late the model may still be looking at the inputs.
            (self.wire.drop if isinstance(error, DeadlineExceeded) else self.wire.freed)(asked.segment)
        try:
            reply(outputs, error)
        except Exception:
            log.exception("a reply raised; its request counts as answered")


def _asks(journey: Journey) -> dict[str, Any]:
    """What the engine is to tell of the request's way, and whose span is to be linked to its batch."""
    owner = journey.owner
    return {"journey": True, "trace": encode_context(owner.context)} if isinstance(owner, Trace) else {"journey": True}


class RemoteBatcher:
    """One signature of one model of the engine, in the place of a :class:`stfs.batcher.batcher.Batcher`.

    What is written into its lanes in one turn of the loop is sent as one request of many rows, up to ``max_batch_size``
    of ``policy``. If that fails, each is sent by itself, so that only the guilty fail. Without ``lanes`` all are.
    """

    in_flight_batches = 0
    overlaps = False
    hangs = False
    adaptive = None
    queued_rows = in_flight_rows = 0  # they are told where the models are

    def __init__(
        self,
        engine: Engine,
        name: str,
        model: int,
        place: int,
        signature: Signature,
        policy: BatchPolicy,
        lanes: bool = True,
    ) -> None:
        self.name = name
        self.policy = policy
        self.queue = Queue()
        self.clock = time.monotonic
        self.closing = False
        self.woken = False
        self._engine = engine
        self._model = model
        self._place = place
        self._signature = signature
        self._has_lanes = lanes
        self._lanes: dict[Hashable, Lane | None] = {}

    def submit(
        self,
        inputs: Tensors,
        rows: int,
        reply: Reply,
        deadline_s: float | None = None,
        journey: Journey | None = None,
        priority: int = 0,
        client: Hashable = None,
    ) -> Asked:
        """As :meth:`stfs.batcher.batcher.Batcher.submit`; a queue that is full is told by the reply."""
        if deadline_s is not None and deadline_s <= (now_s := time.monotonic()):
            raise DeadlineExceeded(f"the deadline passed {now_s - deadline_s:.3f} s before {self.name} was asked")
        try:
            return self._engine.ask(
                self._model, self._place, self._signature, inputs, reply, deadline_s, journey, priority, client
            )
        except TypeError as error:
            raise ModelFailed(str(error)) from error

    def lane(self, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> Lane | None:
        """As :meth:`stfs.batcher.batcher.Batcher.lane`."""
        if _Lane is None or not self._has_lanes or self.policy.latency_slo_s < math.inf:
            return None
        key = (name, dtype, row_shape)
        if key not in self._lanes:
            try:
                self._lanes[key] = _Lane(self, name, dtype, row_shape, key)
            except ValueError:
                self._lanes[key] = None
        return self._lanes[key]

    def joined(self, now_s: float, rows: int) -> None:
        """A lane has queued a request, or a group has begun."""
        if not self.woken:
            self.woken = True
            asyncio.get_running_loop().call_soon(self._send_groups)

    def _send_groups(self) -> None:
        self.woken = False
        self._listen_to_lanes()
        while True:
            groups, _ = self.queue.take(self.policy.max_batch_size)
            if not groups:
                return
            for group in groups:
                inputs = group.inputs
                try:
                    self.submit(inputs, group.rows, partial(self._answer_group, group, inputs))
                except RequestError as error:
                    group.answer(None, error)

    def _answer_group(self, group: Any, inputs: Tensors, outputs: Tensors | None, error: RequestError | None) -> None:
        blames_nobody = error is None or isinstance(error, Unavailable | DeadlineExceeded)
        if isinstance(error, OutOfMemory):  # of one row, perhaps: the others may fit
            blames_nobody = False
        if blames_nobody or group.requests == 1 or group.answered:
            group.answer(outputs, error)
            return
        parts = group.alone(inputs)
        outcomes: list[Outcome] = [(None, error)] * len(parts)
        waiting = len(parts)

        def reply(place: int, outputs: Tensors | None, error: RequestError | None) -> None:
            nonlocal waiting
            outcomes[place] = outputs, error
            waiting -= 1
            if not waiting:
                group.answer_each(outcomes)

        for place, part in enumerate(parts):
            try:
                self.submit(part.inputs, part.rows, partial(reply, place))
            except RequestError as failure:
                reply(place, None, failure)

    async def infer(
        self,
        inputs: Tensors,
        rows: int,
        deadline_s: float | None = None,
        journey: Journey | None = None,
        priority: int = 0,
        client: Hashable = None,
    ) -> Tensors:
        """:meth:`submit`, and wait. Cancelling the task cancels the request."""
        return await answer_of(
            asyncio.get_running_loop(),
            lambda reply: self.submit(inputs, rows, reply, deadline_s, journey, priority, client),
        )

    async def close(self) -> None:
        """Refuse what comes now. What was sent is answered by the engine."""
        self.closing = True
        self._listen_to_lanes()

    def _listen_to_lanes(self) -> None:
        """From now on the next request of a lane is news again."""
        for lane in self._lanes.values():
            if lane is not None:
                lane.told = False


class _Elsewhere(Servable):
    """Stands for a servable that is loaded in the main process."""

    def __init__(self, message: Message, signatures: Mapping[str, Signature]) -> None:
        self.platform = message["platform"]
        self.runtime = message["runtime"]
        self.signatures = signatures
        self._default = message["default"]

    @property
    def default_signature(self) -> str:
        return str(self._default)

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        raise ModelFailed("a front process runs no models")


def remote_model(engine: Engine, message: Message) -> Model:
    """The model that :func:`stfs.front.messages.encode_model` told of."""
    signatures = decode_signatures(message)
    name = f'model "{message["name"]}" version {message["version"]}'
    policy = BatchPolicy(max_batch_size=message["max_batch_size"], latency_slo_s=message["latency_slo_s"] or math.inf)
    batchers: dict[str, Any] = {
        key: RemoteBatcher(engine, name, message["number"], place, signature, policy, lanes=message["has_lanes"])
        for place, (key, signature) in enumerate(signatures.items())
    }
    return Model(
        message["name"],
        message["version"],
        _Elsewhere(message, signatures),
        signatures,
        cast("Mapping[str, Batcher]", batchers),
        Path(message["path"]),
    )
