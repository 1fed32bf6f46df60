"""Nested lists of unlike length, in the forms that a request may have, over both codec twins; and the masks of them."""

import json

import numpy as np
import pytest
from twins import BOTH

from stfs import codec
from stfs.errors import InvalidInput, InvalidRequest
from stfs.protocols import kserve1, ragged, stfs, tfserving
from stfs.protocols import request as common
from stfs.signature import MAX_FILLED, STRING, Ragged, Signature, TensorSpec


@pytest.fixture(params=BOTH, scope="module", autouse=True)
def twin(request):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("Reader", "Column", "encode", "encode_rows", "encode_string"):
            patch.setattr(codec, name, getattr(request.param, name))
        for module in (tfserving, common, ragged, stfs):
            patch.setattr(module, "Reader", request.param.Reader)
        yield request.param


def spec(name="ids", dtype="int64", shape=(None, None), **more):
    return TensorSpec(name, STRING if dtype == "text" else np.dtype(dtype), shape, **more)


IDS = spec(ragged=True, pad_value="0")
MASK = spec("mask", "float32", mask_of="ids", ragged=True)
FLAG = spec("flag", "int32", (None, 1))
ONE = Signature("serving_default", (IDS,), (), batchable=True)
MASKED = Signature("serving_default", (IDS, MASK), (), batchable=True)
THREE = Signature("serving_default", (MASK, IDS, FLAG), (), batchable=True)
LISTS = [[1, 2, 3], [4], []]
PADDED = [[1, 2, 3], [4, 0, 0], [0, 0, 0]]
ONES = [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


def bound(signature, decode, body):
    """The inputs as the model gets them: decoded and bound."""
    text = json.dumps(body).encode()
    inputs = decode(text, lambda *named: signature)[1]
    return {name: array.tolist() for name, array in signature.bind(inputs).items()}


FORMS = {
    "instances": (tfserving.decode_predict, {"instances": LISTS}),
    "inputs": (tfserving.decode_predict, {"inputs": LISTS}),
    "named inputs": (tfserving.decode_predict, {"inputs": {"ids": LISTS}}),
    "named rows": (tfserving.decode_predict, {"instances": [{"ids": row} for row in LISTS]}),
    "kserve": (kserve1.decode, {"instances": LISTS}),
    "kserve rows": (kserve1.decode, {"inputs": [{"ids": row} for row in LISTS]}),
    "data": (stfs.decode, {"data": LISTS}),
    "named data": (stfs.decode, {"data": {"ids": LISTS}}),
    "objects": (stfs.decode, {"data": [{"ids": row} for row in LISTS]}),
    "unwrapped": (stfs.decode, {"ids": LISTS}),
    "by index": (stfs.decode, {"data": {str(i): {"ids": row} for i, row in enumerate(LISTS)}}),
}
NAMED = {
    name: form for name, form in FORMS.items() if name not in ("instances", "inputs", "kserve", "data", "by index")
}


@pytest.mark.parametrize(("decode", "body"), [form for name, form in FORMS.items() if name != "by index"])
def test_every_form_takes_lists_of_unlike_length(decode, body):
    assert bound(ONE, decode, body) == {"ids": PADDED}


@pytest.mark.parametrize(("decode", "body"), NAMED.values(), ids=NAMED.keys())
def test_a_mask_that_is_left_out_marks_what_is_there(decode, body):
    assert bound(MASKED, decode, body) == {"ids": PADDED, "mask": ONES}


@pytest.mark.parametrize(("decode", "body"), NAMED.values(), ids=NAMED.keys())
def test_a_mask_that_is_sent_is_what_counts(decode, body):
    sent = [[1, 0, 1], [1], []]
    body = json.loads(json.dumps(body))
    (holder,) = list(body.values()) if "ids" not in body else [body]
    if isinstance(holder, list):
        for row, mask in zip(holder, sent, strict=True):
            row["mask"] = mask
    else:
        holder["mask"] = sent
    told = bound(MASKED, decode, body)
    assert told == {"ids": PADDED, "mask": [[1, 0, 1], [1, 0, 0], [0, 0, 0]]}


def test_rows_of_like_length_are_read_as_ever_and_masked_whole():
    told = bound(MASKED, tfserving.decode_predict, {"inputs": {"ids": [[1, 2], [3, 4]]}})
    assert told == {"ids": [[1, 2], [3, 4]], "mask": [[1, 1], [1, 1]]}


def test_other_inputs_stand_beside_and_the_order_does_not_matter():
    rows = [{"flag": [7], "ids": [1, 2]}, {"ids": [3], "flag": [8]}]
    told = bound(THREE, tfserving.decode_predict, {"instances": rows})
    assert told == {"mask": [[1, 1], [1, 0]], "ids": [[1, 2], [3, 0]], "flag": [[7], [8]]}


def test_rows_by_index_keep_their_own_sizes():
    column = ragged.RaggedColumn(IDS, integral_floats=True)
    for row in LISTS:
        column.read(codec.Reader(json.dumps(row).encode()))
    from stfs.protocols.columns import _in_order

    turned = _in_order(column.array(), [2, 0, 1])
    assert turned.tolist() == [PADDED[2], PADDED[0], PADDED[1]]
    assert turned.row_shapes.tolist() == [[0], [3], [1]]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"ids": [1], "mask": [1]}, {"ids": [1]}], 'input "mask", row 1: missing'),
        ([{"ids": [1]}, {"ids": [1], "mask": [1]}], 'input "mask", row 1: the rows before leave it out'),
        ([{"mask": [1]}, {"mask": [1]}], 'input "ids", row 0: missing'),
    ],
)
def test_all_rows_hold_a_mask_or_none(rows, told):
    with pytest.raises(InvalidInput, match=told):
        bound(MASKED, tfserving.decode_predict, {"instances": rows})


def test_an_input_that_stands_twice_in_a_row():
    text = b'{"instances": [{"ids": [1], "mask": [1], "ids": [2]}]}'
    with pytest.raises(InvalidInput, match='input "ids", row 0: stands twice'):
        tfserving.decode_predict(text, lambda *named: MASKED)


def test_without_a_value_the_first_element_pads_and_nothing_where_there_is_none():
    plain = Signature("serving_default", (spec(ragged=True),), (), batchable=True)
    assert bound(plain, stfs.decode, {"data": [[], [5, 6], [7]]}) == {"ids": [[5, 5], [5, 6], [7, 5]]}
    assert bound(plain, stfs.decode, {"data": [[], []]}) == {"ids": [[], []]}


def test_strings_and_further_dimensions():
    text = Signature("serving_default", (spec("t", "text", ragged=True, pad_value="[PAD]"),), (), batchable=True)
    assert bound(text, stfs.decode, {"data": {"t": [["a"], ["b", "c"]]}}) == {"t": [[b"a", b"[PAD]"], [b"b", b"c"]]}
    deep = Signature(
        "serving_default", (spec("x", "float32", (None, None, 2), ragged=True, pad_value="-1"),), (), batchable=True
    )
    told = bound(deep, tfserving.decode_predict, {"instances": [[[1, 2]], [[3, 4], [5, 6]], []]})
    assert told == {"x": [[[1, 2], [-1, -1]], [[3, 4], [5, 6]], [[-1, -1], [-1, -1]]]}


def test_masks_of_two_dimensions():
    pixels = spec("x", "float32", (None, None, None), ragged=True, pad_value="0")
    mask = spec("m", "bool", (None, None, None), mask_of="x", ragged=True)
    signature = Signature("serving_default", (pixels, mask), (), batchable=True)
    told = bound(signature, tfserving.decode_predict, {"inputs": {"x": [[[1, 2]], [[3], [4]]]}})
    assert told["m"] == [[[True, True], [False, False]], [[True, False], [True, False]]]


WRONG = {
    "not asked for": (Signature("s", (spec(),), (), True), [[1, 2], [3]], r'input "ids", element \[1\]'),
    "another kind": (ONE, [[1, 2], ["x"]], r'input "ids", element \[1\]\[0\] at byte \d+: '),
    "a row that is none": (ONE, [[1, 2], 3], r'input "ids", row 1: shape \[\] does not match \[\?\]'),
    "ragged within a row": (ONE, [[[1, 2], [3]], [1]], r'input "ids", element \[0\]\[1\]'),
    "too deep": (ONE, [[1, 2], [[3]]], r'input "ids", row 1: shape \[1, 1\] does not match'),
    "another fixed size": (
        Signature("s", (spec("ids", "int64", (None, None, 2), ragged=True),), (), True),
        [[[1, 2]], [[1]]],
        r'input "ids", row 1: shape \[1, 1\] does not match \[\?, 2\]',
    ),
}


@pytest.mark.parametrize(("signature", "lists", "told"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("form", ["inputs", "instances"])
def test_what_is_no_list_of_rows_is_refused_by_name_and_place(signature, lists, told, form):
    with pytest.raises(InvalidInput, match=told):
        tfserving.decode_predict(json.dumps({form: lists}).encode(), lambda *named: signature)


def test_a_mask_of_other_rows_than_its_input_or_without_it():
    with pytest.raises(InvalidInput, match='input "ids": missing'):
        MASKED.bind({"mask": np.ones((1, 2), np.float32)})
    with pytest.raises(InvalidInput, match='input "ids": shape'):
        THREE.bind({"ids": np.ones(3, np.int64), "flag": np.ones((3, 1), np.int32)})


def test_padding_that_a_short_body_asks_for_is_bounded():
    lists = [[0] * 3000] + [[]] * (MAX_FILLED // 3000 + 1)
    with pytest.raises(InvalidRequest, match="values of padding: send rows of like length"):
        tfserving.decode_predict(json.dumps({"instances": lists}).encode(), lambda *named: ONE)


def test_what_is_bound_is_a_plain_array():
    inputs = tfserving.decode_predict(json.dumps({"instances": LISTS}).encode(), lambda *named: ONE)[1]
    assert type(inputs["ids"]) is Ragged
    (array,) = ONE.bind(inputs).values()
    assert type(array) is np.ndarray
    assert array.flags.c_contiguous
