"""A model of every platform in one server at once: no framework disturbs another, and no answer is mixed up."""

import pytest
from conformance.conftest import why_not
from conformance.examples import EXAMPLES
from conformance.mixed import drive, write_config
from running import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REQUESTS = 1000
CALLERS = 16


def test_a_thousand_mixed_requests_are_all_answered_rightly(workshop, tmp_path):
    served = [identifier for identifier in EXAMPLES if not why_not(identifier)]
    if len(served) < 2:
        pytest.skip("fewer than two platforms are installed")
    examples = [workshop.make(identifier) for identifier in served]
    with running(f"--model_config_file={write_config(examples, tmp_path / 'models.json')}") as server:
        tally = drive(server, examples, REQUESTS, CALLERS)
        assert tally.wrong == []
        assert sum(tally.right.values()) == REQUESTS
        assert set(tally.right) == set(served)
        listed = {entry["model_name"]: entry["platform"] for entry in server.get("/v1/models").json}
        assert listed == {identifier: EXAMPLES[identifier].platform for identifier in served}
        assert server.stop() == 0
