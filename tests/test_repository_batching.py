import math

import pytest

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue_policy import QueuePolicy, read_level_queues
from stfs.errors import ConfigError, InvalidRequest
from stfs.repository_batching import batching_told, read_batching

FULL = BatchPolicy(
    batch_timeout_s=0.0025,
    preferred_batch_sizes=(4, 8),
    priority_levels=3,
    default_priority_level=2,
    queue=QueuePolicy(0.1, "delay", 50),
    level_queues=((1, QueuePolicy(max_requests=5)), (3, QueuePolicy(2.0))),
)


@pytest.mark.parametrize("batch", [BatchPolicy(), FULL])
def test_what_is_told_comes_back(batch):
    assert read_batching(BatchPolicy(), batching_told(batch)) == (batch, [])


def test_what_changes_nothing_is_named():
    told = {"preserve_ordering": True, "default_queue_policy": {"allow_timeout_override": False}}
    batch, warnings = read_batching(BatchPolicy(), told)
    assert batch == BatchPolicy()
    assert [line.split(" ")[0] for line in warnings] == ["preserve_ordering", "default_queue_policy:"]


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ([], '"dynamic_batching" must be an object'),
        ({"speed": 1}, 'has no "speed"'),
        ({"preferred_batch_size": 4}, '"preferred_batch_size" must be a list'),
        ({"preferred_batch_size": [500]}, "must not be over max_batch_size|max_batch_size"),
        ({"priority_levels": -1}, '"priority_levels" must be a whole number'),
        ({"priority_levels": 2, "default_priority_level": 3}, "default_priority_level 3 is over"),
        ({"priority_queue_policy": {"2": {}}}, "level 2 has|level 2"),
        ({"default_queue_policy": {"timeout_action": "DROP"}}, "must be REJECT or DELAY"),
        ({"default_queue_policy": {"size": 1}}, 'has no "size"'),
    ],
)
def test_what_cannot_be_meant_is_named(told, problem):
    with pytest.raises(InvalidRequest, match=problem):
        read_batching(BatchPolicy(), told)


def test_policies_of_levels_take_over_what_they_do_not_say():
    common = QueuePolicy(0.1, "delay", 7)
    told = {"2": {"max_enqueued": 9}, "1": {"queue_timeout_ms": 0, "queue_timeout_action": "reject"}}
    assert read_level_queues(told, common) == (
        (1, QueuePolicy(math.inf, "reject", 7)),
        (2, QueuePolicy(0.1, "delay", 7, 9)),
    )


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ({"high": {}}, "'high' is no level"),
        ({"1": 5}, "level 1 must be an object of settings"),
        ({"1": {"timeout": 5}}, "unknown key 'timeout'"),
        ({"1": {"queue_timeout_ms": -5}}, "queue_timeout_ms must be a number, 0 or more"),
        ({"1": {"queue_timeout_action": "drop"}}, "must be one of reject, delay"),
        ({"1": {"max_enqueued": True}}, "max_enqueued must be a number"),
    ],
)
def test_policies_of_levels_that_make_no_sense(told, problem):
    with pytest.raises(ConfigError, match=problem):
        read_level_queues(told, QueuePolicy())
