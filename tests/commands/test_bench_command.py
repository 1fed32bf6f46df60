"""``stfs bench`` on real servers: what it counts, its page, its warnings and exit statuses."""

import argparse
import itertools
import json
import re
import xml.etree.ElementTree as ET

import pytest
from running import run_cli, running
from simple_models import write_linear, write_many

from stfs.commands import bench, bench_report, charts
from stfs.commands.latencies import PERCENTILES
from stfs.commands.load import Plan, Result
from stfs.commands.remote import Server

slow = pytest.mark.slow  # starts servers
SHORT = ("--duration_s=0.4", "--warmup_s=0.1")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(str(write_linear(tmp_path_factory.mktemp("linear"))), "--model_name=lin") as one:
        yield one


def summary_of(*argv, status=0):
    done = run_cli("bench", *argv, *SHORT, "--json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


@slow
def test_an_open_and_a_closed_loop(server, tmp_path):
    before = server.metric("stfs_requests_total", model="lin", outcome="ok")
    page = tmp_path / "page.html"
    opened = summary_of(f"{server.url}/v1/models/lin", "--rate=200", "--check_answers", "--report", str(page))
    counted = server.metric("stfs_requests_total", model="lin", outcome="ok") - before
    assert opened["loop"] == "open"
    assert opened["sent"] == opened["succeeded"] == opened["statuses"]["200"]
    assert 20 <= opened["sent"] < counted <= 200, "warm-up and a first try are sent, too, and not counted"
    assert opened["failed"] == opened["different_answers"] == 0
    assert list(opened["latency_ms"]) == ["min", "mean", *(f"p{p:g}" for p in PERCENTILES), "max"]
    ordered = [opened["latency_ms"][f"p{p:g}"] for p in PERCENTILES]
    assert ordered == sorted(ordered)
    assert opened["service_ms"]["max"] <= opened["latency_ms"]["max"]
    text = page.read_text()
    assert "http://" not in text.replace(f"{server.url}/", "")
    assert "<script" not in text
    assert text.count("<svg") == 3
    closed = summary_of(server.url, "--model_name=lin", "--connections=2")
    assert (closed["loop"], closed["connections"], closed["failed"]) == ("closed", 2, 0)
    assert closed["answers_per_s"] > 0


@slow
@pytest.mark.parametrize("dialect", ["stfs", "tfserving", "oip"])
def test_bodies_are_made_of_what_the_server_tells(dialect, tmp_path):
    write_many(tmp_path)
    with running(str(tmp_path)) as many:
        told = summary_of(many.url, "--dialect", dialect, "--rate=50", "--rows=3", "--check_answers")
        assert told["failed"] == told["different_answers"] == 0
        assert told["succeeded"] > 0


@slow
def test_bodies_of_a_file_and_for_people(server, tmp_path):
    lines = tmp_path / "bodies.jsonl"
    lines.write_text('{"inputs": [[1, 2, 3]]}\n\n{"inputs": [[4, 5, 6], [7, 8, 9]]}\n')
    done = run_cli("bench", f"{server.url}/v1/models/lin", "--data", f"@{lines}", "--rate=100", *SHORT)
    assert done.returncode == 0, done.stderr
    for told in ("lin:predict: open loop, 100 requests/s", "answers/s", "p99.9", "from sending", "of a core"):
        assert told in done.stdout, done.stdout
    assert done.stderr == ""


@slow
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["http://127.0.0.1:1"], "no answer from"),
        (["{}", "--model_name=lin", "--data", '{"data": [[1]]}'], "answers 400"),
        (["{}", "--model_name=none"], "does not tell what model none takes"),
        (["{}", "--rate=0"], "--rate: expected"),
        (["{}", "--rate=fast"], "'fast' is no number"),
        (["{}", "--duration_s=0"], "--duration_s: expected"),
        (["{}", "--report=/nowhere/at/all.html"], "there is no folder /nowhere/at"),
    ],
)
def test_what_cannot_be_measured_ends_with_status_2(argv, said, server):
    done = run_cli("bench", *(part.format(server.url) if part == "{}" else part for part in argv))
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("stfs bench: error: ")
    assert said in line


@slow
def test_a_server_that_refuses_some_ends_with_status_1(tmp_path):
    (tmp_path / "model.py").write_text(
        "class Model:\n"
        "    signature = {'inputs': [{'name': 'x', 'dtype': 'float32', 'shape': [None]}],\n"
        "                 'outputs': [{'name': 'y', 'dtype': 'float32', 'shape': [None]}]}\n"
        "    def __init__(self, folder): pass\n"
        "    def predict(self, inputs):\n"
        "        if (inputs['x'] == 7).any(): raise ValueError('seven')\n"
        "        return {'y': inputs['x']}\n"
    )
    (tmp_path / "bodies.jsonl").write_text('{"data": [1]}\n{"data": [7]}\n')
    with running(str(tmp_path / "model.py")) as server:
        told = summary_of(server.url, "--data", f"@{tmp_path / 'bodies.jsonl'}", "--rate=50", status=1)
    assert set(told["statuses"]) == {"200", "400"}
    assert told["failed"] == told["statuses"]["400"] > 0
    assert "seven" in told["first_error"]


def page_of(result, *, is_open):
    gaps = itertools.repeat(0.1) if is_open else None
    plan = Plan(Server("127.0.0.1", 1), "/<b>", [b"{}"], 1, 0.0, 2.0, gaps, 1.0)
    given = argparse.Namespace(rate=10.0 if is_open else None, arrivals="constant")
    summary = bench.summarize(plan, result, given, "linear", "stfs", "today")
    return summary, bench_report.render(summary, result)


def test_the_page_is_well_formed_whatever_there_was():
    empty = Result()
    empty.failures["connection lost"] = 3
    empty.measured_s = 2.0
    full = Result(first_error="<script>", cpu_share=0.99, measured_s=2.0)
    for i in range(3000):
        full.latencies.add(0.001 * (i + 1))
        full.service.add(0.0005)
        full.statuses[200] += 1
        full.answered_in_second[i % 2] += 1
    full.failed_in_second[1] = 5
    for result, is_open in itertools.product((empty, full), (True, False)):
        summary, page = page_of(result, is_open=is_open)
        json.dumps(summary, allow_nan=False)
        for svg in re.findall(r"<svg.*?</svg>", page):
            for number in re.findall(r'(?:x|y|width|height)="(-?[\d.]+)"', ET.tostring(ET.fromstring(svg)).decode()):
                assert 0 <= float(number) <= charts.WIDTH
        assert "/<b>" not in page
        assert "<script>" not in page
    assert "99% of a core" in page


def test_axes_hold_their_values_and_are_round():
    assert charts.linear_axis(12.0, "").high == 12.5
    assert [text for _, text in charts.linear_axis(0.0, "").ticks] == ["0", "1"]
    axis = charts.log_axis(0.3, 40.0, "")
    assert [text for _, text in axis.ticks] == ["0.1", "1", "10", "100"]
    assert charts.round_up(0.0021) == 0.0025
