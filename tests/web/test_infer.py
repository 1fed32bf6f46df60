"""Answers over HTTP in both dialects: right ones, and the clear refusal of wrong ones, each followed by a right one."""

import base64
import json
import math
import socket
import threading

import pytest

ROW = [1.0, 2.5, -3.0]
DOUBLE = [2.0, 5.0, -6.0]


def assert_serves(server):
    answer = server.post("/", {"model_name": "linear", "data": {"x": [ROW]}})
    assert (answer.status, answer.json) == (200, {"y": [DOUBLE]})


# --- right answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"model_name": "linear", "data": {"x": [ROW]}},
        {"model_name": "linear", "model_version": 1, "data": {"x": [ROW]}},
        {"model_name": "linear", "model_version": "1", "signature_name": "serving_default", "data": {"x": [ROW]}},
        {"data": {"x": [ROW]}, "signature_name": None, "model_version": None, "model_name": "linear"},
        {"model_name": "linear", "data": [ROW]},
        {"model_name": "linear", "data": {"data": [ROW]}},
        {"model_name": "linear", "x": [ROW]},
        {"model_name": "linear", "run_profile": "", "preprocess": False, "data": {"x": [ROW]}},
    ],
)
def test_stfs_forms_of_one_request(server, body):
    answer = server.post("/", body)
    assert (answer.status, answer.json) == (200, {"y": [DOUBLE]})
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/models/linear:predict", {"instances": [ROW]}, {"predictions": [DOUBLE]}),
        ("/v1/models/linear/versions/1:predict", {"instances": [ROW, ROW]}, {"predictions": [DOUBLE, DOUBLE]}),
        ("/V1/Models/linear:Predict", {"instances": [{"x": ROW}]}, {"predictions": [DOUBLE]}),
        ("/v1/models/lin%65ar:predict", {"inputs": [ROW]}, {"outputs": [DOUBLE]}),
        ("/v1/models/linear:predict", {"inputs": {"x": [ROW], "extra": "ignored"}}, {"outputs": [DOUBLE]}),
        ("/v1/models/linear:predict", {"inputs": [ROW], "signature_name": "serving_default"}, {"outputs": [DOUBLE]}),
    ],
)
def test_tfserving_forms_of_one_request(server, path, body, expected):
    answer = server.post(path, body)
    assert (answer.status, answer.json) == (200, expected)


def test_tfserving_ignores_the_content_type_and_what_follows_the_value(server):
    answer = server.call("POST", "/v1/models/linear:predict", json.dumps({"instances": [ROW]}) + " trailing")
    assert (answer.status, answer.json) == (200, {"predictions": [DOUBLE]})


EVERY_KIND = {
    "whole": [-(2**31), 7],
    "long": [-(2**63), 2**63 - 1],
    "flag": [True, False],
    "text": ["naïve 🙂", ""],
    "real": [[0.1, 1e-300], [1e300, -0.0]],
}


def test_every_dtype_comes_back_bit_for_bit(server):
    answer = server.post("/", {"model_name": "many", "data": EVERY_KIND})
    assert answer.status == 200
    assert answer.json == {f"{name}_out": value for name, value in EVERY_KIND.items()}
    assert math.copysign(1, answer.json["real_out"][1][1]) == -1


def test_named_rows_and_columns_say_the_same(server):
    rows = [{name: values[i] for name, values in EVERY_KIND.items()} for i in range(2)]
    by_row = server.post("/v1/models/many:predict", {"instances": rows})
    by_column = server.post("/v1/models/many:predict", {"inputs": EVERY_KIND})
    assert by_row.json["predictions"] == [{f"{n}_out": v[i] for n, v in EVERY_KIND.items()} for i in range(2)]
    assert by_column.json["outputs"] == {f"{name}_out": value for name, value in EVERY_KIND.items()}


def test_not_a_number_and_infinity_are_read_and_written(server):
    body = '{"model_name": "linear", "data": {"x": [[NaN, Infinity, -Infinity]]}}'
    answer = server.post("/", body)
    assert answer.body == b'{"y":[[NaN,Infinity,-Infinity]]}'


@pytest.mark.parametrize("encoded", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_values_are_decoded_where_the_model_takes_strings(server, encoded):
    raw = "ÿþ?>~".encode()
    value = {"b64": encoded(raw).decode()}
    body = EVERY_KIND | {"text": [value, "plain"]}
    assert server.post("/", {"model_name": "many", "data": body}).json["text_out"] == [raw.decode(), "plain"]
    stripped = {name: values if name != "text" else [value["b64"].rstrip("=")] * 2 for name, values in body.items()}
    answer = server.post("/", {"model_name": "many", "base64_decode": True, "data": stripped})
    assert answer.json["text_out"] == [raw.decode()] * 2


def test_floats_that_are_whole_serve_integers_in_stfs_only(server):
    whole = EVERY_KIND | {"whole": [11.0, 2.0]}
    assert server.post("/", {"model_name": "many", "data": whole}).json["whole_out"] == [11, 2]
    refused = server.post("/v1/models/many:predict", {"inputs": whole})
    assert refused.status == 400
    assert '"whole"' in refused.error


def test_a_large_request_is_split_and_joined(server):
    rows = [[float(i), i / 2, -float(i)] for i in range(1000)]
    answer = server.post("/", {"model_name": "linear", "data": {"x": rows}})
    assert answer.json["y"] == [[2 * v for v in row] for row in rows]
    assert server.metric("stfs_batch_rows_bucket", model="linear", le="128.0") == server.metric(
        "stfs_batch_rows_count", model="linear"
    )


# --- bad input -------------------------------------------------------------------------------------------------------

LINEAR = {"model_name": "linear"}

BAD_STFS = [
    ("malformed", '{"model_name": "linear", "data": {"x": [[1, 2,]]}}', 400, ["malformed JSON at byte 46"]),
    ("cut short", '{"model_name": "linear", "data": {"x": [[1, 2', 400, ["malformed JSON at byte 45"]),
    ("after the end", '{"model_name": "linear", "data": [[1, 2, 3]]} x', 400, ["malformed JSON at byte 46"]),
    ("empty body", "", 400, ["malformed JSON at byte 0"]),
    ("not an object", "[1, 2]", 400, ["must be a JSON object, not array"]),
    ("not UTF-8", b'{"model_name": "\xff", "data": [[1, 2, 3]]}', 400, ["malformed JSON at byte 16"]),
    ("wrong dtype", LINEAR | {"data": {"x": [["a", 2, 3]]}}, 400, ['model "linear"', 'input "x"', "[0][0]", "string"]),
    ("null", LINEAR | {"data": {"x": [[None, 2, 3]]}}, 400, ['model "linear"', 'input "x"', "[0][0]", "null"]),
    ("wrong rank", LINEAR | {"data": {"x": ROW}}, 400, ['model "linear"', 'input "x"', "[3]", "[?, 3]"]),
    ("wrong width", LINEAR | {"data": {"x": [[1, 2]]}}, 400, ['model "linear"', 'input "x"', "[1, 2]", "[?, 3]"]),
    ("ragged", LINEAR | {"data": {"x": [ROW, [1, 2]]}}, 400, ['model "linear"', 'input "x"', "[1]", "3"]),
    ("float overflow", LINEAR | {"data": {"x": [[1e39, 2, 3]]}}, 400, ['input "x"', "[0][0]", "out of range"]),
    ("missing", LINEAR | {"data": {}}, 400, ['model "linear"', 'input "x"', "missing"]),
    ("no data", LINEAR, 400, ['"data" is missing']),
    ("unknown input", LINEAR | {"data": {"x": [ROW], "z": 1}}, 400, ['model "linear"', 'input "z"', "unknown", '"x"']),
    ("unknown model", {"model_name": "nope", "data": {}}, 400, ['no model "nope"', '"linear"']),
    ("no default model", {"data": {"x": [ROW]}}, 400, ['no model "default"', '"linear"']),
    ("unknown version", LINEAR | {"model_version": 9, "data": [ROW]}, 400, ['"linear"', "version 9", "1"]),
    ("wrong version", LINEAR | {"model_version": 1.5, "data": [ROW]}, 400, ['"model_version"', "1.5"]),
    ("negative version", LINEAR | {"model_version": -1, "data": [ROW]}, 400, ['"model_version"', "-1"]),
    ("version in words", LINEAR | {"model_version": "one", "data": [ROW]}, 400, ['"model_version"', "'one'"]),
    ("unknown signature", LINEAR | {"signature_name": "s", "data": [ROW]}, 400, ['"linear"', '"s"', "serving_default"]),
    ("name of a wrong type", {"model_name": 7, "data": []}, 400, ['"model_name" must be a string, not number']),
    ("deep nesting", '{"model_name": "linear", "data": {"x": ' + "[" * 5000 + "]" * 5000 + "}}", 400, []),
    ("deep nesting elsewhere", '{"x": ' + "[" * 100000, 400, []),
    ("several inputs unnamed", {"model_name": "many", "data": [1]}, 400, ['model "many"', '"whole", "long"']),
    ("int64 out of range", {"model_name": "many", "data": EVERY_KIND | {"long": [2**63, 0]}}, 400, ['"long"', "[0]"]),
    ("int32 out of range", {"model_name": "many", "data": EVERY_KIND | {"whole": [2**31, 0]}}, 400, ['"whole"', "[0]"]),
    ("a fraction", {"model_name": "many", "data": EVERY_KIND | {"whole": [0, 1.5]}}, 400, ['"whole"', "[1]"]),
    ("no flag", {"model_name": "many", "data": EVERY_KIND | {"flag": [True, 1]}}, 400, ['"flag"', "[1]"]),
    ("bad base64", {"model_name": "many", "data": EVERY_KIND | {"text": ["", {"b64": "*"}]}}, 400, ['"text"', "[1]"]),
    ("rows that differ", {"model_name": "many", "data": EVERY_KIND | {"flag": [True]}}, 400, ['"flag" has 1']),
    ("a model that raises", {"model_name": "odd", "data": [[-1]]}, 500, ['model "odd"', "RuntimeError", "cursed"]),
    ("a wrong number of rows", {"model_name": "odd", "data": [[-2]]}, 500, ['model "odd"', '"predict"', "2", "1"]),
    ("a model that exits", {"model_name": "odd", "data": [[-3]]}, 500, ['model "odd"', "SystemExit"]),
]

NOT_FOUND = "Servable not found for request:"
NO_SIGNATURE = 'Serving signature name: "s" not found in signature def'

BAD_TFSERVING = [
    ("malformed", "linear:predict", '{"instances": [1 2]}', 400, ["JSON Parse error: ", "at offset: 17"]),
    ("neither form", "linear:predict", "{}", 400, ["Missing 'inputs' or 'instances' key"]),
    ("both forms", "linear:predict", {"instances": [ROW], "inputs": [ROW]}, 400, ["only one of", "once"]),
    ("no rows", "linear:predict", {"instances": []}, 400, ['"instances" is empty']),
    ("instances no list", "linear:predict", {"instances": {"x": ROW}}, 400, ['"instances" must be a list, not object']),
    ("ragged", "linear:predict", {"instances": [ROW, [1]]}, 400, ['model "linear"', 'input "x"', "[1]"]),
    ("a row lacks an input", "many:predict", {"instances": [{"whole": 1}]}, 400, ["row 0", '"flag"']),
    ("a row has another", "linear:predict", {"instances": [{"z": ROW}]}, 400, ['"z"', "unknown", '"x"']),
    ("rows of two kinds", "linear:predict", {"instances": [{"x": ROW}, ROW]}, 400, ["[1] is array"]),
    ("ragged named rows", "linear:predict", {"instances": [{"x": ROW}, {"x": [1]}]}, 400, ['input "x"', "3"]),
    ("a missing input", "many:predict", {"inputs": {"whole": [1]}}, 400, ['model "many"', '"long"', "missing"]),
    ("unknown model", "nope:predict", {"instances": [1]}, 404, [f"{NOT_FOUND} Latest(nope)"]),
    ("unknown version", "linear/versions/9:predict", {"instances": [1]}, 404, [f"{NOT_FOUND} Specific(linear, 9)"]),
    ("unknown label", "linear/labels/x:predict", {"instances": [1]}, 400, ["Unrecognized servable version label: x"]),
    ("unknown signature", "linear:predict", {"signature_name": "s", "instances": [ROW]}, 400, [NO_SIGNATURE]),
    ("unknown verb", "linear:guess", {"instances": [ROW]}, 400, ["Malformed request: POST /v1/models/linear:guess"]),
    ("a model that raises", "odd:predict", {"instances": [[-1]]}, 500, ['model "odd"', "cursed"]),
]


@pytest.mark.parametrize(("body", "status", "told"), [case[1:] for case in BAD_STFS], ids=[c[0] for c in BAD_STFS])
def test_stfs_bad_input_gets_a_clear_error(server, body, status, told):
    answer = server.post("/", body)
    assert answer.status == status, answer.body
    for part in told:
        assert part in answer.error
    assert_serves(server)


@pytest.mark.parametrize(
    ("path", "body", "status", "told"), [case[1:] for case in BAD_TFSERVING], ids=[c[0] for c in BAD_TFSERVING]
)
def test_tfserving_bad_input_gets_a_clear_error(server, path, body, status, told):
    answer = server.post(f"/v1/models/{path}", body)
    assert answer.status == status, answer.body
    for part in told:
        assert part in answer.error
    assert_serves(server)


def test_another_content_type_is_refused_in_the_seeds_words(server):
    body = json.dumps(LINEAR | {"data": [ROW]})
    answer = server.call("POST", "/", body, {"Content-Type": "text/plain"})
    assert (answer.status, answer.error) == (400, "Error, unsupported content type")
    assert "application/json" in answer.json["detail"]
    assert_serves(server)


def test_a_body_over_the_limit_is_refused_before_it_is_read(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
        )
        head = client.recv(4096)
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"over the limit of 1048576 bytes" in head
    assert_serves(server)


def test_a_chunked_body_over_the_limit_is_refused(server):
    connection = server.connect()
    chunks = (b" " * 65536 for _ in range(40))
    connection.request("POST", "/", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert "over the limit" in json.loads(response.read())["error"]
    connection.close()
    assert_serves(server)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("PUT", "/", 405), ("GET", "/nope", 404), ("DELETE", "/v1/models/linear", 400)]
)
def test_no_such_address_or_verb(server, method, path, status):
    answer = server.call(method, path)
    assert answer.status == status
    assert path in answer.error


def test_a_wrong_timeout_header_is_named(server):
    answer = server.post("/", LINEAR | {"data": [ROW]}, {"X-Request-Timeout-Ms": "soon"})
    assert answer.status == 400
    assert "X-Request-Timeout-Ms" in answer.error


def test_one_bad_request_never_fails_its_neighbours(server):
    """Forty good requests and one cursed one, sent together and again and again: batches form, only one fails."""
    answers: dict[int, list] = {}

    def client(number: int) -> None:
        value = -1.0 if number == 20 else float(number)
        answers[number] = [server.post("/", {"model_name": "odd", "data": [[value]]}) for _ in range(5)]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(41)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, got in answers.items():
        for answer in got:
            if number == 20:
                assert answer.status == 500
                assert "cursed" in answer.error
            else:
                assert (answer.status, answer.json) == (200, {"predict": [2.0 * number]})
