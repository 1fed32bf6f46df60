"""Rows of padding, up to an allowed batch size: they repeat a row that somebody asked for, and are nobody's answer."""

import random

import numpy as np
import pytest
from batcher.batcher_driver import Driver

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.shapes import Cut, PaddedInput, Padding
from stfs.errors import ModelFailed

SIZES = (1, 4, 8)
POISON = -1.0


def double(inputs):
    """Each row by itself, so that a row of another request's would show."""
    if (inputs["x"] == POISON).any():
        raise ValueError("poison")
    return {"y": inputs["x"] * 2, "n": np.arange(len(inputs["x"]))}


PADDING = Padding({"x": PaddedInput((1,), 0.0)}, buckets=(2, 5), cuts=(Cut("y", 1, "x", 1),))


@pytest.mark.parametrize("padding", [None, PADDING], ids=["alike", "unlike"])
def test_whatever_fails_padding_repeats_a_row_that_was_asked_for_and_reaches_nobody(padding):
    records = []
    for seed in range(20):
        records += storm(random.Random(seed), padding)
    assert sum(record.reason == "retry" for record in records) > 20
    assert sum(record.padded_rows > record.rows for record in records) > 20


def storm(rng, padding):
    """Requests of a few rows, of which some fail, some are withdrawn and some are larger than a batch."""
    driver = Driver(double, BatchPolicy(max_batch_size=8, allowed_batch_sizes=SIZES), padding=padding)
    asked = []
    for number in range(30):
        length = rng.randint(1, 5) if padding else 2
        count = rng.choice([1, 1, 2, 3, 11])
        rows = [[float(number * 1000 + row * 10 + column) for column in range(length)] for row in range(count)]
        if rng.random() < 0.2:
            rows[rng.randrange(len(rows))][0] = POISON
        asked.append((np.array(rows), driver.ask(np.array(rows))))
        if rng.random() < 0.1:
            asked.pop()[1].entry.cancel()
        if rng.random() < 0.2:
            driver.settle()
    driver.settle()
    for rows, one in asked:
        if (rows == POISON).any():
            assert isinstance(one.error, ModelFailed)
        else:
            assert one.outputs["y"].tolist() == (rows * 2).tolist()
            assert one.outputs["n"].shape == (len(rows),), "a row of padding would be one more"
    for batch, record in zip(driver.batches, driver.records, strict=True):
        x = batch["x"]
        assert len(x) == record.padded_rows
        assert len(x) in SIZES
        for row in x[record.rows :]:
            assert row.tolist() == x[record.rows - 1].tolist()
        if padding is not None:
            assert x.shape[1] in padding.buckets
    return driver.records
