"""What an operator says of shapes, held to a model's signatures when it is loaded."""

from pathlib import Path

import numpy as np
import pytest

from stfs.batcher.shape_plan import (
    ShapeOptions,
    pad_value,
    parse_buckets,
    parse_cuts,
    parse_pad_values,
    parse_pairs,
    plan,
)
from stfs.batcher.shapes import Cut, PaddedInput
from stfs.errors import LoadFailed
from stfs.signature import STRING, Signature, TensorSpec


def spec(name, shape, dtype="int64"):
    return TensorSpec(name, STRING if dtype == "text" else np.dtype(dtype), shape)


BERT = Signature(
    "serving_default",
    (
        spec("ids", (None, None)),
        spec("types", (None, None)),
        spec("mask", (None, None), "float32"),
        spec("f", (None, 3)),
    ),
    (spec("tokens", (None, None, 2)), spec("pooled", (None, 2)), spec("any", None)),
    batchable=True,
)
OTHER = Signature("other", (spec("x", (None, 4)),), (spec("y", (None, 4)),), batchable=True)
ALONE = Signature("alone", BERT.inputs, BERT.outputs, batchable=False)
PAIRS = (("mask", "ids"),)


def planned(signature=BERT, **options):
    signatures, paddings = plan(ShapeOptions(**options), {signature.name: signature, "other": OTHER}, 8, Path("m"))
    assert signatures["other"] == OTHER
    assert "other" not in paddings
    return signatures[signature.name], paddings.get(signature.name)


def test_nothing_said_changes_nothing():
    assert planned() == (BERT, None)


def test_all_that_varies_is_padded_a_mask_as_what_it_masks():
    signature, padding = planned(pad_variable_length_inputs=True, masks=PAIRS, pad_values=(("ids", "1"),))
    assert padding.inputs == {
        "ids": PaddedInput((1,), 1),
        "types": PaddedInput((1,)),
        "mask": PaddedInput((1,), None, "ids"),
    }
    assert (padding.to_largest, padding.buckets, padding.max_rows) == (True, (), 8)
    assert signature.input("mask").mask_of == "ids"
    assert not any(one.ragged for one in signature.inputs)


def test_only_those_that_are_named_are_padded_with_their_masks():
    _, padding = planned(sequence_buckets=(4, 8), padded_inputs=("ids",), masks=PAIRS, pad_values=(("", "0"),))
    assert padding.inputs == {"ids": PaddedInput((1,), 0), "mask": PaddedInput((1,), None, "ids")}
    assert (padding.to_largest, padding.buckets) == (False, (4, 8))


def test_ragged_inputs_and_the_masks_of_them():
    signature, padding = planned(ragged_inputs=("ids",), masks=PAIRS, pad_values=(("ids", "7"),))
    assert [(one.name, one.ragged, one.pad_value) for one in signature.inputs] == [
        ("ids", True, "7"),
        ("types", False, None),
        ("mask", True, None),
        ("f", False, None),
    ]
    assert padding is None


def test_a_mask_of_the_only_input_that_varies_need_not_say_so():
    one = Signature("one", (spec("x", (None, None)), spec("m", (None, None), "bool")), BERT.outputs, batchable=True)
    signature, _ = planned(one, masks=(("m", ""),))
    assert signature.input("m").mask_of == "x"


def test_cuts():
    cuts = (Cut("tokens", 1, "ids", 1), Cut("any", 2, "types", 1))
    _, padding = planned(pad_variable_length_inputs=True, cuts=cuts)
    assert padding.cuts == cuts


def test_a_signature_that_runs_request_by_request_is_masked_but_not_padded():
    signature, padding = planned(ALONE, pad_variable_length_inputs=True, masks=PAIRS, ragged_inputs=("ids",))
    assert padding is None
    assert signature.input("mask").mask_of == "ids"


PAD = {"pad_variable_length_inputs": True}
WRONG = {
    "no such padded": ({"padded_inputs": ("idz",)}, 'padded_inputs: the model has no input "idz"; it has "f", "ids", '),
    "no such ragged": ({"ragged_inputs": ("idz",)}, 'ragged_inputs: the model has no input "idz"'),
    "no such mask": ({"masks": (("maks", "ids"),)}, 'mask_input: the model has no input "maks"'),
    "no such masked": ({"masks": (("mask", "idz"),)}, 'mask_input: the model has no input "idz"'),
    "no such value": ({"pad_values": (("idz", "1"),)}, 'pad_value: the model has no input "idz"'),
    "no such output": (PAD | {"cuts": (Cut("no", 1, "ids", 1),)}, 'cut_outputs: the model has no output "no"; it has'),
    "no such cut": (PAD | {"cuts": (Cut("tokens", 1, "no", 1),)}, 'cut_outputs: the model has no input "no"'),
    "fixed padded": (
        PAD | {"padded_inputs": ("f",)},
        r'padded_inputs: input "f" is \[\?, 3\]: no dimension past the first',
    ),
    "fixed ragged": ({"ragged_inputs": ("f",)}, r'ragged_inputs: input "f" is \[\?, 3\]: no dimension past the first'),
    "fixed value": ({"pad_values": (("f", "1"),)}, 'pad_value: input "f" is'),
    "fixed masked": ({"masks": (("mask", "f"),)}, 'mask_input: input "f" is'),
    "fixed output": (
        PAD | {"cuts": (Cut("tokens", 2, "ids", 1),)},
        'dimension 2 of output "tokens", .*, does not vary',
    ),
    "flat output": (PAD | {"cuts": (Cut("pooled", 2, "ids", 1),)}, 'dimension 2 of output "pooled"'),
    "fixed cut": (PAD | {"cuts": (Cut("tokens", 1, "f", 1),)}, r'dimension 1 of input "f", \[\?, 3\], is not padded'),
    "unclear mask": ({"masks": (("mask", ""),)}, 'say which input "mask" is the mask of: mask=ids or mask=types'),
    "value of another dtype": (
        {"pad_values": (("ids", "0.5"),)},
        "pad_value: input \"ids\" is of int64, which has no '0.5'",
    ),
    "cuts of nothing": ({"cuts": (Cut("tokens", 1, "ids", 1),)}, "cut_outputs: nothing is padded"),
}


@pytest.mark.parametrize(("options", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_fails_the_load_in_a_line(options, told):
    with pytest.raises(LoadFailed, match="^m: .*" + told) as failed:
        planned(**options)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (spec("mask", (None,)), r"\[\?\] does not go with \[\?, \?\] of \"ids\""),
        (spec("mask", (None, 7)), r"\[\?, 7\] does not go"),
        (spec("mask", (None, None, None)), "does not go"),
        (spec("mask", None), "unknown does not go"),
        (spec("mask", (None, None), "text"), '"mask" is of string, and a mask holds 0 and 1'),
    ],
)
def test_masks_that_do_not_fit(mask, told):
    signature = Signature("s", (spec("ids", (None, None)), mask), BERT.outputs, batchable=True)
    with pytest.raises(LoadFailed, match=told):
        planned(signature, masks=PAIRS)


def test_buckets_that_nothing_follows():
    with pytest.raises(LoadFailed, match="sequence_buckets: dimension 1 varies in no input that is padded"):
        plan(ShapeOptions(sequence_buckets=(4,)), {"other": OTHER}, 8, Path("m"))
    with pytest.raises(LoadFailed, match="sequence_buckets: the model's rows do not stack"):
        plan(ShapeOptions(sequence_buckets=(4,)), {"alone": ALONE}, 8, Path("m"))
    assert plan(ShapeOptions(pad_variable_length_inputs=True), {"other": OTHER}, 8, Path("m"))[1] == {}


def test_a_value_that_no_input_has_is_refused_even_where_nothing_is_padded():
    fixed = Signature("fixed", (spec("x", (None, 4)),), (spec("y", (None, 4)),), batchable=True)
    assert plan(ShapeOptions(pad_values=(("", "0"),)), {"fixed": fixed}, 8, Path("m"))[1] == {}
    with pytest.raises(LoadFailed, match=r"^m: pad_value: no input has the value 'q', and nothing is padded"):
        plan(ShapeOptions(pad_values=(("", "q"),)), {"fixed": fixed}, 8, Path("m"))


def test_parsing():
    assert parse_buckets("32, 64,128") == (32, 64, 128)
    assert parse_buckets("") == ()
    assert parse_pairs("mask=ids, other") == (("mask", "ids"), ("other", ""))
    assert parse_pad_values("0") == (("", "0"),)
    assert parse_pad_values("ids=1,types=0,-1") == (("ids", "1"), ("types", "0"), ("", "-1"))
    assert parse_pad_values("text=") == (("text", ""),)
    assert parse_cuts("tokens=ids,a:b:2=x:3") == (Cut("tokens", 1, "ids", 1), Cut("a:b", 2, "x", 3))


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_buckets, "8,8"),
        (parse_buckets, "0,8"),
        (parse_buckets, "many"),
        (parse_pairs, "a=b,a=c"),
        (parse_pad_values, "1,2"),
        (parse_cuts, "tokens"),
        (parse_cuts, "tokens:0=ids"),
    ],
)
def test_what_does_not_parse(parse, text):
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_values_of_each_dtype():
    assert pad_value(np.dtype(np.int8), "-1") == -1
    assert pad_value(np.dtype(np.float16), "0.5") == np.float16(0.5)
    assert np.isnan(pad_value(np.dtype(np.float32), "nan"))
    assert pad_value(STRING, "ü") == "ü".encode()
    assert [pad_value(np.dtype(bool), text) for text in ("true", "1", "FALSE", "0")] == [True, True, False, False]
    for dtype, text in (("int8", "200"), ("bool", "2"), ("uint8", "-1"), ("float32", "x")):
        with pytest.raises((ValueError, OverflowError)):
            pad_value(np.dtype(dtype), text)
