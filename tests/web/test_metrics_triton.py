from prometheus_client.parser import text_string_to_metric_families

from stfs.metrics import Metrics
from stfs.web.metrics_triton import exposition


def recorded():
    metrics = Metrics()
    metrics.record_request("m", "1", "oip", "ok", 0.004, 0.001, 0.0005)
    metrics.record_request("m", "1", "oip", "ok", 0.006, 0.001, 0.0005)
    metrics.record_request("m", "1", "oip", "overloaded", 9.0)
    metrics.record_request("m", "2", "oip", "invalid_input", 9.0)
    metrics.record_request('a"b', "1", "stfs", "ok", 0.001)
    metrics.record_request("-", "-", "oip", "model_not_found", 9.0)
    run = {"padded": 3, "queue_s": 0.0001, "run_s": 0.002, "reason": "idle"}
    metrics.record_batch("m", "1", rows=9, requests=2, failed=False, **run)
    metrics.record_batch("m", "1", rows=50, requests=5, failed=True, **run)
    metrics.record_cache("m", "1", "hit", 3)
    metrics.record_cache("m", "1", "miss", 2)
    metrics.record_cache("m", "1", "shared", 9)
    return metrics


def values(model, version):
    """What the page says of one version, by name."""
    escaped = model.replace('"', '\\"')
    labels = f'{{model="{escaped}",version="{version}"}} '
    lines = [line.partition(labels) for line in exposition(recorded()).splitlines()]
    return {name: float(value) for name, found, value in lines if found}


def test_times_are_of_requests_that_succeeded_and_a_run_counts_for_each_of_its_requests():
    assert values("m", "1") == {
        "nv_inference_request_success": 2,
        "nv_inference_request_failure": 1,
        "nv_inference_count": 9,
        "nv_inference_exec_count": 1,
        "nv_inference_request_duration_us": 10_000,
        "nv_inference_queue_duration_us": 200,
        "nv_inference_compute_input_duration_us": 2_000,
        "nv_inference_compute_infer_duration_us": 4_000,
        "nv_inference_compute_output_duration_us": 1_000,
        "nv_cache_num_hits_per_model": 3,
        "nv_cache_num_misses_per_model": 2,
    }


def test_a_version_that_has_only_failed_and_a_name_to_be_escaped():
    assert values("m", "2")["nv_inference_request_failure"] == 1
    assert values("m", "2")["nv_inference_request_success"] == 0
    assert values('a"b', "1")["nv_inference_request_success"] == 1


def test_requests_that_reached_no_model_are_not_there():
    assert values("-", "-") == {}
    assert exposition(Metrics()).count("# TYPE nv_inference_") == 9


def test_prometheus_reads_it():
    families = list(text_string_to_metric_families(exposition(recorded())))
    assert len(families) == 11
    assert {len(family.samples) for family in families} == {3}


def test_names_types_and_help_are_tritons_own():
    for line in exposition(recorded()).splitlines():
        assert line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(("nv_inference_", "nv_cache_"))
        assert not line.startswith("# TYPE") or line.endswith(" counter")
