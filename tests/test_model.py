"""A model from its load to its close: warm-up's verdict on batching, the loader's refusals, answers, the end."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stfs import platforms
from stfs.config import ModelConfig
from stfs.errors import (
    ConfigError,
    InvalidInput,
    InvalidRequest,
    LoadFailed,
    ModelFailed,
    SignatureNotFound,
    Unavailable,
)
from stfs.loader import ModelLoader, is_model
from stfs.metrics import Metrics
from stfs.model import Model
from stfs.platforms.base import LoadOptions, Platform, Servable
from stfs.signature import STRING, Signature, TensorSpec, can_batch, zeros

LIMIT_S = 60.0  # for what would otherwise hang


def spec(name="x", dtype="float64", shape: tuple | None = (None,)):
    return TensorSpec(name, np.dtype(dtype), shape)


def signature(name="serving_default", inputs=None, outputs=None):
    inputs, outputs = inputs or (spec(),), outputs or (spec("y"),)
    return Signature(name, inputs, outputs, can_batch(inputs, outputs))


def double(inputs):
    return {"y": 2 * inputs["x"]}


class FakeServable(Servable):
    """Runs ``run`` for every signature. ``calls`` holds the signature and shape of each run's first input."""

    platform = "fake"
    runtime = "fake 1.0"

    def __init__(self, *signatures: Signature, run: Callable = double):
        self.signatures = {each.name: each for each in signatures}
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.closed_on: list[threading.Thread] = []
        self.running = 0
        self._run = run

    def run(self, signature_name, inputs):
        assert not self.closed_on, "it was closed before its last run"
        assert list(inputs) == [each.name for each in self.signatures[signature_name].inputs]
        assert threading.current_thread() is not threading.main_thread(), "a run would hold up the loop"
        self.calls.append((signature_name, next(iter(inputs.values())).shape))
        self.running += 1
        try:
            return self._run(inputs)
        finally:
            self.running -= 1

    def close(self):
        assert not self.running, "it was closed in the middle of a run"
        self.closed_on.append(threading.current_thread())


class FakePlatform(Platform):
    name = "fake"
    aliases = ("pretence",)
    extra = "fake"

    def __init__(self, servable: Servable | Exception):
        self.servable = servable
        self.loads: list[tuple[Path, LoadOptions]] = []

    def detect(self, path):
        return path.suffix == ".fake"

    def load(self, path, options):
        assert threading.current_thread() is not threading.main_thread(), "a load would hold up the loop"
        self.loads.append((path, options))
        if isinstance(self.servable, Exception):
            raise self.servable
        return self.servable


FILE = Path("/models/m.fake")


@pytest.fixture
def fake(monkeypatch):
    """Makes a platform that loads a given servable the only one there is."""

    def install(servable):
        platform = FakePlatform(servable)
        monkeypatch.setattr(platforms, "available", lambda: {"fake": platform})
        return platform

    return install


def loader(metrics=None, **settings):
    config = ModelConfig("m", FILE, **{"calibrate": False, **settings})
    made = ModelLoader(metrics or Metrics())
    made.configure([config])
    return made


def run_with(work, **settings):
    """Load version 3 of ``m``, do ``work(model)``, close it."""

    async def main():
        model = await loader(**settings)("m", 3, FILE)
        try:
            return await asyncio.wait_for(work(model), LIMIT_S)
        finally:
            await asyncio.wait_for(model.close(), LIMIT_S)

    return asyncio.run(main())


async def nothing(model):
    return model


def loaded(servable, fake, **settings) -> Model:
    """The model as it was when it had been loaded (and since been closed)."""
    fake(servable)
    return run_with(nothing, **settings)


# --- zeros ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "rows", "expected"),
    [
        ((), 1, ()),
        ((), 2, ()),
        (None, 1, (1,)),
        (None, 2, (2,)),
        ((None,), 2, (2,)),
        ((None, 3), 2, (2, 3)),
        ((None, None, 4), 2, (2, 1, 4)),
        ((5,), 2, (5,)),
        ((1, None), 2, (1, 1)),
        ((None, 0), 2, (2, 0)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "object"])
def test_zeros_have_the_rows_asked_for_and_one_of_each_other_open_dimension(shape, rows, expected, dtype):
    made = zeros((spec("a", dtype, shape), spec("b", dtype)), rows)
    assert list(made) == ["a", "b"]
    assert made["a"].shape == expected
    assert made["b"].shape == (rows,)
    for array in made.values():
        assert array.dtype == np.dtype(dtype)
        assert all(value == (b"" if array.dtype == STRING else 0) for value in array.ravel().tolist())


@pytest.mark.parametrize(
    ("dtype", "values", "first"),
    [("object", ("b", "a"), b"b"), ("int64", ("3", "1"), 3), ("float32", ("0.5",), 0.5), ("bool", ("true",), False)],
)
def test_zeros_of_a_category_are_its_first_value(dtype, values, first):
    taking = signature(inputs=(TensorSpec("c", np.dtype(dtype), (None,), values=values),))
    made = zeros(taking.inputs, 2)
    assert made["c"].tolist() == [first, first]
    assert made["c"].dtype == np.dtype(dtype)
    assert taking.bind(made)["c"] is made["c"]


@pytest.mark.parametrize("shape", [(), None, (None,), (None, 3), (2, None)])
def test_zeros_can_be_bound(shape):
    taking = signature(inputs=(spec(shape=shape),))
    assert taking.bind(zeros(taking.inputs, 1)).keys() == {"x"}


# --- warm-up ----------------------------------------------------------------------------------------------------------


def failing_at(*row_counts, error: type[BaseException] = RuntimeError, then=double):
    def run(inputs):
        if len(inputs["x"]) in row_counts:
            raise error("no")
        return then(inputs)

    return run


def two_outputs(second):
    return lambda inputs: {"y": 2 * inputs["x"], "z": second(inputs["x"])}


UNKNOWN = (spec("y", shape=None),)
Y_AND_UNKNOWN = (spec("y"), spec("z", shape=None))

VERDICTS = [
    ("two rows in, two out", double, None, None, True, [1, 2]),
    ("a row too few", lambda i: {"y": i["x"][:1]}, None, None, False, [1, 2]),
    ("a row too many", lambda i: {"y": np.zeros(len(i["x"]) + 1)}, None, None, False, [1, 2]),
    ("no rows", lambda i: {"y": i["x"][:0]}, None, None, False, [1, 2]),
    ("a scalar out", lambda i: {"y": np.array(1.0)}, UNKNOWN, None, False, [1, 2]),
    ("an unknown rank that keeps rows", double, UNKNOWN, None, True, [1, 2]),
    ("one output of two lacks rows", two_outputs(np.sum), Y_AND_UNKNOWN, None, False, [1, 2]),
    ("both outputs have rows", two_outputs(np.square), Y_AND_UNKNOWN, None, True, [1, 2]),
    ("raises at two rows", failing_at(2), None, None, False, [1, 2]),
    ("ends the process at two rows", failing_at(2, error=SystemExit), None, None, False, [1, 2]),
    # Zeros may mean nothing to a model: the signature's word is taken, unless it says nothing.
    ("raises at one row", failing_at(1), None, None, True, [1]),
    ("ends the process at one row", failing_at(1, error=SystemExit), None, None, True, [1]),
    ("raises at one row, rank unknown", failing_at(1), UNKNOWN, None, False, [1]),
    ("raises at one row, one rank unknown", failing_at(1), Y_AND_UNKNOWN, None, False, [1]),
    ("forbidden", double, None, False, False, [1]),
    ("forbidden and failing", failing_at(1), None, False, False, [1]),
    ("allowed", double, None, True, True, [1, 2]),
    ("allowed, but a row too few", lambda i: {"y": i["x"][:1]}, None, True, False, [1, 2]),
    ("allowed, but the shape is fixed", double, (spec("y", shape=(1,)),), True, False, [1]),
    ("a scalar by signature", lambda i: {"y": np.array(1.0)}, (spec("y", shape=()),), None, False, [1]),
]


@pytest.mark.parametrize(
    ("run", "outputs", "batchable", "expected", "row_counts"), [v[1:] for v in VERDICTS], ids=[v[0] for v in VERDICTS]
)
def test_warm_up_decides_whether_a_signature_batches(fake, run, outputs, batchable, expected, row_counts):
    servable = FakeServable(signature(outputs=outputs), run=run)
    model = loaded(servable, fake, batchable=batchable)
    assert model.signatures["serving_default"].batchable is expected
    assert servable.calls == [("serving_default", (rows,)) for rows in row_counts]


def test_each_signature_is_judged_by_itself(fake):
    one, other = signature("a"), signature("b", inputs=(spec("x", shape=(None, 2)),))

    def run(inputs):
        return {"y": inputs["x"][:1] if inputs["x"].ndim == 2 else inputs["x"]}

    servable = FakeServable(one, other, run=run)
    model = loaded(servable, fake)
    assert {name: each.batchable for name, each in model.signatures.items()} == {"a": True, "b": False}
    assert model.signatures["a"] == one
    assert (model.signatures["b"].inputs, model.signatures["b"].outputs) == (other.inputs, other.outputs)


# --- the loader -------------------------------------------------------------------------------------------------------


def load(**settings):
    return asyncio.run(loader(**settings)("m", 1, FILE))


def test_an_unknown_platform_is_found_before_anything_loads(fake):
    platform = fake(FakeServable(signature()))
    loader(platform="fake")
    loader(platform="Pretence")
    loader()
    with pytest.raises(ConfigError, match=r'unknown platform "onyx".*fake'):
        loader(platform="onyx")
    assert platform.loads == []


def test_files_of_no_platform_are_refused_with_their_path(fake):
    platform = fake(FakeServable(signature()))
    path = Path("/models/notes.txt")
    with pytest.raises(LoadFailed, match=r"/models/notes\.txt.*no platform recognises.*fake"):
        asyncio.run(loader()("m", 1, path))
    assert platform.loads == []
    assert asyncio.run(loader(platform="fake")("m", 1, path)).path == path


def test_is_model_asks_the_platform_that_is_configured(fake):
    fake(FakeServable(signature()))
    for settings in ({}, {"platform": "fake"}):
        assert is_model(settings.get("platform"), FILE)
        assert not is_model(settings.get("platform"), Path("/models/notes.txt"))


def test_a_model_without_signatures_is_refused_and_closed(fake):
    servable = FakeServable()
    fake(servable)
    with pytest.raises(LoadFailed, match=r"m\.fake: the model has no signature to serve"):
        load()
    assert len(servable.closed_on) == 1


def test_what_a_platform_raises_comes_out(fake):
    told = LoadFailed("/models/m.fake: it is broken")
    fake(told)
    with pytest.raises(LoadFailed) as caught:
        load()
    assert caught.value is told


def test_a_servable_that_cannot_be_warmed_up_is_closed_off_the_loop(fake):
    class Stop(BaseException):
        """What no warm-up may swallow."""

    servable = FakeServable(signature(), run=failing_at(1, error=Stop))
    fake(servable)
    with pytest.raises(Stop):
        load()
    (thread,) = servable.closed_on
    assert thread is not threading.main_thread()


def test_the_platform_is_told_what_the_user_said(fake):
    platform = fake(FakeServable(signature()))
    options = {
        "threads": 3,
        "device": "cpu",
        "custom_op_paths": (Path("/ops.so"),),
        "session_config": {"log": True},
    }
    run_with(nothing, **options)
    ((path, given),) = platform.loads
    assert (path, given) == (FILE, LoadOptions(model_name="m", **options))


def test_a_model_tells_what_it_is(fake):
    servable = FakeServable(signature("b"), signature("a"))
    model = loaded(servable, fake)
    assert (model.name, model.version, model.path) == ("m", 3, FILE)
    assert (model.platform, model.runtime, model.default_signature) == ("fake", "fake 1.0", "a")
    for name in (None, "", "a"):
        assert model.signature(name) is model.signatures["a"]
    with pytest.raises(SignatureNotFound, match='model "m" version 3 has no signature "c": it has "a", "b"'):
        model.signature("c")


# --- answers ----------------------------------------------------------------------------------------------------------


def by_reply(model, taken, inputs, deadline_s=None):
    """``submit`` as an awaitable, which also fails if the reply comes twice or from inside the call."""
    reply = asyncio.get_running_loop().create_future()
    inside = True

    def answer(outputs, error):
        assert not inside, "the reply came before submit had returned"
        if error is None:
            reply.set_result(outputs)
        else:
            reply.set_exception(error)

    model.submit(taken, inputs, answer, deadline_s)
    inside = False
    return reply


async def by_infer(model, taken, inputs, deadline_s=None):
    return await model.infer(taken, inputs, deadline_s)


def only_small(inputs):
    if (inputs["x"] > 100).any():
        raise InvalidRequest("x is over 100")
    if (inputs["x"] < 0).any():
        raise RuntimeError("x is cursed")
    return double(inputs)


@pytest.mark.parametrize("ask", [by_infer, by_reply])
@pytest.mark.parametrize("batchable", [True, False])
def test_infer_and_submit_give_the_same_answers_and_errors(fake, ask, batchable):
    fake(FakeServable(signature(), run=only_small))

    async def work(model):
        taken = model.signature(None)
        assert taken.batchable is batchable
        for value in (np.arange(3.0), np.arange(5), np.arange(300.0)[:1], np.arange(8.0)[::2]):
            outputs = await ask(model, taken, {"x": value})
            np.testing.assert_array_equal(outputs["y"], 2.0 * value)
            assert list(outputs) == ["y"]
        for inputs, kind, told in [
            ({"x": np.array([101.0])}, InvalidRequest, "x is over 100"),
            ({"x": np.array([-1.0])}, ModelFailed, 'model "m" version 3 failed: RuntimeError: x is cursed'),
            ({"x": np.array([b"a"], dtype=object)}, InvalidInput, "dtype string cannot be used as float64"),
            ({"x": np.zeros((1, 1))}, InvalidInput, r"shape \[1, 1\] does not match \[\?\]"),
            ({}, InvalidInput, "missing"),
            ({"x": np.zeros(1), "z": np.zeros(1)}, InvalidInput, "unknown"),
        ]:
            with pytest.raises(kind, match=told):
                await ask(model, taken, inputs)
        outputs = await ask(model, taken, {"x": np.array([1.0])})
        assert outputs["y"].tolist() == [2.0]

    run_with(work, batchable=batchable)


@pytest.mark.parametrize("ask", [by_infer, by_reply])
def test_inputs_that_differ_in_rows_are_refused_where_rows_stack(fake, ask):
    inputs = (spec("x"), spec("w"))
    fake(FakeServable(signature(inputs=inputs), run=lambda i: {"y": i["x"]}))

    async def work(model):
        with pytest.raises(InvalidRequest, match='"x" has 1, "w" has 2'):
            await ask(model, model.signature(None), {"x": np.zeros(1), "w": np.zeros(2)})

    run_with(work)


def test_requests_share_runs_and_runs_are_counted(fake):
    servable = FakeServable(signature())
    fake(servable)
    metrics = Metrics()

    async def work(model):
        taken = model.signature(None)
        warm = len(servable.calls)
        values = [np.full(2, float(i)) for i in range(20)]
        answers = await asyncio.gather(*(model.infer(taken, {"x": value}, None) for value in values))
        for value, outputs in zip(values, answers, strict=True):
            np.testing.assert_array_equal(outputs["y"], 2 * value)
        return servable.calls[warm:]

    calls = run_with(work, metrics=metrics)
    assert sum(shape[0] for _, shape in calls) == 40
    assert len(calls) < 20
    told = metrics.snapshot()
    assert (told.batch_rows["m", "3"].count, told.batch_rows["m", "3"].total) == (len(calls), 40.0)
    assert told.requests == {}


class Gate:
    """A run that waits to be let through; ``entered`` counts those that have come."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, inputs):
        if inputs["x"].any():  # warm-up sends zeros
            self.entered.release()
            assert self.open.wait(LIMIT_S), "nobody opened"
        return double(inputs)

    async def wait_entered(self):
        assert await asyncio.to_thread(self.entered.acquire, timeout=LIMIT_S)


def test_each_signature_has_a_queue_and_a_thread_of_its_own(fake):
    gate = Gate()
    fake(FakeServable(signature("slow"), signature("fast", outputs=(spec("y"),)), run=gate))

    async def work(model):
        slow, fast = model.signature("slow"), model.signature("fast")
        first = asyncio.ensure_future(model.infer(slow, {"x": np.ones(2)}, None))
        await gate.wait_entered()
        second = asyncio.ensure_future(model.infer(slow, {"x": np.ones(3)}, None))
        await asyncio.sleep(0)  # lets it queue
        assert (model.in_flight_rows(), model.queued_rows()) == (2, 3)
        zeros_pass = await model.infer(fast, {"x": np.zeros(1)}, None)
        assert zeros_pass["y"].tolist() == [0.0]
        third = asyncio.ensure_future(model.infer(fast, {"x": np.ones(4)}, None))
        await gate.wait_entered()
        assert (model.in_flight_rows(), model.queued_rows()) == (6, 3)
        assert not first.done()
        gate.open.set()
        for task, rows in ((first, 2), (second, 3), (third, 4)):
            assert (await task)["y"].tolist() == [2.0] * rows
        assert (model.in_flight_rows(), model.queued_rows()) == (0, 0)

    try:
        run_with(work)
    finally:
        gate.open.set()


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closing_answers_what_was_taken_and_then_closes_the_servable_once_off_the_loop(fake):
    gate = Gate()
    servable = FakeServable(signature("a"), signature("b"), run=gate)
    fake(servable)

    async def main():
        model = await loader()("m", 1, FILE)
        a, b = model.signature("a"), model.signature("b")
        tasks = [asyncio.ensure_future(model.infer(a, {"x": np.full(1, 1.0)}, None))]
        await gate.wait_entered()
        tasks += [asyncio.ensure_future(model.infer(a, {"x": np.full(1, float(i))}, None)) for i in range(2, 6)]
        tasks += [asyncio.ensure_future(model.infer(b, {"x": np.full(1, float(i))}, None)) for i in range(6, 9)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(model.close())
        await gate.wait_entered()  # of b, whose run is under way too
        assert not closing.done()
        assert servable.closed_on == []
        for taken in (a, b):
            with pytest.raises(Unavailable):
                await model.infer(taken, {"x": np.zeros(1)}, None)
        gate.open.set()
        answers = await asyncio.wait_for(asyncio.gather(*tasks), LIMIT_S)
        assert [outputs["y"].tolist() for outputs in answers] == [[2.0 * i] for i in range(1, 9)]
        await asyncio.wait_for(closing, LIMIT_S)
        after_warm_up = servable.calls[4:]
        assert {name: sum(shape[0] for key, shape in after_warm_up if key == name) for name in "ab"} == {"a": 5, "b": 3}
        (thread,) = servable.closed_on
        assert thread is not threading.current_thread()
        assert not [each for each in threading.enumerate() if each.name.startswith('stfs model "m"')]

    try:
        asyncio.run(main())
    finally:
        gate.open.set()


def test_a_model_that_nobody_asked_closes_too(fake):
    servable = FakeServable(signature("a"), signature("b"))
    loaded(servable, fake)
    assert len(servable.closed_on) == 1


def test_what_closing_raises_comes_out(fake):
    class Clinging(FakeServable):
        def close(self):
            super().close()
            raise OSError("the device is gone")

    servable = Clinging(signature())
    fake(servable)
    with pytest.raises(OSError, match="the device is gone"):
        run_with(nothing)
    assert len(servable.closed_on) == 1
