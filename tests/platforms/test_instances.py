"""Several instances of a model: which are one load, which are many, where they run, what becomes of one that dies."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from waiting import is_alive, wait_until
from worker_platforms import GroupedPlatform, Unruly, UnrulyPlatform, order, wait_for, write_model

from stfs.errors import ConfigError, LoadFailed, RunTimedOut, Unavailable
from stfs.platforms import find, placement
from stfs.platforms.base import LoadOptions, all_cores
from stfs.platforms.instances import Instances, open_instances
from stfs.platforms.loading import Hosting

SIGNATURE = "serving_default"
LIMIT_S = 60.0
CORES = sorted(os.sched_getaffinity(0))


class Together(UnrulyPlatform):
    """Its runs go side by side."""

    def load(self, path, options):
        servable = super().load(path, options)
        servable.concurrent = True
        servable.device = options.device
        return servable


class OnGpus(Together):
    places_on_gpus = True


@pytest.fixture
def opened():
    servables = []

    def open_them(path, platform=None, hosting=None, **said):
        options = LoadOptions("m", device=said.pop("device", "auto"), threads=said.pop("threads", 0))
        servable = open_instances(platform or UnrulyPlatform(), path, options, hosting or Hosting(), **said)
        servables.append(servable)
        return servable

    yield open_them
    for servable in servables:
        servable.close()


def test_runs_that_go_side_by_side_share_one_load(tmp_path, opened):
    servable = opened(write_model(tmp_path), Together(), instances=3)
    assert len(servable.members) == 3
    assert len(set(servable.members)) == 1
    assert servable.runtime == "unruly 1.0, 3 instances"
    assert servable.worker_status is None
    assert servable.run(SIGNATURE, order(3.0))["y"] == 6.0


def test_runs_that_wait_for_each_other_have_a_load_each(tmp_path, opened, caplog):
    closed = tmp_path / "closed"
    with caplog.at_level("INFO", "stfs.instances"):
        servable = opened(write_model(tmp_path, closed=closed), instances=3)
    assert len(set(servable.members)) == 3
    assert 'model "m" is loaded 3 times' in caplog.text
    servable.close()
    assert len(closed.read_text().splitlines()) == 3


def test_one_instance_is_the_model_itself(tmp_path, opened):
    servable = opened(write_model(tmp_path))
    assert type(servable) is Unruly
    assert list(servable.members) == [servable]


def test_one_that_does_not_load_leaves_none_behind(tmp_path):
    closed = tmp_path / "closed"

    class Second(UnrulyPlatform):
        loads = 0

        def load(self, path, options):
            Second.loads += 1
            if Second.loads == 2:
                raise LoadFailed("the second is broken")
            return super().load(path, options)

    with pytest.raises(LoadFailed, match="the second is broken"):
        open_instances(Second(), write_model(tmp_path, closed=closed), LoadOptions("m"), Hosting(), instances=3)
    assert len(closed.read_text().splitlines()) == 2


@pytest.mark.slow  # starts processes
def test_worker_processes_are_one_each_and_one_that_dies_fails_its_own_run_only(tmp_path, opened):
    started, go = tmp_path / "started", tmp_path / "go"
    servable = opened(write_model(tmp_path, started=started, go=go), hosting=Hosting("process"), instances=2)
    first, second = servable.members
    pids = [int(member.run(SIGNATURE, order(1.0))["pid"][0]) for member in servable.members]
    assert len({*pids, os.getpid()}) == 3
    status = servable.worker_status
    assert (status.state, [one.pid for one in status.instances]) == ("up", pids)
    assert status.resident_bytes >= sum(one.resident_bytes for one in status.instances) * 0.5
    told = []

    def run():
        try:
            first.run(SIGNATURE, order(Unruly.WAIT))
        except Unavailable as error:
            told.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(started)
    os.kill(pids[0], signal.SIGKILL)
    assert second.run(SIGNATURE, order(4.0))["y"] == 8.0
    thread.join(LIMIT_S)
    assert "died of SIGKILL" in told[0]
    assert servable.run(SIGNATURE, order(5.0))["y"] == 10.0, "the whole is up as long as one of them is"
    assert servable.is_up()
    wait_until(first.is_up, "the return of the first")
    assert servable.worker_status.restarts == 1
    servable.close()
    assert not any(is_alive(one.pid) for one in status.instances)


@pytest.mark.slow  # starts processes
def test_a_group_is_one_process_whose_runs_go_side_by_side(tmp_path, opened):
    servable = opened(write_model(tmp_path), GroupedPlatform(), instances=2)
    pids = {int(member.run(SIGNATURE, order(1.0))["pid"][0]) for member in servable.members}
    assert len(pids) == 1


@pytest.mark.slow  # starts processes
def test_a_run_that_takes_too_long_is_ended_with_its_process(tmp_path, opened):
    started = tmp_path / "started"
    servable = opened(write_model(tmp_path, started=started), hosting=Hosting("process"))
    assert servable.ends_runs
    pid = servable.worker_status.pid
    assert servable.run_within(30.0, SIGNATURE, order(1.0))["y"] == 2.0
    with pytest.raises(RunTimedOut, match=r'model "m": a run took longer than run_timeout_s \(0.2 s\); its worker'):
        servable.run_within(0.2, SIGNATURE, order(Unruly.STUCK))
    assert not (servable.is_up() and servable.worker_status.pid == pid), "at once, so that nobody is sent to it"
    wait_until(lambda: not is_alive(pid), "the end of the process")
    wait_until(servable.is_up, "the next process")
    status = servable.worker_status
    assert status.pid != pid
    assert status.restarts == 1
    assert "was ended, since a run took longer than run_timeout_s (0.2 s)" in status.error
    assert servable.run_within(30.0, SIGNATURE, order(3.0))["y"] == 6.0


def allowed(pid):
    """The cores of a process and of each of its threads, as Linux tells them (proc(5))."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found |= {line.split(":")[1].strip() for line in lines if line.startswith("Cpus_allowed_list")}
    return found


@pytest.mark.slow  # starts processes
@pytest.mark.skipif(len(CORES) < 2, reason="there is one core")
def test_processes_keep_to_their_cores(tmp_path, opened):
    servable = opened(write_model(tmp_path), cpus=[(CORES[0],), (CORES[1],)])
    status = servable.worker_status
    assert [allowed(one.pid) for one in status.instances] == [{str(CORES[0])}, {str(CORES[1])}]
    assert allowed(os.getpid()) == {placement.told(CORES)}, "the server's own are as they were"
    os.kill(status.instances[1].pid, signal.SIGKILL)
    wait_until(lambda: not servable.members[1].is_up(), "the end of the second")
    wait_until(servable.members[1].is_up, "the return of the second")
    assert allowed(servable.members[1].worker_status.pid) == {str(CORES[1])}


@pytest.mark.slow  # starts processes, imports onnxruntime in them
def test_threads_follow_the_cores(tmp_path, opened):
    (tmp_path / "model.py").write_text(
        "import os\n"
        "import numpy as np\n"
        "from stfs.platforms.base import usable_cores\n"
        'X = {"name": "x", "dtype": "float32", "shape": [None]}\n'
        'Y = {"name": "y", "dtype": "int64", "shape": [None]}\n'
        'signature = {"inputs": [X], "outputs": [Y]}\n'
        "def predict(inputs):\n"
        '    return {"y": np.full(len(inputs["x"]), usable_cores())}\n'
    )
    x = {"x": np.zeros(1, np.float32)}
    one = opened(tmp_path, find("python"), cpus=[(CORES[0],)])
    assert one.run(SIGNATURE, x)["y"].tolist() == [1]
    shared = opened(tmp_path, find("python"), instances=2)
    assert [member.run(SIGNATURE, x)["y"].tolist() for member in shared.members] == [[max(1, all_cores() // 2)]] * 2


def test_what_cannot_be_had_is_told(tmp_path, monkeypatch):
    path = write_model(tmp_path)

    def open_it(platform=None, hosting=None, device="auto", **said):
        open_instances(
            platform or UnrulyPlatform(), path, LoadOptions("m", device=device), hosting or Hosting(), **said
        )

    with pytest.raises(ConfigError, match=r"cpus places worker processes.*isolation cannot be thread"):
        open_it(hosting=Hosting("thread"), cpus=[(CORES[0],)])
    with pytest.raises(ConfigError, match="there is no core 65535"):
        open_it(cpus=[(65535,)])
    monkeypatch.setenv(placement.VISIBLE_GPUS, "")
    with pytest.raises(ConfigError, match="there is no GPU 0"):
        open_it(OnGpus(), gpus=[0])
    monkeypatch.setenv(placement.VISIBLE_GPUS, "0,1")
    with pytest.raises(ConfigError, match="gpus: device cpu was asked for, too"):
        open_it(OnGpus(), gpus=[0], device="cpu")
    with pytest.raises(ConfigError, match="gpus: device cuda:1 was asked for, too"):
        open_it(OnGpus(), gpus=[0], device="cuda:1")
    with pytest.raises(ConfigError, match="gpus places worker processes"):
        open_it(Together(), hosting=Hosting("thread"), gpus=[0])


def test_gpus_of_one_process_are_shared_by_the_instances_there(tmp_path, opened, monkeypatch):
    monkeypatch.setenv(placement.VISIBLE_GPUS, "0,1")
    servable = opened(write_model(tmp_path), OnGpus(), gpus=[0, 1], instances=4)
    assert [member.device for member in servable.members] == ["cuda:0", "cuda:1"] * 2
    assert len(set(servable.members)) == 2
    alone = opened(write_model(tmp_path), OnGpus(), device="cuda:1")
    assert alone.device == "cuda:1"


@pytest.mark.slow  # starts processes
def test_gpus_of_processes_are_all_that_these_see(tmp_path, opened, monkeypatch):
    monkeypatch.setenv(placement.VISIBLE_GPUS, "6,7")
    servable = opened(write_model(tmp_path), gpus=[1, 0])
    for member, gpu in zip(servable.members, ("7", "6"), strict=True):
        environment = Path(f"/proc/{member.worker_status.pid}/environ").read_bytes().split(b"\0")
        assert f"CUDA_VISIBLE_DEVICES={gpu}".encode() in environment


def test_the_first_that_is_up_answers_for_all():
    class Fake(Unruly):
        def __init__(self, name, up):
            super().__init__({}, LoadOptions())
            self.name, self.up = name, up

        def is_up(self):
            return self.up

        def run(self, signature_name, inputs):
            return self.name

    away, there = Fake("away", up=False), Fake("there", up=True)
    both = Instances([away, there])
    assert both.run(SIGNATURE, {}) == "there"
    there.up = False
    assert not both.is_up()
    assert both.run(SIGNATURE, {}) == "away"


def test_closing_closes_all_and_tells_of_the_first_that_would_not(tmp_path):
    closed = tmp_path / "closed"
    servable = open_instances(
        UnrulyPlatform(), write_model(tmp_path, closed=closed, close_fails=True), LoadOptions(), Hosting(), instances=2
    )
    with pytest.raises(RuntimeError, match="closing is hard"):
        servable.close()
    assert len(closed.read_text().splitlines()) == 2
