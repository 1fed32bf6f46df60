import re

from prometheus_client.parser import text_string_to_metric_families

from stfs.metrics import Metrics
from stfs.web.metrics_tfserving import exposition


def recorded():
    metrics = Metrics()
    metrics.record_request("m", "1", "tfserving", "ok", 0.0004)
    metrics.record_request("m", "2", "tfserving", "ok", 0.002)
    metrics.record_request("m", "2", "tfserving_grpc", "invalid_input", 0.02)
    metrics.record_request("m", "2", "tfserving", "malformed_json", 100.0)
    metrics.record_request('a"b', "1", "tfserving", "overloaded", 0.001)
    metrics.record_request("-", "-", "tfserving", "model_not_found", 0.001)
    metrics.record_batch("m", "1", rows=2, padded=0, queue_s=0.5, run_s=0.0015, reason="idle", failed=False)
    return exposition(metrics.snapshot())


def test_requests_by_model_and_status():
    lines = [line for line in recorded().splitlines() if line.startswith(":tensorflow:serving:request_count{")]
    assert lines == [
        ':tensorflow:serving:request_count{model_name="a\\"b",status="UNAVAILABLE"} 1',
        ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 2',
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 2',
    ]


def test_latencies_add_up_the_versions_in_microseconds():
    page = recorded()
    name = ":tensorflow:serving:request_latency"
    assert f'{name}_bucket{{model_name="m",le="500"}} 1' in page
    assert f'{name}_bucket{{model_name="m",le="2500"}} 2' in page
    assert f'{name}_bucket{{model_name="m",le="25000"}} 3' in page
    assert f'{name}_bucket{{model_name="m",le="+Inf"}} 4' in page
    assert f'{name}_count{{model_name="m"}} 4' in page
    assert f'{name}_sum{{model_name="m"}} 100022400' in page
    assert ':tensorflow:serving:runtime_latency_sum{model_name="m"} 1500' in page
    assert ':tensorflow:serving:batching_session:queuing_latency_sum{model_name="m"} 500000' in page


def test_prometheus_reads_it():
    families = {family.name: family.type for family in text_string_to_metric_families(recorded())}
    assert families == {
        ":tensorflow:serving:request_count": "counter",
        ":tensorflow:serving:request_latency": "histogram",
        ":tensorflow:serving:runtime_latency": "histogram",
        ":tensorflow:serving:batching_session:queuing_latency": "histogram",
    }


def test_nothing_recorded_is_a_page_too():
    page = exposition(Metrics().snapshot())
    assert re.findall(r"^# TYPE (\S+) counter$", page, re.MULTILINE) == [":tensorflow:serving:request_count"]
