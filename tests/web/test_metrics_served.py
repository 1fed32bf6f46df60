"""``/metrics`` of real servers: what was sent is what is counted, and ``docs/metrics.md`` lists what is there."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from deploy_files import alert_queries, dashboard_queries, names_in
from exposition import PAGE, check_queries, families, promtool, quoted, rows
from odd_estimators import Odd, write_odd
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from running import running
from simple_models import write_linear
from waiting import wait_until

from stfs import errors
from stfs.carry import snake_case
from stfs.history import REASONS
from stfs.metrics import REFUSALS, ROWS, SECONDS, STEP_SECONDS
from stfs.platforms import user_arrays
from stfs.protocols import tfserving_pb

pytestmark = pytest.mark.slow  # starts servers

OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
GOOD, ROWS_SENT, BAD = 3, 4, 2


@pytest.fixture(scope="module", params=["auto", "off"])
def server(request, tmp_path_factory):
    """Has answered ``GOOD`` requests one by one, of ``ROWS_SENT`` rows, and refused ``BAD``, and one for nobody."""
    folder = tmp_path_factory.mktemp("served")
    write_linear(folder / "4")
    argv = [str(folder), "--model_name=linear", "--max_batch_size=8", "--allowed_batch_sizes=8"]
    argv += ["--metrics_names=triton,tfserving"]
    if request.param == "off":  # where no lane is given up for it; a cache of a byte keeps nothing
        argv += ["--cache_bytes=1"]
    with running(*argv, f"--hot_path={request.param}", "--isolation=process") as server:
        for data in ([[1, 2, 3]], [[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]):
            assert server.post("/", {"data": {"x": data}}).status == 200
        for _ in range(BAD):
            assert server.post("/", {"data": {"x": [["no", 2, 3]]}}).status == 400
        assert server.post("/v1/models/none:predict", {"instances": [[1]]}).status == 404
        yield server


@pytest.fixture(scope="module")
def page(server):
    answer = server.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return answer.body.decode()


def value(found, name, owner=None, **labels):
    """The sum of the samples of that name that carry these labels."""
    samples = found[owner or name].samples
    told = [number for (one, has), number in samples.items() if one == name and labels.items() <= dict(has).items()]
    assert told, f"{name} {labels}"
    return sum(told)


def test_the_page_of_the_documentation_lists_each_metric_with_its_type_and_labels(request, page):
    found = families(page)
    documented = {quoted(row[0])[0]: row for row in rows("name")}
    assert set(found) == {name for name in documented if not name.startswith(":")}
    for name, family in found.items():
        row = documented[name]
        assert family.type == row[1], name
        if name.startswith("stfs_cache_") and "[auto]" in request.node.name:
            assert not family.samples, f"{name} is of models that share answers"
            continue
        if name.startswith("stfs_front_"):
            assert not family.samples, f"{name} is of servers with fronts; tests/front holds it to its row"
            continue
        assert family.samples, f"{name} has no sample, so its labels are not known"
        labels = {"model", "version"} if name.startswith("nv_") else set(quoted(row[2]))
        assert family.labels == labels, name
        assert len(family.help) > 8, name


def test_prometheus_own_checker_has_nothing_against_our_names(page):
    ours = page[: page.index("# HELP nv_")]
    assert promtool("check", "metrics", stdin=ours) == ""


def test_what_was_sent_is_what_is_counted(page):
    found = families(page)
    us = {"model": "linear", "version": "4"}
    assert value(found, "stfs_requests_total", **us, dialect="stfs", outcome="ok") == GOOD
    assert value(found, "stfs_requests_total", **us, dialect="stfs", outcome="invalid_input") == BAD
    nobody = {"model": "-", "version": "-", "dialect": "tfserving", "outcome": "model_not_found"}
    assert value(found, "stfs_requests_total", **nobody) == 1
    counts = {
        "stfs_request_duration_seconds": GOOD + BAD,
        "stfs_decode_duration_seconds": GOOD,
        "stfs_encode_duration_seconds": GOOD,
        "stfs_queue_duration_seconds": GOOD,  # sent one after another, so each was a run
        "stfs_run_duration_seconds": GOOD,
        "stfs_batch_rows": GOOD,
    }
    for name, count in counts.items():
        assert value(found, f"{name}_count", name, **us) == count, name
        assert value(found, f"{name}_bucket", name, **us, le="+Inf") == count, name
    assert value(found, "stfs_batch_rows_sum", "stfs_batch_rows", **us) == ROWS_SENT
    assert value(found, "stfs_batches_total", **us, reason="idle") == GOOD
    assert value(found, "stfs_padded_rows_total", **us) == GOOD * 8 - ROWS_SENT
    assert value(found, "stfs_failed_batches_total", **us) == 0
    assert value(found, "stfs_version_state", **us, state="AVAILABLE") == 1
    assert value(found, "stfs_version_failed", **us) == 0
    assert value(found, "stfs_model_info", **us, platform="onnx") == 1
    assert value(found, "stfs_worker_up", **us) == 1
    assert value(found, "stfs_queued_rows", **us) == value(found, "stfs_in_flight_rows", **us) == 0


def test_the_steps_of_requests_are_parts_of_them(page):
    found = families(page)

    def total(step):
        name = f"stfs_{step}_duration_seconds"
        return value(found, f"{name}_sum", name, model="linear")

    steps = [total(step) for step in ("decode", "queue", "run", "encode")]
    assert min(steps) > 0
    assert sum(steps) <= total("request") * 1.01


def test_buckets_grow_and_have_the_bounds_that_are_documented(page):
    found = families(page)
    for name, family in found.items():
        if family.type != "histogram":
            continue
        steps = ROWS if name == "stfs_batch_rows" else SECONDS if "request" in name else STEP_SECONDS
        by_bound = {}
        for (sample, labels), count in family.samples.items():
            if sample.endswith("_bucket") and dict(labels)["model"] == "linear":
                by_bound[float(dict(labels)["le"])] = count
        assert sorted(by_bound) == [*map(float, steps), float("inf")], name
        counts = [by_bound[bound] for bound in sorted(by_bound)]
        assert counts == sorted(counts), name


def test_the_dashboard_and_the_alerts_go_by_metrics_that_there_are(page):
    told = {name for family in families(page).values() for name, _ in family.samples}
    asked = {name for query in [*dashboard_queries(), *alert_queries()] for name in names_in(query)}
    assert len(asked) > 20
    # Prometheus's own, those of several processes and those of models that share answers.
    elsewhere = {"up", "stfs_front_up", "stfs_front_restarts_total", "stfs_cache_requests_total"}
    assert asked <= told | elsewhere, asked - told


def test_triton_names_tell_the_same_in_its_own_way(page):
    found = families(page)
    us = {"model": "linear", "version": "4"}
    assert value(found, "nv_inference_request_success", **us) == GOOD
    assert value(found, "nv_inference_request_failure", **us) == BAD
    assert value(found, "nv_inference_count", **us) == ROWS_SENT
    assert value(found, "nv_inference_exec_count", **us) == GOOD
    for theirs, ours in (
        ("queue", "queue"),
        ("compute_input", "decode"),
        ("compute_infer", "run"),
        ("compute_output", "encode"),
    ):
        name = f"stfs_{ours}_duration_seconds"
        seconds = value(found, f"{name}_sum", name, **us)  # each run was of one request, so the two are one
        assert value(found, f"nv_inference_{theirs}_duration_us", **us) == pytest.approx(seconds * 1e6, abs=1), theirs
    name = "stfs_request_duration_seconds"
    with_errors = value(found, f"{name}_sum", name, **us) * 1e6
    assert 0 < value(found, "nv_inference_request_duration_us", **us) < with_errors


def test_tensorflow_serving_names_at_its_own_address(server):
    answer = server.get("/monitoring/prometheus/metrics")
    found = families(answer.body.decode())
    documented = {quoted(row[0])[0]: row[1] for row in rows("name") if row[0].startswith("`:")}
    assert {name: family.type for name, family in found.items()} == documented
    assert value(found, ":tensorflow:serving:request_count", model_name="linear", status="OK") == GOOD


def test_the_names_of_others_are_there_only_where_they_are_asked_for(tmp_path):
    write_linear(tmp_path / "4")
    with running(str(tmp_path)) as server:
        assert server.post("/", {"data": {"x": [[1, 2, 3]]}}).status == 200
        assert server.get("/monitoring/prometheus/metrics").status == 404
        assert "nv_" not in server.get("/metrics").body.decode()
        answer = server.call("GET", "/metrics", headers=OPEN_METRICS)
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        read = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        assert read["stfs_requests"].type == "counter"
        counted = [s.value for s in read["stfs_requests"].samples if s.name == "stfs_requests_total"]
        assert counted == [1.0]
        assert {name for name, family in read.items() if family.unit} == set()  # units are parts of the names
        told = families(server.get("/metrics").body.decode())
        text_names = {re.sub("_total$", "", name) for name in told}
        assert set(read) == text_names


def test_requests_that_share_a_run_each_have_their_part_in_it(tmp_path):
    write_odd(tmp_path / "1", sleep_s=0.05)
    argv = (str(tmp_path), "--model_name=odd", "--metrics_names=triton", "--calibrate=false", "--batch_timeout_ms=150")
    with running(*argv) as server, ThreadPoolExecutor(8) as pool:
        address = "/v1/models/odd:predict"
        bodies = [{"instances": [[float(n)]]} for n in range(1, 9)]
        answers = list(pool.map(lambda body: server.post(address, body), bodies))
        assert {answer.status for answer in answers} == {200}
        assert server.post(address, {"instances": [[Odd.RAISE]]}).status >= 400
        found = families(server.get("/metrics").body.decode())
    runs = value(found, "nv_inference_exec_count", model="odd")
    assert runs < 8  # some came together
    assert value(found, "nv_inference_count", model="odd") == 8
    shared_s = value(found, "nv_inference_compute_infer_duration_us", model="odd") / 1e6
    assert shared_s >= 8 * 0.05  # each of them was in a run of at least so long
    assert value(found, "stfs_failed_batches_total", model="odd") >= 1
    assert value(found, "stfs_requests_total", model="odd") == 9


def test_a_version_that_cannot_be_loaded_is_told(tmp_path):
    write_linear(tmp_path / "1")
    argv = (str(tmp_path), "--model_name=linear", "--model_version_policy=all", "--max_load_retries=0")
    with running(*argv, "--model_poll_interval_s=0.1") as server:
        assert server.metric("stfs_version_failed") == 0
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "model.onnx").write_bytes(b"no model")
        wait_until(lambda: server.metric("stfs_version_failed", model="linear", version="2") == 1, log=server.log)
        assert server.metric("stfs_version_failed", model="linear", version="1") == 0
        assert server.metric("stfs_version_state", version="2", state="END") == 1


def test_every_outcome_is_documented():
    def below(kind):
        found = {kind} | {found for one in kind.__subclasses__() for found in below(one)}
        return {one for one in found if one.__module__.startswith("stfs.")}

    # Importing these modules makes two of them each.
    assert issubclass(user_arrays.BrokenPromise, errors.RequestError)
    assert issubclass(tfserving_pb.FailedPrecondition, errors.RequestError)
    # Two are never raised themselves, and one never leaves a dialect but as InvalidInput.
    not_told = {errors.RequestError, errors.NotFound, errors.BadElement}
    outcomes = {snake_case(kind.__name__) for kind in below(errors.RequestError) - not_told}
    assert {name for row in rows("outcome") for name in quoted(row[0])} == outcomes | {"ok", "internal", "cancelled"}


def test_every_reason_is_documented():
    assert {quoted(row[0])[0] for row in rows("reason")} == set(REASONS) - {"other"}


def test_every_refusal_is_documented():
    assert tuple(quoted(row[0])[0] for row in rows("refusal")) == REFUSALS


def test_the_queries_of_the_documentation_are_queries(tmp_path):
    queries = re.findall(r"```promql\n(.+?)```", PAGE.read_text(), re.DOTALL)
    assert len(queries) >= 6
    check_queries(queries, tmp_path)
