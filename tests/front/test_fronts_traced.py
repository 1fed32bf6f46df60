"""Traces of a server of several processes: a front tells of its requests, the main process of the batches."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from odd_estimators import write_odd
from running import running
from trace_collector import SERVER, attributes, collecting

pytestmark = pytest.mark.slow  # servers of several processes

STEPS = ["decode", "queue", "run", "encode"]


@pytest.mark.parametrize("engine", ["shared", "replicated"])
def test_requests_of_all_fronts_are_traced_and_linked_to_their_batches(tmp_path, engine):
    write_odd(tmp_path / "1")
    argv = (str(tmp_path), "--model_name=odd", "--batch_timeout_ms=200", "--workers=2", f"--engine={engine}")
    with (
        collecting() as collector,
        running(*argv, f"--tracing={collector.url}") as server,
        ThreadPoolExecutor(12) as pool,
    ):
        bodies = [{"instances": [[float(n)]]} for n in range(1, 13)]
        answers = pool.map(lambda body: server.post("/v1/models/odd:predict", body), bodies)
        assert [answer.json["predictions"] for answer in answers] == [[2.0 * n] for n in range(1, 13)]
        assert server.stop() == 0  # every process sends what it has left
    requests = {span.span_id: span for span in collector.spans if span.kind == SERVER}
    assert len(requests) == 12
    batches = {span.span_id: span for span in collector.named("batch")}
    assert len(batches) < 12  # some ran together
    linked = Counter(link.span_id for batch in batches.values() for link in batch.links)
    assert linked == dict.fromkeys(requests, 1)
    for batch in batches.values():
        assert attributes(batch)["stfs.batch.rows"] == len(batch.links)
        assert attributes(batch)["stfs.model.name"] == "odd"
        assert requests[batch.parent_span_id].trace_id == batch.trace_id
    for request in requests.values():
        steps = [step for step in collector.children(request) if step.name != "batch"]
        assert [step.name for step in steps] == STEPS
        (link,) = steps[2].links
        assert request.span_id in {member.span_id for member in batches[link.span_id].links}
