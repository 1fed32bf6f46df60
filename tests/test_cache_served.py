"""Answers that are kept, over a real server: a model whose answers differ from run to run shows which were run."""

import concurrent.futures
import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from running import running
from simple_models import save

pytestmark = pytest.mark.slow  # starts servers

PREDICT = "/v1/models/default:predict"


def write_noisy(folder):
    """``y = x + noise``, another noise in each run, over float32 ``x`` [n, 2]."""
    graph = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["x"], ["noise"]), helper.make_node("Add", ["x", "noise"], ["y"])],
        "noisy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )
    return save(graph, folder)


def ask(server, *row, headers=None):
    answer = server.post(PREDICT, {"instances": [list(row)]}, headers)
    assert answer.status == 200, answer.body
    return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    write_noisy(folder / "1")
    return folder


def test_kept_by_input_told_and_counted_and_gone_with_the_version(folder, tmp_path):
    models = shutil.copytree(folder, tmp_path / "models")
    with running(str(models), "--cache_bytes=1M", "--model_poll_interval_s=0.1") as server:
        ask(server, 0, 0)  # the noise of a version's first request is that of every version's
        first = ask(server, 1, 2, headers={"X-Server-Timing": "1"})
        again = ask(server, 1, 2, headers={"X-Server-Timing": "1"})
        assert first.body == again.body
        assert 'cache;desc="miss"' in first.headers["Server-Timing"]
        assert 'cache;desc="hit"' in again.headers["Server-Timing"]
        assert ask(server, 1, 3).body != first.body
        values = first.json["predictions"]
        stfs = server.post("/", {"data": [[1.0, 2.0]]}).json["y"]
        np.testing.assert_array_equal(np.float32(stfs), np.float32(values))
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        v2 = server.post("/v2/models/default/infer", {"inputs": [tensor]}).json["outputs"][0]["data"]
        np.testing.assert_array_equal(np.float32(v2), np.float32(values[0]))
        assert server.metric("stfs_cache_requests_total", result="hit") == 3
        assert server.metric("stfs_cache_requests_total", result="miss") == 3
        assert 0 < server.metric("stfs_cache_bytes") < 1 << 20
        wrong = {"instances": [[1]]}
        assert [server.post(PREDICT, wrong).status for _ in range(2)] == [400, 400]
        stats = server.get("/v2/models/default/stats").json["model_stats"][0]["inference_stats"]
        assert (stats["cache_hit"]["count"], stats["cache_miss"]["count"]) == (3, 3)

        shutil.copytree(folder / "1", models / ".2")
        (models / ".2").rename(models / "2")
        for _ in range(3000):
            if (fresh := ask(server, 1, 2)).headers["X-Served-Model-Version"] == "2":
                break
        assert fresh.headers["X-Served-Model-Version"] == "2"
        assert fresh.body != first.body, "what version 1 has said is not what version 2 says"
        assert ask(server, 1, 2).body == fresh.body


def test_off_unless_asked_for(folder):
    with running(str(folder)) as server:
        assert ask(server, 1, 2).body != ask(server, 1, 2).body
        assert "cache" not in ask(server, 1, 2, headers={"X-Server-Timing": "1"}).headers["Server-Timing"]
        assert server.metric("stfs_cache_requests_total") == 0


@pytest.mark.parametrize("flags", [["--engine=auto"], ["--engine=replicated"]])
def test_requests_of_all_fronts_are_looked_at(folder, flags):
    """In one cache, but where each front has the model for itself by the operator's own choice."""
    with running(str(folder), "--cache_bytes=1M", "--workers=2", *flags) as server:
        rows = [(n % 4, 1) for n in range(64)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # a connection each, so that both fronts have some
            bodies = list(pool.map(lambda row: (row, ask(server, *row).body), rows))
        told = {row: {body for asked, body in bodies if asked == row} for row in set(rows)}
        caches = 2 if flags == ["--engine=replicated"] else 1
        assert all(len(answers) <= caches for answers in told.values())
        results = {what: server.metric("stfs_cache_requests_total", result=what) for what in ("hit", "miss", "shared")}
        assert sum(results.values()) == 64
        assert 4 <= results["miss"] <= 4 * caches
        timed = ask(server, 0, 1, headers={"X-Server-Timing": "1"})
        assert 'cache;desc="' in timed.headers["Server-Timing"]


def test_loading_by_tritons_configuration(folder):
    with running(str(folder), "--model_control=explicit") as server:
        config = json.dumps({"response_cache": {"enable": True}})
        load = "/v2/repository/models/default/load"
        assert "response_cache" not in server.get("/v2/models/default/config").json
        assert server.post(load, {"parameters": {"config": config}}).status == 200
        told = server.get("/v2/models/default/config").json
        assert told["response_cache"] == {"enable": True}
        assert server.post(load, {"parameters": {"config": json.dumps(told)}}).status == 200
        assert ask(server, 1, 2).body == ask(server, 1, 2).body
        refused = server.post(load, {"parameters": {"config": json.dumps({"response_cache": 1})}})
        assert refused.status == 400
        assert "response_cache" in refused.error


def test_the_model_is_as_random_as_it_is_said_to_be(folder):
    assert any(node.op_type == "RandomNormalLike" for node in onnx.load(folder / "1" / "model.onnx").graph.node)
