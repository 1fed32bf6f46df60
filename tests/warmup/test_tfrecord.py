import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_logs import framed

from stfs.errors import LoadFailed
from stfs.warmup.tfrecord import records


@given(st.lists(st.binary(max_size=3000), max_size=5))
def test_records_come_back(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("records") / "file"
    path.write_bytes(b"".join(framed(record) for record in written))
    assert list(records(path)) == written


@given(st.integers(0, 200), st.integers(1, 255))
def test_any_changed_byte_is_noticed(tmp_path_factory, at, flip):
    path = tmp_path_factory.mktemp("records") / "file"
    content = bytearray(framed(b"first" * 20) + framed(b"second" * 20))
    content[at % len(content)] ^= flip
    path.write_bytes(content)
    with pytest.raises(LoadFailed) as caught:
        list(records(path))
    assert str(path) in str(caught.value)
    assert "TFRecord format" in str(caught.value)


def test_cut_short_anywhere(tmp_path):
    content = framed(b"record")
    path = tmp_path / "file"
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(LoadFailed, match="record at byte 0"):
            list(records(path))


def test_a_length_that_lies_takes_no_memory(tmp_path):
    head = framed(b"")[:0]
    path = tmp_path / "file"
    good = framed(b"x" * 40)
    # The length itself fits its checksum, and speaks of more than the file has.
    path.write_bytes(head + good[:-8])
    with pytest.raises(LoadFailed, match="it has 40 bytes, and the file ends before"):
        list(records(path))


def test_no_such_file(tmp_path):
    with pytest.raises(LoadFailed, match="No such file"):
        list(records(tmp_path / "none"))


@pytest.mark.slow
def test_what_tensorflow_writes(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    path = tmp_path / "file"
    written = [b"", b"one", b"x" * 100_000]
    with tensorflow.io.TFRecordWriter(str(path)) as writer:
        for record in written:
            writer.write(record)
    assert list(records(path)) == written
