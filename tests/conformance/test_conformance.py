"""What every platform promises, asked of a real model of each: the same questions, whatever the framework.

Answers are compared with the framework called directly, in another process. Tolerance: the example's, relative and
absolute; a library may round the last digit of a float differently in a batch of another size.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from conformance.examples import EXAMPLES
from running import environment

from stfs import platforms
from stfs.commands import survey
from stfs.config import ModelConfig
from stfs.errors import InvalidRequest, LoadFailed, Unavailable
from stfs.loader import ModelLoader
from stfs.metrics import Metrics
from stfs.platforms import catalog
from stfs.platforms.base import LoadOptions
from stfs.platforms.loading import Hosting, open_servable

pytestmark = [
    pytest.mark.slow,  # imports every framework there is
    pytest.mark.filterwarnings("default"),  # what frameworks warn of while they are imported is not for this suite
]

CALLERS = 16
LIMIT_S = 120.0
CYCLES_LIMIT_S = 280.0
GROWTH_KB = 8 << 10
"""What the second half of many loads and unloads may add to a process: allocators settle, models pile up."""


@asynccontextmanager
async def serving(made, **config: Any):
    """The example as the server holds it: warmed up, with its batchers; the platform is told by the files."""
    loader = ModelLoader(Metrics())
    loader.configure([ModelConfig("m", made.path, **config)])
    model = await asyncio.wait_for(loader("m", 1, made.path), LIMIT_S)
    try:
        yield model
    finally:
        await model.close()


async def ask(model, inputs) -> dict[str, Any]:
    return await asyncio.wait_for(model.infer(model.signature(None), inputs, None), LIMIT_S)


def assert_answers(made, rows, answers) -> None:
    """``answers`` are the expected ones of these rows, of the dtypes that the example says."""
    assert set(answers) == set(made.expected)
    kinds = {name: dtype for name, dtype, _ in made.example.outputs}
    for name, values in answers.items():
        want = made.expected[name][rows]
        assert values.shape == want.shape, name
        if kinds[name] == "string":
            assert values.tolist() == want.tolist(), name
        elif want.dtype.kind == "f":
            tolerance = made.example.tolerance
            np.testing.assert_allclose(values, want, rtol=tolerance, atol=tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(values, want, err_msg=name)


def described(specs) -> list[tuple[str, str, Any]]:
    return [(spec.name, spec.dtype_name, spec.shape) for spec in specs]


def test_every_platform_has_an_example():
    ours = {name for name in platforms.available() if name in catalog.FACTS}
    assert ours <= {example.platform for example in EXAMPLES.values()}, "add the missing ones to examples.py"


def test_its_files_are_told_from_all_others(made):
    found = platforms.detect(made.path)
    assert found is not None
    assert found.name == made.example.platform


def test_its_signature_is_complete(made):
    async def main():
        async with serving(made) as model:
            signature = model.signature(None)
            assert described(signature.inputs) == list(made.example.inputs)
            assert sorted(described(signature.outputs)) == sorted(made.example.outputs)
            assert signature.batchable
            assert model.platform == made.example.platform
            assert any(character.isdigit() for character in model.runtime), "the runtime tells no version"

    asyncio.run(main())


def test_its_answers_are_the_frameworks_own(made):
    async def main():
        async with serving(made) as model:
            assert_answers(made, slice(None), await ask(model, made.inputs))

    asyncio.run(main())


def test_rows_answered_together_are_answered_as_alone(made):
    async def main():
        async with serving(made) as model:
            for row in range(0, made.rows, 5):
                assert_answers(made, slice(row, row + 1), await ask(model, made.take(slice(row, row + 1))))
            for rows in (slice(0, 2), slice(3, 10), slice(made.rows - 1, None, -1)):
                assert_answers(made, rows, await ask(model, made.take(rows)))

    asyncio.run(main())


def test_concurrent_callers_get_their_own_rows(made):
    """Callers whose requests gather into batches, each with rows of its own and as many as it likes."""

    async def caller(model, number):
        random = np.random.default_rng(number)
        for _ in range(8):
            rows = random.integers(0, made.rows, size=1 + number % 3)
            assert_answers(made, rows, await ask(model, made.take(rows)))

    async def main():
        async with serving(made) as model:
            await asyncio.gather(*(caller(model, number) for number in range(CALLERS)))

    asyncio.run(main())


def test_a_servable_may_be_run_on_many_threads(made):
    servable = open_servable(platforms.find(made.example.platform), made.path, LoadOptions(), Hosting())
    signature = servable.signatures[servable.default_signature]
    failures = []

    def caller(number):
        try:
            random = np.random.default_rng(number)
            for _ in range(8):
                rows = random.integers(0, made.rows, size=1 + number % 3)
                assert_answers(made, rows, servable.run(signature.name, signature.bind(made.take(rows))))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    servable.close()
    assert failures == []


def test_wrong_inputs_are_refused_and_the_next_is_answered(made):
    def wrong():
        first = next(iter(made.inputs))
        good = made.take(slice(0, 2))
        yield "missing", {}  # one column of several may be missing, where the model takes missing values
        yield "another name", {name: value for name, value in good.items() if name != first} | {"nonsense": good[first]}
        yield "one too many", good | {"nonsense": good[first]}
        wider = np.concatenate([good[first]] * 2, axis=-1) if good[first].ndim > 1 else good[first][:, None]
        yield "another shape", good | {first: wider}
        text = np.full(good[first].shape, b"text", object)
        yield "another dtype", good | {first: text if good[first].dtype != object else np.ones(2, "float32")}

    async def main():
        async with serving(made) as model:
            for kind, inputs in wrong():
                with pytest.raises(InvalidRequest) as caught:
                    pytest.fail(f"{kind} was answered: {await ask(model, inputs)}")
                assert "\n" not in str(caught.value), kind
                assert_answers(made, slice(0, 1), await ask(model, made.take(slice(0, 1))))

    asyncio.run(main())


@pytest.mark.parametrize("damage", ["of another kind", "cut short", "empty"])
def test_a_file_that_does_not_load_is_told_with_its_path(made, damage, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(made.path, folder)
    file = folder / made.example.file
    content = file.read_bytes()
    changed = {"of another kind": b"%PDF-1.7 no model at all\n" * 40, "cut short": content[: len(content) // 2]}
    file.write_bytes(changed.get(damage, b""))
    platform = platforms.find(made.example.platform)
    with pytest.raises(LoadFailed) as caught:
        open_servable(platform, folder, LoadOptions(), Hosting())
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    # What did not load has harmed nothing: the model beside it does.
    servable = open_servable(platform, made.path, LoadOptions(), Hosting())
    signature = servable.signatures[servable.default_signature]
    assert_answers(made, slice(0, 2), servable.run(signature.name, signature.bind(made.take(slice(0, 2)))))
    servable.close()


def test_unloading_frees_its_memory(made):
    example = made.example
    done = subprocess.run(
        [
            *(sys.executable, "-m", "conformance.cycles"),
            *(example.platform, str(made.path), str(made.answers), str(example.cycles)),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=CYCLES_LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert len(figures) == example.cycles
    growth = figures[-1] - figures[len(figures) // 2]
    assert growth < GROWTH_KB, f"{growth} KB in the second half of {example.cycles} cycles: {figures}"


def test_a_killed_worker_process_is_survived(made):
    async def main():
        async with serving(made, isolation="process") as model:
            assert_answers(made, slice(0, 3), await ask(model, made.take(slice(0, 3))))
            pid = model.worker.pid
            assert pid not in (None, os.getpid())
            os.kill(pid, signal.SIGKILL)
            answers = None
            limit = asyncio.get_running_loop().time() + LIMIT_S
            while answers is None:
                try:
                    answers = await ask(model, made.take(slice(0, 3)))
                except Unavailable:
                    assert asyncio.get_running_loop().time() < limit, "the worker process did not come back"
                    await asyncio.sleep(0.05)
            assert_answers(made, slice(0, 3), answers)
            assert model.worker.pid != pid
            assert model.worker.restarts == 1

    asyncio.run(main())


def test_an_absent_framework_is_told_with_the_catalogs_command(made, tmp_path):
    platform = platforms.find(made.example.platform)
    command = catalog.install_command(platform)
    if not command:
        pytest.skip("it needs nothing installed")
    done = subprocess.run(
        [sys.executable, "-m", "conformance.absent", platform.name, str(made.path)],
        env=environment({"STFS_HOME": str(tmp_path)}),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"platform {platform.name} is not installed"), done.stdout
    assert done.stdout.rstrip().endswith(f"run {command}")


def test_every_platform_that_is_told_of_can_be_asked_for_its_command():
    for status in survey.survey():
        assert status.install or status.version, status
