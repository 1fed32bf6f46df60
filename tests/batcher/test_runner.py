import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Entry
from stfs.batcher.runner import Batch, Runner
from stfs.errors import DeadlineExceeded, InvalidRequest, ModelFailed, Unavailable

POISON = -1.0


def batch_of(*requests):
    entries = [Entry({"x": np.array(rows, float)}, len(rows), None, lambda o, e: None, 0.0) for rows in requests]
    return Batch(entries, 0.25, "idle")


def runner(run, policy=None, merge=True):
    ticks = iter(range(1_000_000))
    return Runner(run, policy or BatchPolicy(), "m/1", merge, lambda: float(next(ticks)))


def double(inputs):
    if (inputs["x"] == POISON).any():
        raise ValueError("poison\nand more")
    return {"y": inputs["x"] * 2}


def told(outcomes):
    return [error if outputs is None else outputs["y"].tolist() for outputs, error in outcomes]


def test_a_good_batch_is_one_run():
    outcomes, (record,) = runner(double)(batch_of([1], [2, 3], [4]))
    assert told(outcomes) == [[2], [4, 6], [8]]
    assert (record.rows, record.padded_rows, record.requests, record.failed) == (4, 4, 3, False)
    assert (record.queue_wait_s, record.run_s, record.reason) == (0.25, 1.0, "idle")


def test_padding_never_reaches_an_answer_and_repeats_the_last_row():
    seen = []

    def run(inputs):
        seen.append(inputs["x"].tolist())
        return double(inputs)

    sizes = BatchPolicy(max_batch_size=8, allowed_batch_sizes=(4, 8))
    outcomes, (record,) = runner(run, sizes)(batch_of([1], [2, 3]))
    assert seen == [[1, 2, 3, 3]]
    assert told(outcomes) == [[2], [4, 6]]
    assert (record.rows, record.padded_rows) == (3, 4)


def test_only_the_guilty_fails_and_hears_why():
    outcomes, records = runner(double)(batch_of([1], [2], [POISON], [4]))
    good = told(outcomes)
    error = good.pop(2)
    assert good == [[2], [4], [8]]
    assert type(error) is ModelFailed
    assert str(error) == "m/1 failed: ValueError: poison"
    assert isinstance(error.__cause__, ValueError)
    assert [r.rows for r in records] == [4, 2, 2, 1, 1]
    assert [r.failed for r in records] == [True, False, True, True, False]
    assert [r.reason for r in records] == ["idle", "retry", "retry", "retry", "retry"]


@given(st.lists(st.lists(st.sampled_from([POISON, 1.0, 2.0, 3.0, 4.0]), min_size=1, max_size=3), min_size=1))
def test_whoever_is_guilty(requests):
    outcomes, records = runner(double)(batch_of(*requests))
    for rows, (outputs, error) in zip(requests, outcomes, strict=True):
        if POISON in rows:
            assert outputs is None
            assert type(error) is ModelFailed
        else:
            assert error is None
            assert outputs["y"].tolist() == [2 * x for x in rows]
    assert len(records) <= 2 * len(requests) - 1


@pytest.mark.parametrize("place", [0, 17, 63])
def test_one_bad_request_costs_few_extra_runs(place):
    requests = [[1.0]] * 64
    requests[place] = [POISON]
    outcomes, records = runner(double)(batch_of(*requests))
    assert [i for i, (_, error) in enumerate(outcomes) if error] == [place]
    assert len(records) == 1 + 2 * 6


def test_patience_comes_back_with_every_success():
    requests = [[1.0]] * 64
    requests[0] = requests[40] = [POISON]
    outcomes, records = runner(double)(batch_of(*requests))
    assert [i for i, (_, error) in enumerate(outcomes) if error] == [0, 40]
    assert len(records) <= 1 + 2 * 2 * 6


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 100, 128])
def test_a_hopeless_model_is_not_run_for_ever(n):
    def run(inputs):
        raise OSError("device lost")

    outcomes, records = runner(run)(batch_of(*[[1.0]] * n))
    assert all(type(error) is ModelFailed for _, error in outcomes)
    assert len({id(error) for _, error in outcomes}) == n
    assert len(records) <= n + n.bit_length() + 1
    assert sum(r.rows for r in records) <= 3 * n
    assert sum(r.requests == 1 for r in records) == n, "nobody fails without having run alone"


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt(), MemoryError(), GeneratorExit()])
def test_what_ends_a_process_is_the_requests_failure_only(end):
    def run(inputs):
        if POISON in inputs["x"]:
            raise end
        return double(inputs)

    outcomes, _ = runner(run)(batch_of([1], [POISON]))
    assert outcomes[0][1] is None
    assert type(outcomes[1][1]) is ModelFailed
    assert outcomes[1][1].__cause__ is end


@pytest.mark.parametrize("error", [InvalidRequest("too long"), ModelFailed("gave up"), Unavailable("worker restarts")])
def test_typed_errors_pass_as_they_are(error):
    def run(inputs):
        raise error

    assert runner(run)(batch_of([1]))[0] == [(None, error)]


@pytest.mark.parametrize("error", [Unavailable("the process died"), DeadlineExceeded("too late")])
def test_what_blames_no_request_is_told_to_all_and_not_retried(error):
    def run(inputs):
        raise error

    outcomes, records = runner(run)(batch_of([1], [2], [3], [4]))
    assert outcomes == [(None, error)] * 4
    assert len(records) == 1


def test_a_model_that_goes_away_in_a_retry_fails_that_part_only():
    def run(inputs):
        if POISON in inputs["x"]:
            raise Unavailable("the process died") if len(inputs["x"]) == 2 else ValueError("poison")
        return double(inputs)

    outcomes, records = runner(run)(batch_of([1], [2], [3], [POISON]))
    assert told(outcomes[:2]) == [[2], [4]]
    assert [type(error) for _, error in outcomes[2:]] == [Unavailable] * 2
    assert [r.rows for r in records] == [4, 2, 2]


def test_an_error_without_words_is_told_by_its_type():
    def run(inputs):
        raise KeyError

    assert str(runner(run)(batch_of([1]))[0][0][1]) == "m/1 failed: KeyError"


@pytest.mark.parametrize("wrong", [lambda x: x[:1], lambda x: np.concatenate([x, x]), lambda x: x.sum()])
def test_wrong_rows_fail_alone_with_the_outputs_name(wrong):
    """The model miscounts for one request only; its neighbours get their answers."""

    def run(inputs):
        x = inputs["x"]
        return {"y": x, "score": wrong(x) if POISON in x else x}

    outcomes, _ = runner(run)(batch_of([1], [POISON, 5], [3]))
    assert told(outcomes)[::2] == [[1], [3]]
    assert type(outcomes[1][1]) is ModelFailed
    assert 'output "score": expected 2 rows' in str(outcomes[1][1])


@pytest.mark.parametrize("nonsense", [None, [1, 2], {"y": None}, {"y": [1, 2]}])
def test_outputs_of_the_wrong_type_are_the_models_fault(nonsense):
    ((_, error),), _ = runner(lambda inputs: nonsense)(batch_of([1, 2]))
    assert type(error) is ModelFailed


def test_no_rows_are_the_clients_fault_if_the_model_minds():
    def run(inputs):
        raise ValueError("at least one sample")

    ((_, error),), _ = runner(run)(batch_of([]))
    assert type(error) is InvalidRequest
    assert str(error) == "m/1 cannot run on zero rows (ValueError: at least one sample)"


def test_no_rows_are_answered_if_the_model_does_not():
    sizes = BatchPolicy(max_batch_size=4, allowed_batch_sizes=(4,))
    ((outputs, error),), (record,) = runner(double, sizes)(batch_of([]))
    assert error is None
    assert outputs["y"].shape == (0,)
    assert record.padded_rows == 0


def test_who_left_meanwhile_is_not_run_again():
    batch = batch_of([1], [POISON], [3], [4])
    runs = []

    def run(inputs):
        runs.append(inputs["x"].tolist())
        batch.entries[0].cancel()
        batch.entries[3].cancel()
        return double(inputs)

    outcomes, _ = runner(run)(batch)
    assert runs == [[1, POISON, 3, 4], [POISON], [3]]
    assert outcomes[0] == outcomes[3] == (None, None)
    assert outcomes[2][0]["y"].tolist() == [6]


def test_without_merging_inputs_and_outputs_are_left_alone():
    inputs = {"x": np.array(3.0), "ids": np.zeros((2, 5))}
    outputs = {"y": np.zeros((7, 1)), "z": np.array(1)}
    batch = Batch([Entry(inputs, 1, None, lambda o, e: None, 0.0)], 0.0, "full")
    seen = []

    def run(given):
        seen.append(given)
        return outputs

    ((answer, error),), _ = runner(run, merge=False)(batch)
    assert seen[0] is inputs
    assert answer is outputs
    assert error is None


def test_failures_are_logged_once_a_batch(caplog):
    def run(inputs):
        raise OSError("device lost")

    runner(run)(batch_of(*[[1.0]] * 8))
    assert len(caplog.records) == 1
    assert "8 of a batch of 8" in caplog.text
    assert "device lost" in caplog.text
