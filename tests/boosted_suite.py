"""What the tests of every kind of boosted trees do alike."""

from __future__ import annotations

import threading

import numpy as np

from stfs.platforms import detect
from stfs.platforms.base import LoadOptions

S = "serving_default"


def answers(servable, inputs):
    """The outputs for ``inputs`` by the way of a request: bound to the signature, and as that declares them."""
    signature = servable.signatures[S]
    outputs = servable.run(S, signature.bind(inputs))
    assert list(outputs) == [spec.name for spec in signature.outputs]
    for spec in signature.outputs:
        assert outputs[spec.name].dtype == spec.dtype
        assert spec.bind(outputs[spec.name]) is outputs[spec.name]
    return outputs


def loaded(platform, path, **options):
    """The model at ``path``, which only ``platform`` recognises."""
    found = detect(path)
    assert found is not None
    assert found.name == platform.name
    servable = platform.load(path, LoadOptions(**options))
    assert servable.signatures[S].batchable
    return servable


def part(inputs, chosen):
    return {name: array[chosen] for name, array in inputs.items()}


def assert_batches(servable, inputs):
    """Rows together, alone, in pairs and none at all: the same answers, and no run writes into an older answer."""
    together = answers(servable, inputs)
    before = {name: array.copy() for name, array in together.items()}
    n = len(next(iter(inputs.values())))
    for size in (1, 2, 7):
        for start in range(0, min(n, 28), size):
            few = answers(servable, part(inputs, slice(start, start + size)))
            for name, array in few.items():
                np.testing.assert_array_equal(array, together[name][start : start + size])
    for name, array in answers(servable, part(inputs, slice(0))).items():
        assert array.shape == (0, *together[name].shape[1:])
    for name, array in before.items():
        np.testing.assert_array_equal(array, together[name])
        assert not any(np.shares_memory(together[name], given) for given in inputs.values())


def assert_many_threads(servable, inputs, threads=8, calls=25):
    """Concurrent callers with rows of their own get the answers to their own rows."""
    together = answers(servable, inputs)
    n = len(next(iter(inputs.values())))
    wrong = []

    def call(index):
        for turn in range(calls):
            chosen = (np.arange(1 + (index + turn) % 9) + index * calls + turn) % n
            for name, array in answers(servable, part(inputs, chosen)).items():
                if not np.array_equal(array, together[name][chosen]):
                    wrong.append((index, turn, name))

    workers = [threading.Thread(target=call, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


GROWTH = """
import gc, sys
from pathlib import Path
import numpy as np
from stfs.platforms import find
from stfs.platforms.base import LoadOptions
from stfs.signature import zeros

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def cycle():
    servable = find(sys.argv[1]).load(Path(sys.argv[2]), LoadOptions())
    servable.run("serving_default", zeros(servable.signatures["serving_default"].inputs, 3))
    servable.close()

for _ in range(40):  # allocators and caches settle
    cycle()
gc.collect()
before = resident_bytes()
for _ in range(200):
    cycle()
gc.collect()
print(resident_bytes() - before)
"""
