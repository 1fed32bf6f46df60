"""``docs/batching.md`` tells of every batching option by its default, and of other servers' fields by their names."""

import re

from pages import DOCS

from stfs.batcher.policy import BatchPolicy
from stfs.metrics import REFUSALS
from stfs.model_server.text_format import message_class
from stfs.options import BY_NAME, MODEL_KEYS
from stfs.repository_batching import read_batching

PAGE = (DOCS / "batching.md").read_text()

TRITON_BATCHING = {
    "preferred_batch_size": [4],
    "max_queue_delay_microseconds": 5,
    "priority_levels": 2,
    "default_priority_level": 1,
    "priority_queue_policy": {},
}
TRITON_QUEUE = {"max_queue_size": 1, "default_timeout_microseconds": 5, "timeout_action": "DELAY"}


def table(first_header):
    """Rows of the table that begins so, by cells."""
    rows = re.search(rf"^\| {first_header} \|.*?(?=\n\n|\Z)", PAGE, re.MULTILINE | re.DOTALL)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip()[1:-1].split("|")] for row in rows]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_every_setting_is_an_option_of_models_with_that_default():
    for row in table("setting"):
        (name,) = quoted(row[0])
        told = quoted(row[1])
        assert BY_NAME[name].default == (told[0] if told else ""), name
        assert MODEL_KEYS[name] == name


def test_every_setting_of_the_queue_and_of_batches_is_told():
    told = {quoted(row[0])[0] for row in table("setting")}
    options = {name for name in BY_NAME if re.search("batch|queue|priorit|latency", name)}
    assert options - told <= {"batching", "calibrate"}
    assert {"max_batch_size", "max_enqueued_bytes", "priority_policies", "preferred_batch_sizes"} <= told


def test_fields_of_tensorflow_serving_are_in_its_message():
    fields = {field.name for field in message_class("BatchingParameters").DESCRIPTOR.fields}
    told = {name for row in table("setting") for name in quoted(row[3])}
    assert told <= fields
    assert {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "allowed_batch_sizes"} <= told
    for field in fields:
        assert f"`{field}`" in PAGE or field in ("num_batch_threads", "pad_variable_length_inputs"), field


def test_fields_of_triton_are_read():
    told = {name for row in table("setting") for name in quoted(row[4])} - {"max_batch_size", "max_batch_size: 0"}
    assert told == {*TRITON_BATCHING, *TRITON_QUEUE}
    batch, warnings = read_batching(BatchPolicy(), {**TRITON_BATCHING, "default_queue_policy": TRITON_QUEUE})
    assert not warnings
    assert (batch.preferred_batch_sizes, batch.batch_timeout_s, batch.priority_levels) == ((4,), 5e-6, 2)
    assert (batch.queue.max_requests, batch.queue.action) == (1, "delay")


def test_what_is_refused_is_what_is_counted():
    assert tuple(quoted(row[0])[0] for row in table("refusal")) == REFUSALS
