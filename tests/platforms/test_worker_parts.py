"""The parts of worker processes, each by itself: memory, messages, output, when to start again."""

import logging
import os
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stfs import errors
from stfs.platforms.base import LoadOptions
from stfs.platforms.shared_memory import ALIGN_BYTES, Segment, output_start
from stfs.platforms.worker_messages import (
    Channel,
    decode_error,
    decode_options,
    decode_signature,
    encode_error,
    encode_options,
    encode_signature,
)
from stfs.platforms.worker_output import BURST_LINES, MAX_LINE_BYTES, Output
from stfs.platforms.worker_policy import LONGEST_DELAY_S, crashes_in_a_row, gives_up, restart_delay_s
from stfs.signature import STRING, Signature, TensorSpec

NUMBERS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(),
    hnp.complex_number_dtypes(),
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def strings(shape):
    size = int(np.prod(shape))

    def made(values):
        array = np.empty(size, object)
        array[:] = values
        return array.reshape(shape)

    return st.lists(st.binary(max_size=20), min_size=size, max_size=size).map(made)


ARRAYS = st.one_of(NUMBERS.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)), SHAPES.flatmap(strings))
TENSORS = st.dictionaries(st.text(max_size=5), ARRAYS, max_size=5)


def same(left, right):
    assert list(left) == list(right)
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        assert array.shape == right[name].shape
        if array.dtype == STRING:
            assert array.tolist() == right[name].tolist()
        else:
            assert array.tobytes() == right[name].tobytes()


@settings(deadline=None)
@given(TENSORS, TENSORS)
def test_tensors_come_through_memory_as_they_were(inputs, outputs):
    ours = Segment.create(1)
    places, end = ours.write(inputs)
    theirs = Segment(os.dup(ours.fd), 1)
    theirs.see(ours.size_bytes)
    same(theirs.read(places), inputs)
    out_places, out_end = theirs.write(outputs, output_start(end))
    ours.see(theirs.size_bytes)
    same(ours.read(out_places), outputs)
    same(ours.read(places), inputs)
    for place in (*places, *out_places):
        assert place[3] % ALIGN_BYTES == 0
        assert place[3] + place[4] <= max(end, out_end)
    for segment in (ours, theirs):
        segment.close()
        segment.close()


def test_what_is_not_contiguous_is_copied_right():
    segment = Segment.create(1)
    array = np.arange(24.0).reshape(4, 6)[::2, ::-1].T
    places, _ = segment.write({"x": array})
    np.testing.assert_array_equal(segment.read(places)["x"], array)


def test_arrays_outlive_their_segment_and_growth():
    segment = Segment.create(1)
    places, _ = segment.write({"x": np.arange(5.0)})
    view = segment.read(places)["x"]
    segment.reserve(64 << 20)
    view[0] = 7.0
    assert segment.read(places)["x"][0] == 7.0
    segment.close()
    assert view.tolist() == [7.0, 1.0, 2.0, 3.0, 4.0]


def test_memory_cannot_be_shrunk_under_the_other_side():
    segment = Segment.create(1)
    segment.reserve(1000)
    with pytest.raises(PermissionError):
        os.truncate(segment.fd, 10)


def test_places_outside_of_the_memory_are_refused():
    segment = Segment.create(1)
    segment.reserve(1000)
    for place in (["x", "<f8", [1 << 40], 0, 8], ["x", "<f8", [1], 1 << 40, 8], ["x", "string", [2], 1 << 30, 100]):
        with pytest.raises((TypeError, ValueError)):
            segment.read([place])


def test_dtypes_that_cannot_be_shared_are_named():
    with pytest.raises(TypeError, match='"when" is of dtype datetime64'):
        Segment.create(1).write({"when": np.zeros(1, "datetime64[s]")})


ERRORS = [
    errors.ConfigError("a flag"),
    errors.PlatformMissing("pmml", "pmml", "no java"),
    errors.LoadFailed("/m: broken"),
    errors.InvalidRequest("wrong"),
    errors.MalformedJson("no brace", 3),
    errors.BadElement("ragged", 7, (0, 3)),
    errors.InvalidInput("x", "too wide", ", element [0]"),
    errors.SignatureNotFound("none"),
    errors.Unavailable("not now", 3.5),
    errors.Overloaded("full", 2.0),
    errors.DeadlineExceeded("late"),
    errors.ModelFailed("broke"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_keep_everything(error):
    back = decode_error(encode_error(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_errors_of_other_kinds_of_ours_come_as_the_nearest_known():
    class TooManyLegs(errors.InvalidRequest):
        """One that only an extension knows."""

    back = decode_error(encode_error(TooManyLegs("nine")))
    assert type(back) is errors.InvalidRequest
    assert str(back) == "nine"


def test_options_and_signatures_keep_everything(tmp_path):
    options = LoadOptions(
        model_name="näme",
        threads=3,
        custom_op_paths=(tmp_path / "a.so", tmp_path / "b"),
        session_config={"a": [1, {"b": None}], "c": "d"},
        signature_file=tmp_path / "s.json",
        trusted_types=("x.Y",),
    )
    assert decode_options(encode_options(options)) == options
    assert decode_options(encode_options(LoadOptions())) == LoadOptions()
    signature = Signature(
        "s",
        (TensorSpec("x", np.dtype("<f4"), (None, 3), "doc", True, (), ("a", "b", "c")), TensorSpec("t", STRING, None)),
        (TensorSpec("y", np.dtype("bool"), (), values=("é",)),),
        True,
    )
    assert decode_signature(encode_signature(signature)) == signature


@given(st.lists(st.dictionaries(st.text(), st.integers()), max_size=5), st.integers(1, 7))
def test_messages_come_whole_whatever_the_pieces(messages, piece):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for message in messages:
            Channel(ours).send(message)
        ours.shutdown(socket.SHUT_WR)
        reader, found = Channel(theirs), []
        while data := theirs.recv(piece):
            found += reader.feed(data)
    assert found == messages


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xffxxxx", b"\0\0\0\2[]", b"\0\0\0\2{]"])
def test_what_is_no_message_is_refused(nonsense):
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ValueError, match=r"a message|Expecting"):
        Channel(ours).feed(nonsense)


class Lines:
    def __init__(self):
        self.now_s = 0.0
        self.found = []
        self.output = Output(lambda level, line: self.found.append((level, line)), lambda: self.now_s)


@given(st.lists(st.integers(1, 9)))
def test_lines_are_the_same_whatever_the_pieces(cuts):
    data = b"first\n<3>an error\r\n\n  <4> indented\n<4>a warning\nlast"
    lines = Lines()
    for cut in cuts:
        lines.output.feed(data[:cut])
        data = data[cut:]
    lines.output.feed(data)
    lines.output.end()
    expected = [(logging.INFO, "first"), (logging.ERROR, "an error"), (logging.INFO, "  <4> indented")]
    assert lines.found == [*expected, (logging.WARNING, "a warning"), (logging.INFO, "last")]
    assert lines.output.last_words() == "last"


def test_an_endless_line_is_cut_and_holds_no_memory():
    lines = Lines()
    for _ in range(1000):
        lines.output.feed(b"x" * 10_000)
    lines.output.feed(b"y\nnext\n")
    assert lines.found == [(logging.INFO, "x" * MAX_LINE_BYTES), (logging.INFO, "next")]


def test_a_flood_is_counted_and_ends():
    lines = Lines()
    lines.output.feed(b"line\n" * (BURST_LINES + 50))
    assert len(lines.found) == BURST_LINES
    lines.now_s = 60.0
    lines.output.feed(b"calm again\n")
    assert lines.found[BURST_LINES:] == [
        (logging.WARNING, "(50 lines left out here: it prints too much)"),
        (logging.INFO, "calm again"),
    ]


def test_what_would_fool_a_log_is_escaped():
    lines = Lines()
    lines.output.feed("\x1b[2Jgone\rERROR forged\x00 caf\u00e9 \udcff".encode("utf-8", "surrogatepass") + b"\xff\n")
    ((_, line),) = lines.found
    assert line.startswith(r"\x1b[2Jgone\rERROR forged\x00 café")
    assert line.isprintable()


def test_delays_double_up_to_the_longest():
    delays = [restart_delay_s(crashes) for crashes in range(1, 1000)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_S == 30.0


def test_a_process_that_lived_long_begins_anew():
    assert crashes_in_a_row(0, 0.1) == 1
    assert crashes_in_a_row(7, 59.9) == 8
    assert crashes_in_a_row(7, 60.0) == 1
    assert [gives_up(crashes) for crashes in (1, 4, 5)] == [False, False, True]
