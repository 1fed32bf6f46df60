"""``python tests/fuzz/storm_batcher.py [--runs N] [--seed S]``: random interleavings of all that a batcher meets.

One run is a model of random settings, or two that may share a device (a swap opens the new before it closes the old),
and some tens of events in any order: requests of a few rows, of none, of more than a batch holds, and of lanes; clients
that go, also in the middle of a run; deadlines and priorities; those who were refused and come back when they were told
to; rows that the model chokes on; workers that die; runs that hang; turns of the event loop; batches that come home;
time that passes. Then everything is let settle and closed.

What must hold: each request is answered exactly once and with its own rows, which carry a number that no other row has;
or it is told an error that it had coming; or it has gone, and is told nothing. Nothing stays queued or in flight, and
no timer is left behind. Time is made, and nothing is waited for. The same seed gives the same runs: a run that fails
is told with the ``--seed`` that repeats it alone.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.batching.made_time import Loop
from stfs.batcher.batcher import Batcher
from stfs.batcher.cost import Cost
from stfs.batcher.places import Instance
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue_policy import QueuePolicy
from stfs.batcher.slots import DeviceSlots
from stfs.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidRequest,
    ModelFailed,
    Overloaded,
    RequestError,
    RunTimedOut,
    Unavailable,
)

ROW = (1,)
INT64 = np.dtype(np.int64)
POISON, BLAMED, SHORT = -1, -2, -3
"""Rows that the model raises at, that it blames the request for, and for which it gives too few rows."""
GUILTS = {POISON: ModelFailed, BLAMED: InvalidRequest, SHORT: ModelFailed}
TICK_S = 0.0021
"""By how much a deadline may be told too late: event loops count in milliseconds."""


class Broken(AssertionError):
    """What must hold did not."""


class Request:
    """One request of rows ``first``, ``first + 1``, ..., what became of it, and what may."""

    __slots__ = ("batcher", "due_s", "entry", "first", "gone", "group", "guilt", "rows", "storm", "told", "wanted_s")

    def __init__(self, storm: Storm, batcher: Batcher, first: int, rows: int, guilt: int) -> None:
        self.storm = storm
        self.batcher = batcher
        self.first = first
        self.rows = rows
        self.guilt = guilt
        self.due_s = self.wanted_s = math.inf
        self.told = 0
        self.gone = False
        self.entry: Any = None
        self.group: Any = None

    def __call__(self, outputs: Any, error: RequestError | None) -> None:
        """The reply. What is wrong is kept: what a reply raises is only logged."""
        self.told += 1
        storm = self.storm
        if self.told > 1 or self.gone:
            storm.fault(f"{self} told {self.told} times, gone {self.gone}: {error!r}")
        elif error is not None:
            self.blame(error)
        elif self.guilt:
            storm.fault(f"{self} is poison, and was answered")
        else:
            storm.check(self, outputs["y"])

    def blame(self, error: RequestError) -> None:
        kind = type(error)
        storm = self.storm
        storm.seen[kind.__name__] += 1
        if kind is RunTimedOut:
            right = storm.gives_up
        elif kind is DeadlineExceeded:
            right = storm.loop.now_s >= self.due_s - 1e-9
        elif kind is Overloaded:
            # Who cannot be in time, has waited too long, or makes room for a higher level or for who came back.
            right = self.wanted_s < math.inf or self.batcher._levels is not None
        elif kind is Unavailable:
            right = storm.deaths > 0 or storm.gives_up  # too many runs hang
        else:
            right = self.guilt != 0 and (self.rows == 0 or kind is GUILTS[self.guilt] or self.rows > storm.max_rows)
        if not right:
            storm.fault(f"{self} was told {error!r}")

    def __repr__(self) -> str:
        lane = " of a lane" if self.group is not None else ""
        return f"request{lane} of rows {self.first}+{self.rows}, guilt {self.guilt}, due at {self.due_s}"


class Held:
    """What a group holds; counted, since it must be shared with the parts of it."""

    __slots__ = ()

    def share(self) -> Held:
        return self


HELD = Held()
COSTS = (None, None, Cost(4e-3, 8e-5, 0.05), Cost(2e-4, 3e-3, 0.05), Cost(5e-5, 1e-5, 0.05), Cost(0.0, 0.0, 0.0))


def _policies() -> list[BatchPolicy]:
    """Settings of all kinds; made once, since checking them costs more than a run."""
    made = []
    bounds = (
        {"priority_levels": 3, "default_priority_level": 2},
        {"priority_levels": 2, "queue": QueuePolicy(0.006, "reject", 4)},
        {"priority_levels": 3, "level_queues": ((3, QueuePolicy(0.003, "delay")), (1, QueuePolicy(max_rows=4)))},
        {"queue": QueuePolicy(0.01)},
        {"max_enqueued_bytes": 100},
    )
    for size in (1, 2, 3, 5, 8):
        for timeout_s in (0.0, 0.0, 0.0, 0.004):
            for most in (3, 9, 60):
                for sizes in ((), tuple(sorted({(size + 1) // 2, size}))):
                    for slo_s in (math.inf, math.inf, 0.02):
                        for adaptive in (True, True, False):
                            policy = BatchPolicy(size, timeout_s, most, sizes, adaptive, slo_s)
                            made.append(policy)
                            if len(made) % 3 == 0:
                                made.append(replace(policy, **bounds[len(made) % len(bounds)]))
                            if len(made) % 29 == 0:
                                made.append(replace(policy, preferred_batch_sizes=(size,)))
    return made


POLICIES = _policies()
PLACES = (1, 1, 2, 4)


class Storm:
    """One run. ``seen`` counts what happened, over all runs: a storm that meets no deadline tries none."""

    def __init__(self, seed: int, seen: Counter[str]) -> None:
        self.rng = rng = random.Random(seed)
        self.seen = seen
        self.loop = Loop()
        self.slots: DeviceSlots | None = None  # that its models share
        if rng.random() < 0.3:
            self.slots = DeviceSlots(1 + int(rng.random() * 2), None, self.loop.time, self.loop)  # type: ignore[arg-type]
        self.faults: list[str] = []
        self.jobs: list[Callable[[], None]] = []
        self.requests: list[Request] = []
        self.batchers: list[Batcher] = []
        self.closings: list[Any] = []
        self.live: list[tuple[Batcher, Any, bool]] = []
        self.value = 1
        self.deaths = 0
        self.dying = 0
        self.max_rows = 0
        self.gives_up = False

    def fault(self, told: str) -> None:
        self.faults.append(told)

    # What runs

    def model(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """``y = 3 x + 1``. Meanwhile clients may go, as they do beside a thread that works."""
        x = inputs["x"]
        if self.rng.random() < 0.05:
            self.cancel()
        if self.dying:
            self.dying -= 1
            self.deaths += 1
            raise Unavailable("the worker died")
        least = x.min() if len(x) else 0
        if least < 0:
            if (x == BLAMED).any():
                raise InvalidRequest("blamed")
            if (x == POISON).any():
                raise ValueError("poison")
            return {"y": x[:-1] * 3 + 1}
        return {"y": x * 3 + 1}

    def open(self) -> None:
        """A model, beside those that there are; from now on requests are for it."""
        rng = self.rng
        policy = POLICIES[int(rng.random() * len(POLICIES))]
        more: dict[str, Any] = {"run_timeout_s": 0.01 if rng.random() < 0.2 else 0.0}
        places = PLACES[int(rng.random() * len(PLACES))]
        if rng.random() < 0.5:
            more["in_flight"] = places
        else:
            concurrent = rng.random() < 0.5
            more["instances"] = [Instance(self.model, self.is_up, concurrent)] * places
        if self.slots is not None:
            more["share"] = self.slots.join("mno"[int(rng.random() * 3)], 1.0 + int(rng.random() * 3))
        merges = rng.random() < 0.95
        batcher = Batcher(
            self.model,
            policy,
            name="m",
            merge=merges,
            loop=self.loop,  # type: ignore[arg-type]
            clock=self.loop.time,
            start=self.jobs.append,
            cost=COSTS[int(rng.random() * len(COSTS))],
            **more,
        )
        if batcher.adaptive is not None and rng.random() < 0.4:
            for rows in range(1, 10):  # it has learnt enough to wait for company and to refuse
                batcher.adaptive.finished(self.loop.now_s, rows, 0.004 + rows * 0.0005, 0)
        self.max_rows = max(self.max_rows, policy.max_batch_size)
        self.gives_up |= more["run_timeout_s"] > 0
        self.batchers.append(batcher)
        self.live.append((batcher, batcher.lane("x", INT64, ROW), merges))

    def is_up(self) -> bool:
        """Whether a worker can run now: rarely not."""
        return self.rng.random() < 0.95

    def close(self, batcher: Batcher) -> None:
        closing = batcher.close()
        self.closings.append(closing)  # the collector would take an unfinished one for cancelled
        closing.send(None)

    # What happens

    def ask(self) -> None:
        rng = self.rng
        batcher, lane, merges = self.live[int(rng.random() * len(self.live))]
        chance = rng.random()
        rows = 1 if chance < 0.6 else int(chance * 100) % 5 if chance < 0.95 else int(chance * 1000) % 20
        guilt = 0
        if rng.random() < 0.06:
            # Where rows do not stack, what a model gives for a request is its own affair.
            guilt = (POISON, BLAMED, SHORT)[int(rng.random() * (3 if merges else 2))] if rows else 0
        first = self.value
        self.value += rows
        x = np.arange(first, first + rows).reshape(rows, 1)
        request = Request(self, batcher, first, rows, guilt)
        if guilt:
            x[int(rng.random() * rows)] = guilt
        queue = batcher.queue
        queued = queue.rows
        if lane is not None and rows and rng.random() < 0.5:
            if lane.submit(x, request, HELD, self.group_reply):
                request.group = queue.newest
                self.requests.append(request)
                if queue.rows != queued + rows:
                    self.fault(f"{queued} rows queued, then {rows} more, then {queue.rows}")
            elif queued and not batcher.closing and rows <= min(lane.capacity, lane.max_enqueued_rows - queued):
                self.fault(f"a lane refused {rows} rows beside {queued}")
            return
        due_s = None
        if rng.random() < 0.15:
            due_s = self.loop.now_s + (-0.001, 0.0005, 0.003, 0.01, 0.03)[int(rng.random() * 5)]
            request.due_s = request.wanted_s = due_s
        if batcher.policy.latency_slo_s < math.inf:
            request.wanted_s = min(request.wanted_s, self.loop.now_s + batcher.policy.latency_slo_s)
        inputs = {"x": x}
        levels = batcher.policy.priority_levels
        priority = int(rng.random() * (levels + 1)) if levels > 1 else 0
        if rng.random() < 0.01 and rows:
            try:
                batcher.submit(inputs, rows + 1, request)
            except (InvalidInput, Unavailable):
                return
            if merges:
                self.fault("rows that are not there were taken")
            return
        try:
            request.entry = batcher.submit(inputs, rows, request, due_s, priority=priority)
        except Overloaded as error:
            self.seen["full"] += 1
            if rng.random() < 0.5 and due_s is None:
                self.loop.call_later(error.retry_after_s, partial(self.come_back, request, inputs, priority))
            if not queued or not 0 < error.retry_after_s <= 60:
                self.fault(f"refused beside {queued} rows: {error!r}, {error.retry_after_s}")
        except DeadlineExceeded:
            if due_s is None or due_s > self.loop.now_s:
                self.fault("too late before its deadline")
        except Unavailable:
            self.seen["stuck"] += 1
            if not batcher.places.is_out_of_threads:
                self.fault("turned away, though not too many runs hang")
        else:
            self.requests.append(request)
        if request.told:
            self.fault(f"{request} told from inside submit")

    def come_back(self, request: Request, inputs: dict[str, Any], priority: int) -> None:
        """One that was refused, when it was told to."""
        if request.wanted_s < math.inf:
            request.wanted_s = self.loop.now_s + request.batcher.policy.latency_slo_s
        try:
            request.entry = request.batcher.submit(inputs, request.rows, request, priority=priority)
        except Unavailable:
            return
        self.seen["came back"] += 1
        self.requests.append(request)

    def group_reply(self, group: Any, outputs: Any, error: RequestError | None, outcomes: Any) -> None:
        """The reply of a lane's group: each of its requests is told its own."""
        start = 0
        sizes = None
        y = None if outputs is None else outputs["y"]
        for i, request in enumerate(group.owners):
            if request is None:
                if sizes is None:
                    sizes = [one.rows for one in group.alone(group.inputs)]
                start += sizes[i]
                continue
            stop = start + request.rows
            if outcomes is not None:
                request(*outcomes[i])
            else:
                request(None if y is None else {"y": y[start:stop]}, error)
            start = stop
        if start != group.rows:
            self.fault(f"a group of {group.rows} rows told of {start}")

    def check(self, request: Request, y: Any) -> None:
        first = request.first
        wanted = [[3 * i + 1] for i in range(first, first + request.rows)]
        if y.tolist() != wanted:
            self.fault(f"{request} was given {y.tolist()}")
        self.seen["answered"] += 1

    def cancel(self) -> None:
        """A client goes: one of the latest, or any."""
        requests = self.requests
        if not requests:
            return
        request = requests[int(self.rng.random() * len(requests))]
        if request.gone or request.told:
            if request.entry is not None:
                request.entry.cancel()  # does nothing
            return
        if request.group is not None:
            group = request.group
            if request not in group.owners:
                return  # it went on in a part of the group
            group.leave(request)
        else:
            request.entry.cancel()
        request.gone = True
        self.seen["gone"] += 1

    def work(self) -> None:
        """A batch is run, not always the oldest."""
        jobs = self.jobs
        jobs.pop(int(self.rng.random() * len(jobs)))()

    def swap(self) -> None:
        old = self.live.pop(0)[0]
        self.open()
        self.close(old)
        try:
            old.submit({"x": np.zeros((1, 1), np.int64)}, 1, lambda *_: self.fault("told by a closed one"))
        except Unavailable:
            self.seen["swap"] += 1
        else:
            self.fault("a batcher that closes took a request")

    def run(self) -> None:
        """All of it. Raises :class:`Broken`."""
        rng, loop = self.rng, self.loop
        self.open()
        if rng.random() < 0.3:
            self.open()
        for _ in range(4 + int(rng.random() * 20)):
            what = rng.random()
            if what < 0.42:
                self.ask()
            elif what < 0.66:
                loop.turn()
            elif what < 0.82:
                if self.jobs:
                    self.work()
            elif what < 0.92:
                loop.advance((0.0003, 0.0011, 0.004, 0.012, 0.05, 0.0011, 0.004, 1.0)[int(rng.random() * 8)])
            elif what < 0.97:
                self.cancel()
            elif what < 0.985:
                self.dying += 1
            elif what < 0.995:
                self.swap()
            if self.faults:
                raise Broken(self.faults[0])
        if rng.random() < 0.3:
            self.close(self.batchers[-1])
        self.settle()
        for request in self.requests:
            if request.told != 1 and not request.gone:
                raise Broken(f"{request} was told {request.told} times")
        for batcher in self.batchers:
            if batcher.queued_rows or batcher.in_flight_rows or batcher.in_flight_batches:
                raise Broken(f"{batcher.queued_rows} rows queued and {batcher.in_flight_rows} in flight are left")
            if batcher._ending.closed is None:
                self.close(batcher)
        self.settle()
        for batcher in self.batchers:
            if batcher._ending.closed is None or not batcher._ending.closed.done():
                raise Broken("a batcher does not come to its end")
        for closing in self.closings:
            closing.close()
        if any(timer.call is not None for _, _, timer in loop.timers):
            raise Broken("a timer is left behind")
        if self.slots is not None and (self.slots.held or self.slots.waiting):
            raise Broken(f"{self.slots.held} runs hold slots, {self.slots.waiting} wait for one")
        if self.faults:
            raise Broken(self.faults[0])
        self.seen["requests"] += len(self.requests)

    def settle(self) -> None:
        """Turn, work, and let time pass, until nothing is left to do."""
        loop = self.loop
        for _ in range(10_000):
            while loop.ready or self.jobs:
                loop.turn()
                if self.jobs:
                    self.work()
            if not any(timer.call is not None for _, _, timer in loop.timers):
                return
            loop.advance(max(loop.timers[0][0] - loop.now_s, 0.0))
        raise Broken("it never settles")


def storm(seed: int, runs: int) -> Counter[str]:
    """``runs`` runs from ``seed`` on. Raises :class:`Broken`, saying which."""
    logging.disable(logging.CRITICAL)  # of all that fails here, most is meant to
    seen: Counter[str] = Counter()
    try:
        for number in range(seed, seed + runs):
            try:
                Storm(number, seen).run()
            except Exception as error:
                told = f"{error} (repeat it with --seed {number} --runs 1)"
                raise Broken(told) from error
            seen["runs"] += 1
    finally:
        logging.disable(logging.NOTSET)
    return seen


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="storm_batcher.py", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others count on from it (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    args = parser.parse_args(argv)
    piece = max(1, min(10_000, args.runs // args.jobs))
    starts = range(args.seed, args.seed + args.runs, piece)
    sizes = [min(piece, args.seed + args.runs - start) for start in starts]
    seen: Counter[str] = Counter()
    began_s = time.process_time()
    if args.jobs == 1:
        for start, size in zip(starts, sizes, strict=True):
            seen += storm(start, size)
            print(f"{seen['runs']} runs, {time.process_time() - began_s:.0f} s", file=sys.stderr, flush=True)
    else:
        with ProcessPoolExecutor(args.jobs) as pool:
            for part in pool.map(storm, starts, sizes):
                seen += part
                print(f"{seen['runs']} runs", file=sys.stderr, flush=True)
    print(", ".join(f"{count} {what}" for what, count in sorted(seen.items())))


if __name__ == "__main__":
    main()
