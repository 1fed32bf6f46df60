"""Which requests of unlike length share a batch, how they are padded and cut: arrays in, arrays out."""

import numpy as np
import pytest

from stfs.batcher.batch import batch_key, split
from stfs.batcher.shapes import Cut, PaddedInput, Padding, class_of
from stfs.errors import InvalidInput, ModelFailed
from stfs.signature import STRING

IDS = PaddedInput((1,), 0)
LARGEST = Padding({"ids": IDS}, to_largest=True, max_rows=16)
BUCKETS = Padding({"ids": IDS}, buckets=(4, 8), max_rows=16)


def ids(*lists):
    return {"ids": np.array(lists, np.int64)}


def text(*rows):
    array = np.empty((len(rows), len(rows[0])), STRING)
    for i, row in enumerate(rows):
        array[i, :] = row
    return array


def test_lengths_up_to_a_class_or_a_bucket_have_one_key():
    assert LARGEST.key(ids([1]), 1) == LARGEST.key(ids([1, 2, 3], [4, 5, 6]), 2)
    assert LARGEST.key({"ids": np.zeros((1, 64), np.int64)}, 1) != LARGEST.key({"ids": np.zeros((1, 65), np.int64)}, 1)
    assert BUCKETS.key(ids([1]), 1) == BUCKETS.key(ids([1, 2, 3, 4]), 1)
    assert BUCKETS.key(ids([1] * 4), 1) != BUCKETS.key(ids([1] * 5), 1)
    assert [class_of(n) for n in (0, 1, 64, 65, 256, 257, 1025)] == [64, 64, 64, 256, 256, 1024, 4096]


def test_what_is_not_padded_must_be_equal():
    padding = Padding({"ids": IDS}, to_largest=True)
    one, other = ids([1]) | {"f": np.zeros((1, 2))}, ids([1]) | {"f": np.zeros((1, 3))}
    assert padding.key(one, 1) != padding.key(other, 1)
    assert padding.key(ids([1]), 1) != padding.key({"ids": np.zeros((1, 1), np.int32)}, 1)
    two_axes = Padding({"ids": PaddedInput((1, 2))}, buckets=(4,))
    keys = {two_axes.key({"ids": np.zeros((1, 2, size))}, 1) for size in (1, 2)}
    assert len(keys) == 2, "buckets are of dimension 1"


def test_a_request_of_more_rows_than_a_batch_meets_its_like_only():
    many = {"ids": np.zeros((17, 3), np.int64)}
    assert LARGEST.key(many, 17) == batch_key(many, 17)
    assert BUCKETS.key(many, 17) == BUCKETS.key(ids([1]), 1), "in a bucket all are padded alike"


def test_what_is_longer_than_the_last_bucket_is_refused_with_the_limit():
    with pytest.raises(InvalidInput, match='input "ids": dimension 1 is 9, over 8, the longest of sequence_buckets'):
        BUCKETS.key(ids([0] * 9), 1)
    with pytest.raises(InvalidInput, match="does not hold the request's 2 rows"):
        BUCKETS.key(ids([0]), 2)


def test_padded_to_the_largest_of_the_batch_at_the_end():
    requests = [ids([1, 2]), ids([3], [4]), ids([5, 6, 7])]
    merged = LARGEST.merge(requests, 4, 4)
    assert merged["ids"].tolist() == [[1, 2, 0], [3, 0, 0], [4, 0, 0], [5, 6, 7]]
    assert merged["ids"].dtype == np.int64
    assert requests[0]["ids"].tolist() == [[1, 2]], "requests stay as they are"


def test_padded_to_the_bucket_even_alone():
    assert BUCKETS.merge([ids([1, 2])], 1, 1)["ids"].tolist() == [[1, 2, 0, 0]]
    full = ids([1, 2, 3, 4])
    assert BUCKETS.merge([full], 1, 1) is full
    assert BUCKETS.merge([ids([1] * 5), ids([2] * 7)], 2, 2)["ids"].shape == (2, 8)


@pytest.mark.parametrize("padding", [LARGEST, BUCKETS], ids=["largest", "buckets"])
def test_rows_of_padding_repeat_a_whole_padded_row(padding):
    merged = padding.merge([ids([1, 2, 3]), ids([9])], 2, 4)["ids"]
    assert merged.shape == (4, 3 if padding is LARGEST else 4)
    assert merged[1].tolist() == merged[2].tolist() == merged[3].tolist()
    assert merged[1][0] == 9


def test_without_a_value_the_first_element_of_ones_own_tensor_pads_it():
    padding = Padding({"x": PaddedInput((1, 2))}, to_largest=True)
    requests = [{"x": np.full((1, 1, 3), 7.5)}, {"x": np.arange(2.0).reshape(1, 2, 1) - 4}]
    merged = padding.merge(requests, 2, 2)["x"]
    assert merged[0].tolist() == [[7.5] * 3, [7.5] * 3]
    assert merged[1].tolist() == [[-4, -4, -4], [-3, -4, -4]]


def test_what_is_empty_is_padded_with_nothing():
    padding = Padding({"x": PaddedInput((1,)), "t": PaddedInput((1,))}, to_largest=True)
    requests = [{"x": np.zeros((1, 0)), "t": text([])}, {"x": np.ones((1, 2)), "t": text([b"a", b"b"])}]
    merged = padding.merge(requests, 2, 2)
    assert merged["x"].tolist() == [[0, 0], [1, 1]]
    assert merged["t"].tolist() == [[b"", b""], [b"a", b"b"]]


def test_strings_and_booleans():
    padding = Padding({"t": PaddedInput((1,), b"[PAD]"), "b": PaddedInput((1,))}, to_largest=True)
    requests = [{"t": text([b"a"]), "b": np.array([[True]])}, {"t": text([b"b", b"c"]), "b": np.array([[False, True]])}]
    merged = padding.merge(requests, 2, 2)
    assert merged["t"].tolist() == [[b"a", b"[PAD]"], [b"b", b"c"]]
    assert merged["t"].dtype == STRING
    assert merged["b"].tolist() == [[True, True], [False, True]]


def test_no_rows_are_padded_too():
    merged = BUCKETS.merge([{"ids": np.zeros((0, 3), np.int64)}], 0, 0)
    assert merged["ids"].shape == (0, 4)


MASKED = Padding(
    {"ids": PaddedInput((1,), 5), "mask": PaddedInput((1,), None, "ids")},
    to_largest=True,
    cuts=(Cut("y", 1, "ids", 1),),
)


def test_a_mask_is_padded_with_zeros_and_has_the_lengths_of_what_it_masks():
    short = ids([1]) | {"mask": np.array([[1.0]])}
    merged = MASKED.merge([short, ids([2, 3]) | {"mask": np.array([[1.0, 0.0]])}], 2, 2)
    assert merged["ids"].tolist() == [[1, 5], [2, 3]]
    assert merged["mask"].tolist() == [[1, 0], [1, 0]]
    with pytest.raises(InvalidInput, match=r'input "mask": shape \[1, 1\] is not that of "ids", \[1, 2\]'):
        MASKED.key(ids([1, 2]) | {"mask": np.array([[1.0]])}, 1)
    for padding in (MASKED, Padding(MASKED.inputs, buckets=(4,), max_rows=0)):
        with pytest.raises(InvalidInput, match="which it masks"):
            padding.key(ids([1, 2]) | {"mask": np.array([[1.0]])}, 1)


def test_outputs_are_cut_to_what_each_request_sent():
    requests = [ids([1, 2]), ids([3], [4]), ids([5, 6, 7])]
    merged = LARGEST.merge(requests, 4, 8)
    outputs = {"y": merged["ids"] * 10, "z": merged["ids"].sum(axis=1)}
    padding = Padding({"ids": IDS}, to_largest=True, cuts=(Cut("y", 1, "ids", 1),))
    answers = padding.cut(requests, merged, split(outputs, [1, 2, 1], 8))
    assert [answer["y"].tolist() for answer in answers] == [[[10, 20]], [[30], [40]], [[50, 60, 70]]]
    assert [answer["z"].tolist() for answer in answers] == [[3], [3, 4], [18]]
    assert all(answer["y"].flags.c_contiguous for answer in answers)


def test_cutting_in_another_dimension():
    padding = Padding({"ids": IDS}, buckets=(4,), cuts=(Cut("y", 2, "ids", 1),))
    request = ids([1, 2])
    merged = padding.merge([request], 1, 1)
    whole = {"y": np.arange(8).reshape(1, 2, 4)}
    (answer,) = padding.cut([request], merged, [whole])
    assert answer["y"].tolist() == [[[0, 1], [4, 5]]]
    assert whole["y"].shape == (1, 2, 4)


@pytest.mark.parametrize("shape", [(1, 3), (1,)])
def test_an_output_that_does_not_follow_is_the_models_fault(shape):
    padding = Padding({"ids": IDS}, buckets=(4,), cuts=(Cut("y", 1, "ids", 1),))
    request = ids([1, 2])
    with pytest.raises(
        ModelFailed, match='output "y": cut_outputs says that dimension 1 follows input "ids", which was'
    ):
        padding.cut([request], padding.merge([request], 1, 1), [{"y": np.zeros(shape)}])
