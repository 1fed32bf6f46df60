"""The pure parts of the comparison of servers: wrk's output, ratios, bars, tables, and the history of ratios."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks.serving import history, plots, report, results, wrk  # noqa: E402
from benchmarks.serving.__main__ import chosen, stored  # noqa: E402
from benchmarks.serving.environments import parse_pythons, python_of  # noqa: E402
from benchmarks.serving.peers import ALL  # noqa: E402
from benchmarks.serving.processes import core_busy_ticks, cpu_ticks  # noqa: E402
from benchmarks.serving.results import Ratio  # noqa: E402
from benchmarks.serving.turns import MODEL_ALONE, Turn  # noqa: E402
from benchmarks.serving.works import Work, answer_of, is_right  # noqa: E402

NAN = float("nan")


def turn(server: str, rate: float, number: int = 0, **other) -> Turn:
    values = {
        "work": "mlp",
        "load": "64 connections",
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_us": 1e5 / rate,
        "others": 0.0,
    }
    return Turn(server=server, rate=rate, round=number, errors=0, **{**values, **other})


def test_what_wrk_tells_is_read_and_refusals_are_no_answers():
    told = '{"answers": 300, "microseconds": 2000000, "p50_us": 1500.5, "p99_us": 9000, "refused": 100, "broken": 3}'
    load = wrk.parse(f"Running 2s test @ http://127.0.0.1:1\n  1 threads and 64 connections\nBENCH {told}\n")
    assert load == wrk.Load(300, 2.0, 1.5005, 9.0, 100, 3)
    assert load.rate == 100.0


def test_wrk_without_figures_is_an_error_that_shows_its_words():
    with pytest.raises(ValueError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_a_ratio_is_of_the_same_round():
    # The machine was half as fast in the second round: both servers saw it, the ratio does not.
    turns = [turn("stfs", 400, 0), turn("triton", 100, 0), turn("stfs", 200, 1), turn("triton", 50, 1)]
    assert results.ratio(turns, "mlp", "64 connections", "stfs", "triton") == Ratio(4, 4, 4)
    turns.append(turn("stfs", 900, 2))  # without the other in its round it says nothing
    turns += [turn("stfs", 300, 3), turn("triton", 50, 3)]
    assert results.ratio(turns, "mlp", "64 connections", "stfs", "triton") == Ratio(4, 4, 6)


def test_less_cpu_time_is_a_ratio_above_one():
    turns = [turn("stfs", 1, cpu_us=20.0), turn("triton", 1, cpu_us=80.0)]
    assert results.ratio(turns, "mlp", "64 connections", "stfs", "triton", "cpu_us") == Ratio(4, 4, 4)


def test_no_round_in_common_and_unknown_figures_give_no_ratio():
    turns = [turn("stfs", 1, 0), turn("triton", 1, 1), turn("elsewhere", 1, 0, cpu_us=NAN)]
    assert results.ratio(turns, "mlp", "64 connections", "stfs", "triton") is None
    assert results.ratio(turns, "mlp", "64 connections", "stfs", "elsewhere", "cpu_us") is None
    assert results.ratio(turns, "identity", "64 connections", "stfs", "triton") is None
    assert results.of_rounds([(1.0, 0.0)]) is None


def test_summaries_are_medians_and_count_disturbed_rounds():
    turns = [turn("stfs", rate, n, others=others) for n, (rate, others) in enumerate([(5, 0.0), (1, 0.4), (3, 0.09)])]
    (summary,) = results.summaries(turns)
    assert (summary.rate, summary.rounds, summary.disturbed) == (3, 3, 1)
    (summary,) = results.summaries([turn("stfs-workers2", 1, others=NAN)])
    assert summary.disturbed is None  # the load shares its cores


def test_a_bar_is_against_the_best_of_those_that_took_part():
    turns = [turn("stfs", 800), turn("triton", 100), turn("triton-batched", 160), turn("fastapi-best", 700)]
    (reached,) = results.bars(turns)
    assert (reached.best, reached.rate.median, reached.holds) == ("triton-batched", 5.0, True)
    (reached,) = results.bars([*turns[1:], turn("stfs", 600)])
    assert not reached.holds
    assert results.bars(turns[1:]) == []


def test_a_bar_reached_by_rates_alone_is_not_reached():
    turns = [turn("stfs", 800, cpu_us=50.0), turn("triton", 100, cpu_us=100.0)]
    (reached,) = results.bars(turns)
    assert (reached.verdict, reached.holds) == ("by rate only", False)


def test_the_model_alone_is_compared_under_any_load():
    turns = [
        turn("stfs", 95, work="resnet", load="4 connections"),
        turn(MODEL_ALONE, 100, work="resnet", load="no server"),
    ]
    (reached,) = results.bars(turns)
    assert reached.rate.median == pytest.approx(0.95)
    assert reached.holds


def test_bars_name_servers_that_exist():
    names = {*ALL, MODEL_ALONE}
    for bar in results.BARS:
        assert {bar.server, *bar.against} <= names
    assert {*results.PEERS} <= names


def test_tables_tell_every_server_fastest_first():
    text = results.work_table([turn("triton", 1234.5), turn("stfs", 5000)], "mlp", "64 connections")
    lines = text.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["stfs", "triton"]
    assert "| 1,234 |" in lines[3]
    assert "| 4.05 (4.05 to 4.05) |" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("value", "told"), [(NAN, "-"), (0.01234, "0.0123"), (99.96, "100"), (12345.6, "12,346"), (4.0, "4")]
)
def test_numbers_have_three_digits(value, told):
    assert results.number(value) == told


def test_csv_has_every_turn():
    lines = results.as_csv([turn("stfs", 2.0)]).splitlines()
    assert lines[0].split(",") == list(Turn.__dataclass_fields__)
    assert lines[1].startswith("mlp,64 connections,stfs,0,2.0,")


WORK = Work("mlp", "", Path(), np.zeros((1, 2)), np.array([[0.25, 0.75]]), "y")


@pytest.mark.parametrize(
    "body",
    [
        b'{"predictions": [[0.25, 0.75]]}',
        b'{"predictions": [{"y": [0.25, 0.75], "class": 1}]}',
        b'{"outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [0.25, 0.75]}]}',
        b"[[0.25, 0.7500001]]",
    ],
)
def test_right_answers_of_every_form(body):
    assert answer_of(body, "y").shape == (1, 2)
    assert is_right(body, WORK)


@pytest.mark.parametrize(
    "body",
    [
        b'{"predictions": [[0.25, 0.76]]}',
        b'{"predictions": [[0.25]]}',
        b'{"error": "no such model"}',
        b'{"predictions": [{"class": 1}]}',
        b'{"outputs": [{"name": "a", "shape": [1], "data": [1]}, {"name": "b", "shape": [1], "data": [1]}]}',
        b"not JSON",
        b"",
    ],
)
def test_wrong_answers_and_none_are_wrong(body):
    assert not is_right(body, WORK)


def test_bodies_carry_four_digits_in_each_form():
    work = Work("", "", Path(), np.array([[0.1234, 0.5]], np.float32), np.zeros((1, 1)), "y")
    assert work.body("instances") == b'{"instances":[[0.1234,0.5]]}'
    assert work.body("x") == b'{"x":[[0.1234,0.5]]}'
    (tensor,) = json.loads(work.body("v2"))["inputs"]
    assert tensor == {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.1234, 0.5]}


def test_cpu_time_is_read_past_a_name_with_brackets():
    stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 10 0 0 0 123 45 6 7 20 0 1 0 100 1 1"
    assert cpu_ticks(stat) == 168


def test_a_core_is_busy_with_processes_and_not_with_interrupts():
    stat = "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 1 2 4 1000 2000 8 16 32 64 64\ncpu10 9 9 9 9 9 9 9 9 9 9\n"
    assert core_busy_ticks(stat, 0) == 39
    with pytest.raises(ValueError, match="core 1"):
        core_busy_ticks(stat, 1)


def record(**ratios: Ratio) -> history.Record:
    return history.Record("2026-11-22", "abc1234", "a machine", ratios)


def test_slower_means_by_more_than_the_rounds_differ():
    before = record(steady=Ratio(2.0, 1.98, 2.02), noisy=Ratio(2.0, 1.5, 2.5), gone=Ratio(1, 1, 1))
    now = record(noisy=Ratio(1.6, 1.5, 1.7), steady=Ratio(1.8, 1.79, 1.81), new=Ratio(1, 1, 1))
    changes = {change.name: change for change in history.compare(before, now)}
    assert set(changes) == {"steady", "noisy"}
    assert changes["steady"].slower
    assert changes["steady"].factor == pytest.approx(0.9)
    assert not changes["noisy"].slower  # 20 % down, where rounds differ by 25 %
    text = history.changes_table(now, list(changes.values()))
    verdicts = {line.split("|")[1].strip(): line.split("|")[5].strip() for line in text.splitlines()[2:]}
    assert verdicts == {"noisy": "as before", "steady": "SLOWER", "new": "new"}


def test_a_change_within_the_floor_is_neither_slower_nor_faster():
    same = Ratio(1.0, 1.0, 1.0)
    for factor, slower, faster in (
        (0.96, False, False),
        (0.94, True, False),
        (1.04, False, False),
        (1.06, False, True),
    ):
        (change,) = history.compare(record(a=same), record(a=Ratio(factor, factor, factor)))
        assert (change.slower, change.faster) == (slower, faster)


def test_one_round_that_went_astray_hides_no_great_loss():
    (change,) = history.compare(record(a=Ratio(4.8, 3.0, 21.0)), record(a=Ratio(3.2, 3.1, 3.3)))
    assert change.slower


def test_the_history_gives_back_what_was_appended_last(tmp_path):
    path = tmp_path / "history.jsonl"
    assert history.last(path) is None
    history.append(path, record(a=Ratio(1, 0.9, 1.1)))
    history.append(path, record(a=Ratio(2, 1.9, 2.1)))
    assert history.last(path) == record(a=Ratio(2, 1.9, 2.1))


def test_a_damaged_history_says_what_is_wrong(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"date": "2026-11-22"}\n')
    with pytest.raises(ValueError, match="ratios"):
        history.last(path)


def test_the_committed_history_can_be_read():
    last = history.last(ROOT / "benchmarks" / "history.jsonl")
    assert last is not None
    assert all(0 < each.low <= each.median <= each.high < math.inf for each in last.ratios.values())


def test_peers_whose_environment_is_not_here_are_left_out_and_told(tmp_path):
    python = tmp_path / "python"
    python.touch()
    peers, missing = chosen("stfs,triton,tensorflow-serving", ALL, {"triton": tmp_path / "none"}, "")
    assert [peer.name for peer in peers] == ["stfs"]
    assert missing == ["triton: no environment triton", "tensorflow-serving: not given by --tfs-url"]
    peers, missing = chosen("triton,tensorflow-serving", ALL, {"triton": python}, "http://127.0.0.1:1/x")
    assert len(peers) == 2
    assert missing == []
    assert python_of(ALL["triton"], {"triton": python}) == python
    with pytest.raises(ValueError, match="no server 'nginx'"):
        chosen("nginx", ALL, {}, "")


def test_interpreters_are_named_by_peer():
    assert parse_pythons(["a=/b/c=d"]) == {"a": Path("/b/c=d")}
    with pytest.raises(ValueError, match="expected NAME=PATH"):
        parse_pythons(["/usr/bin/python"])


def test_a_report_of_stored_results_has_its_bars_tables_and_conditions(tmp_path):
    turns = [turn("stfs", 5000), turn("triton", 1000)]
    kept = {"conditions": {"commit": "abc1234"}, "notes": ["left out: ray"], "works": {"mlp": "an MLP"}}
    (tmp_path / "results.json").write_text(json.dumps({**kept, "turns": [vars(each) for each in turns]}))
    got, works, conditions, notes = stored([tmp_path / "results.json"])
    assert got == turns
    text = report.markdown(got, works, conditions, notes, [Path("mlp.png")])
    assert "| commit | abc1234 |" in text
    assert "| MLP, 64 connections, to Triton | triton | 4 | 5 (5 to 5) | 5 (5 to 5) | yes |" in text
    assert "![an MLP](mlp.png)" in text
    assert "- left out: ray" in text
    html = plots.page(text, [])
    assert html.count("<table>") == sum(line.startswith("| ---") for line in text.splitlines()) == 3
    assert "<td>abc1234</td>" in html
