import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.batcher.batch import batch_key, join, merge, pieces, split
from stfs.errors import InvalidInput, ModelFailed

FLOATS = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


def key(array: np.ndarray, name: str = "x") -> object:
    return batch_key({name: array}, len(array))


def test_key_is_equal_for_rows_that_stack():
    assert key(np.zeros((2, 4))) == key(np.zeros((5, 4)))
    assert hash(key(np.zeros((2, 4)))) == hash(key(np.zeros((5, 4))))


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((2, 5)),
        np.zeros((2, 4, 1)),
        np.zeros((2, 4), np.float32),
        np.zeros((2, 4), ">f8"),
        np.zeros((2, 4), object),
    ],
)
def test_key_differs_for_rows_that_do_not(other):
    assert key(np.zeros((2, 4))) != key(other)


def test_key_covers_every_input_and_its_name():
    one, two = np.zeros((2, 1)), np.zeros((2, 2))
    assert batch_key({"a": one, "b": two}, 2) == batch_key({"a": one, "b": two}, 2)
    assert batch_key({"a": one, "b": two}, 2) != batch_key({"a": one, "b": one}, 2)
    assert key(one, "a") != key(one, "b")


@pytest.mark.parametrize("inputs", [{"x": np.zeros((3, 4))}, {"y": np.zeros((2, 1)), "x": np.zeros(3)}])
def test_key_refuses_inputs_without_the_promised_rows(inputs):
    with pytest.raises(InvalidInput, match=r'input "x".*2 rows'):
        batch_key(inputs, 2)


def test_key_refuses_a_scalar():
    with pytest.raises(InvalidInput, match=r"shape \[\]"):
        batch_key({"x": np.array(1.0)}, 1)


def test_one_request_is_not_copied():
    assert merge([FLOATS], 2, 2) is FLOATS


def test_merge_stacks_every_input_in_order():
    other = {"x": np.full((1, 4), 9, np.float32)}
    merged = merge([FLOATS, other], 3, 3)
    assert merged["x"].dtype == np.float32
    assert merged["x"].flags.c_contiguous
    np.testing.assert_array_equal(merged["x"], [[0, 1, 2, 3], [4, 5, 6, 7], [9, 9, 9, 9]])


def test_merge_stacks_strings():
    merged = merge([{"s": np.array([b"a", b"bc"], object)}, {"s": np.array([b""], object)}], 3, 4)
    assert merged["s"].dtype == object
    assert merged["s"].tolist() == [b"a", b"bc", b"", b""]


def test_padding_repeats_the_last_row():
    merged = merge([FLOATS], 2, 5)
    np.testing.assert_array_equal(merged["x"][2:], [[4, 5, 6, 7]] * 3)
    np.testing.assert_array_equal(merged["x"][:2], FLOATS["x"])


@pytest.mark.parametrize("counts", [[1, 1, 1], [1, 2], [3], [2, 1]])
@pytest.mark.parametrize("names", ["y", "yz"])
@pytest.mark.parametrize("padded_rows", [3, 8])
def test_split_gives_each_its_rows_as_views(counts, names, padded_rows):
    outputs = {name: np.arange(2 * padded_rows).reshape(padded_rows, 2) + ord(name) for name in names}
    answers = split(outputs, counts, padded_rows)
    assert len(answers) == len(counts)
    start = 0
    for answer, count in zip(answers, counts, strict=True):
        assert answer.keys() == outputs.keys()
        for name in names:
            np.testing.assert_array_equal(answer[name], outputs[name][start : start + count])
            assert np.shares_memory(answer[name], outputs[name])
        start += count


def test_split_of_one_unpadded_request_is_the_models_own():
    outputs = {"y": np.zeros((3, 1))}
    assert split(outputs, [3], 3)[0] is outputs


def test_split_of_plain_vectors():
    assert [a["y"].tolist() for a in split({"y": np.array([5, 6])}, [1, 1], 2)] == [[5], [6]]


@pytest.mark.parametrize(("wrong", "shown"), [(np.zeros((2, 3)), r"\[2, 3\]"), (np.array(1.0), r"\[\]")])
def test_split_names_the_output_that_lost_rows(wrong, shown):
    with pytest.raises(ModelFailed, match=rf'output "z": expected 4 rows.*{shown}'):
        split({"y": np.zeros((4, 1)), "z": wrong}, [1, 3], 4)


@given(rows=st.integers(1, 50), limit=st.integers(1, 20))
def test_pieces_join_to_the_whole(rows, limit):
    inputs = {"x": np.arange(rows * 2).reshape(rows, 2), "s": np.array([b"%d" % i for i in range(rows)], object)}
    parts = pieces(inputs, rows, limit)
    assert all(1 <= count <= limit for _, count in parts)
    assert len(parts) == -(-rows // limit)
    assert all(len(part["x"]) == len(part["s"]) == count for part, count in parts)
    joined = join([part for part, _ in parts])
    np.testing.assert_array_equal(joined["x"], inputs["x"])
    assert joined["s"].tolist() == inputs["s"].tolist()


@pytest.mark.parametrize("second", [{}, {"z": np.zeros((1, 2))}, {"y": np.zeros((1, 3))}])
def test_join_refuses_pieces_that_do_not_fit(second):
    with pytest.raises(ModelFailed, match="pieces of one large request"):
        join([{"y": np.zeros((1, 2))}, second])
