"""``stfs diff`` between real servers, across dialects, with and without differences."""

import json

import pytest
from running import run_cli, running
from simple_models import write_linear, write_many

pytestmark = pytest.mark.slow  # starts servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two whose models differ by a factor."""
    folder = tmp_path_factory.mktemp("models")
    with (
        running(str(write_linear(folder / "a", 2.0)), "--model_name=lin") as first,
        running(str(write_linear(folder / "b", 2.002)), "--model_name=lin") as second,
    ):
        yield first.url, second.url


def compared(*argv, status=0):
    done = run_cli("diff", *argv, "--json")
    assert done.returncode == status, (done.stdout, done.stderr)
    return json.loads(done.stdout)


DIALECTS = [("stfs", "stfs"), ("tfserving", "oip"), ("stfs", "tfserving"), ("oip", "stfs")]


@pytest.mark.parametrize("pair", DIALECTS)
def test_every_pair_of_dialects(pair, servers):
    first, second = servers
    flags = ("--model_name=lin", "--dialect1", pair[0], "--dialect2", pair[1], "--requests=6", "--rows=3")
    same = compared(first, first, *flags)
    assert (same["requests"], same["answered_by_both"], same["different"]) == (6, 6, 0)
    other = compared(first, second, *flags, status=1)
    assert other["different"] == 6
    found = other["first_differences"][0]["differences"][0]
    assert found["path"] == "y[0][0]"
    assert float(found["second"]) == pytest.approx(1.001 * float(found["first"]), rel=1e-4)
    assert compared(first, second, *flags, "--rtol=0.01")["different"] == 0


def test_every_dtype_across_dialects(tmp_path):
    write_many(tmp_path)
    with running(str(tmp_path)) as server:
        for one, two in (("stfs", "oip"), ("tfserving", "oip")):
            report = compared(server.url, server.url, "--dialect1", one, "--dialect2", two, "--requests=3", "--rows=2")
            assert report["answered_by_both"] == 3


def test_requests_of_a_file_refusals_and_words_for_people(servers, tmp_path):
    first, second = servers
    lines = tmp_path / "bodies.jsonl"
    lines.write_text('{"inputs": {"x": [[0, 0, 0]]}}\n{"inputs": {"x": [[1]]}}\n{"inputs": {"x": [[1, 0, 0]]}}\n')
    report = compared(first, second, "--model_name=lin", "--data", f"@{lines}", status=1)
    assert (report["requests"], report["answered_by_both"], report["different"]) == (3, 2, 1)
    assert report["first_differences"][0]["request"] == 2
    across = compared(first, first, "--model_name=lin", "--data", f"@{lines}", "--dialect2=oip")
    assert (across["answered_by_both"], across["different"]) == (2, 0)
    done = run_cli("diff", f"{first}/v1/models/lin", f"{second}/v1/models/lin", "--requests=7", "--show=2")
    assert done.returncode == 1
    assert "0 of 7 answers are the same" in done.stdout
    assert "and 5 more" in done.stdout


def test_one_that_refuses_what_the_other_answers_differs(servers, tmp_path):
    write_linear(tmp_path)
    with running(str(tmp_path), "--enable_auth", "--auth_password=p", "--model_name=lin") as closed:
        report = compared(servers[0], closed.url, "--model_name=lin", "--requests=1", status=1)
        (found,) = report["first_differences"][0]["differences"]
        assert (found["path"], found["first"], found["second"][:3]) == ("status", "200", "401")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--data", '{"data": [[1]]}'), "both refuse every request"),
        (("--data", '{"instances": [[1, 2, 3]]}', "--dialect2=oip"), "name the tensors in columns"),
        (("--data", '{"inputs": ', "--dialect2=oip"), "--data: "),
        (("--rtol=-1",), "--rtol"),
    ],
)
def test_what_cannot_be_compared_ends_with_status_2(more, said, servers):
    done = run_cli("diff", servers[0], servers[0], "--model_name=lin", *more)
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert said in line
