"""The main process's end of one front: takes its requests to the models' batchers and sends back the answers.

Requests of every front go to the same batchers, so that batches form across all of them. Event-loop thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from typing import Any, Protocol

from stfs.batcher.queue import Journey
from stfs.errors import InvalidRequest, ModelFailed, RequestError, Unavailable
from stfs.front import records
from stfs.front.records import Record
from stfs.front.wire import Wire
from stfs.lifecycle.registry import Handle
from stfs.model import Model
from stfs.signature import Signature, Tensors
from stfs.tracing import Elsewhere, Tracing, encode_span

log = logging.getLogger(__name__)


class _Ticket(Protocol):
    def cancel(self) -> object: ...


class Desk:
    """What one front has asked for and was not answered yet. ``wire`` is set after it is made.

    ``tracing`` is where the spans of batches go, if anywhere. ``held`` are the models that the front may ask for, by
    number; whoever made the desk keeps it.
    """

    wire: Wire

    def __init__(self, tracing: Tracing | None = None) -> None:
        self._tracing = tracing
        self.held: dict[int, Handle[Model]] = {}
        self._signatures: dict[int, list[Signature]] = {}
        self._tickets: dict[int, _Ticket] = {}

    @property
    def in_flight(self) -> int:
        """Requests that were not answered yet."""
        return len(self._tickets)

    def hold(self, number: int, handle: Handle[Model]) -> None:
        """From now on the front may ask for this model by this number."""
        self.held[number] = handle
        self._signatures[number] = list(handle.model.signatures.values())

    def let_go(self, number: int) -> None:
        """The front will not ask for it any more."""
        self._signatures.pop(number, None)
        if (handle := self.held.pop(number, None)) is not None:
            handle.release()

    def close(self) -> None:
        """The front has gone: its requests are withdrawn, its models let go."""
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.cancel()
        for number in list(self.held):
            self.let_go(number)
        self.wire.close()

    def take(self, record: Record) -> None:
        """A record that has come from the front. Raises :class:`ValueError`, or another, for what cannot be meant."""
        match record.kind:
            case records.REQUEST:
                self._ask(record)
            case records.CANCEL:
                if (ticket := self._tickets.pop(record.number, None)) is not None:
                    ticket.cancel()
            case records.FREED:
                self.wire.freed(record.number)
            case records.FORGET:
                self.wire.forget(record.number)
            case _:
                raise ValueError(f"a record of kind {record.kind}")

    def _ask(self, record: Record) -> None:
        number = record.number
        arrays, _ = self.wire.arrays_of(record)
        handle = self.held.get(record.model)
        if handle is None:
            self._refuse(number, Unavailable("the model is not served any more"))
            return
        model, signature = handle.model, self._signatures[record.model][record.signature]
        inputs = {spec.name: array for spec, array in zip(signature.inputs, arrays, strict=True)}
        deadline_s = None if record.deadline_s == math.inf else record.deadline_s
        told = record.told or {}
        client = told.get("client")
        try:
            if "journey" in told:
                owner = Elsewhere(told["trace"]) if "trace" in told else None
                journey = Journey(owner)
                work = self._infer(number, model, signature, inputs, deadline_s, journey, record.priority, client)
                self._tickets[number] = asyncio.ensure_future(work)
            else:
                reply = partial(self._reply, number, signature, None)
                self._tickets[number] = model.submit(signature, inputs, reply, deadline_s, record.priority, client)
        except RequestError as error:
            self._refuse(number, error)
        except Exception as error:
            log.exception('a request of a front process for model "%s" failed', model.name)
            self._refuse(number, ModelFailed(f"{type(error).__name__}: {error}"))

    async def _infer(
        self,
        number: int,
        model: Model,
        signature: Signature,
        inputs: Tensors,
        deadline_s: float | None,
        journey: Journey,
        priority: int,
        client: str | None,
    ) -> None:
        """For those who ask how long the steps took, which takes a task."""
        try:
            outputs = await model.infer(signature, inputs, deadline_s, journey, priority, client)
        except RequestError as error:
            self._reply(number, signature, journey, None, error)
        except Exception as error:
            log.exception('a request of a front process for model "%s" failed', model.name)
            self._reply(number, signature, journey, None, ModelFailed(f"{type(error).__name__}: {error}"))
        else:
            if number in self._tickets:
                self._trace(journey, model)
            self._reply(number, signature, journey, outputs, None)

    def _trace(self, journey: Journey, model: Model) -> None:
        """See to the span of its batch, if the front traces the request."""
        if self._tracing is not None and journey.together is not None and isinstance(journey.owner, Elsewhere):
            told: dict[str, str | int] = {"stfs.model.name": model.name, "stfs.model.version": model.version}
            self._tracing.batch(journey.together, journey.owner.context, told)

    def _reply(
        self,
        number: int,
        signature: Signature,
        journey: Journey | None,
        outputs: Tensors | None,
        error: RequestError | None,
    ) -> None:
        if self._tickets.pop(number, None) is None:
            return  # the front has gone
        if outputs is None:
            assert error is not None, "a reply has outputs or an error"
            self._refuse(number, error)
            return
        told: dict[str, Any] = {}
        if journey is not None:
            told["journey"] = [journey.queue_s, journey.run_s, journey.rows, journey.position, journey.cache]
            if (batch := journey.together) is not None and batch.told is not None:
                told["batch"] = [batch.launched_s, batch.finished_s, batch.reason, encode_span(batch)]
        if [spec.name for spec in signature.outputs] != list(outputs):
            told["names"] = list(outputs)
        try:
            self.wire.send(records.OUTPUTS, number, list(outputs.values()), told=told or None, give=True)
        except RequestError as failure:
            self._refuse(number, failure)
        except (TypeError, ValueError) as failure:
            self._refuse(number, ModelFailed(f"the outputs cannot be sent: {failure}"))

    def _refuse(self, number: int, error: RequestError) -> None:
        told = records.encode_error(error)
        try:
            self.wire.send(records.ERROR, number, told=told)
        except (RequestError, TypeError):  # longer than a ring
            short = InvalidRequest if isinstance(error, InvalidRequest) else ModelFailed
            self.wire.send(records.ERROR, number, told=records.encode_error(short(str(error)[:1000])))
